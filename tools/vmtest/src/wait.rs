//! Waiting for conditions: the only place where the harness lets time pass.

use std::thread;
use std::time::{Duration, Instant};

/// A guest boots within this time, also on an emulated CPU under load.
pub const BOOT: Duration = Duration::from_secs(120);
/// A command in the guest, a request to the VMM, the end of a process take at most this long.
pub const COMMAND: Duration = Duration::from_secs(60);
/// A fuzzer makes all its requests within this time.
pub const FUZZING: Duration = Duration::from_secs(400);

const STEP: Duration = Duration::from_millis(20);

/// Asks `condition` again and again until it has a value.
///
/// # Panics
/// It has none by the deadline; `what` says what was awaited.
pub fn until<T>(limit: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {} s for {what}", limit.as_secs());
        thread::sleep(STEP);
    }
}

/// As [`until`], for a condition without a value.
///
/// # Panics
/// It is still false at the deadline.
pub fn until_true(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    until(limit, what, || condition().then_some(()));
}

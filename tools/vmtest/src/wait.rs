//! Waiting for conditions: the only place where the harness lets time pass.
//!
//! A limit is said for a machine at full speed. An emulated CPU, or one that others keep busy, gets as many times longer as a fixed
//! piece of work takes longer there. It is measured only when a limit is reached, so that it costs nothing while all goes well and tells
//! of the machine as it is then.

use std::fmt::Write as _;
use std::hint::black_box;
use std::io::{self, Read};
use std::ops::Mul;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long to wait before giving up.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// On a machine at full speed; slower ones get longer.
    at_full_speed: Duration,
    /// On any machine: room for what has nothing to do with its speed.
    at_least: Duration,
}

/// A guest boots within this time.
pub const BOOT: Limit = Limit::seconds(12, 120);
/// A command in the guest, a request to the VMM, the end of a process take at most this long.
pub const COMMAND: Limit = Limit::seconds(6, 60);
/// A program that makes many requests, or prints much, makes the next one within this time.
pub const PROGRESS: Limit = Limit::seconds(20, 120);
/// A whole test. What it waits for has shorter limits: this one ends tests that hang in other ways.
pub const TEST: Limit = Limit::seconds(180, 600);

/// How often conditions are asked for.
pub const STEP: Duration = Duration::from_millis(20);

impl Limit {
    const fn seconds(at_full_speed: u64, at_least: u64) -> Self {
        Self { at_full_speed: Duration::from_secs(at_full_speed), at_least: Duration::from_secs(at_least) }
    }

    fn on_a_machine(self, slowness: f64) -> Duration {
        self.at_full_speed.mul_f64(slowness).max(self.at_least)
    }
}

impl Mul<Limit> for u32 {
    type Output = Limit;

    fn mul(self, limit: Limit) -> Limit {
        Limit { at_full_speed: self * limit.at_full_speed, at_least: self * limit.at_least }
    }
}

/// The end of a limit that has begun.
#[derive(Debug)]
pub struct Deadline {
    limit: Limit,
    begin: Instant,
    /// When to look at the machine's speed (again).
    due: Instant,
}

impl Deadline {
    /// The limit begins now.
    pub fn after(limit: Limit) -> Self {
        let begin = Instant::now();
        Self { limit, begin, due: begin + limit.on_a_machine(1.0) }
    }

    /// The limit begins anew, because there was progress.
    pub fn restart(&mut self) {
        *self = Self::after(self.limit);
    }

    /// True once the time is up on a machine as slow as this one.
    pub fn has_passed(&mut self) -> bool {
        if Instant::now() < self.due {
            return false;
        }
        self.due = self.begin + self.limit.on_a_machine(slowness());
        Instant::now() >= self.due
    }

    /// For a failure's text: how long it was.
    pub fn waited_s(&self) -> u64 {
        self.begin.elapsed().as_secs()
    }
}

/// How many times longer than on a machine at full speed a fixed piece of work takes here, at least 1; the most that was ever seen by
/// this process, because what is waited for began in the past.
pub fn slowness() -> f64 {
    /// What the work takes in a debug build on a core of some 3 GHz with nothing else to do.
    const AT_FULL_SPEED: Duration = Duration::from_millis(20);
    /// Beyond this something else is wrong, and a test that hangs is to end some day.
    const MOST: f64 = 60.0;
    /// In thousandths.
    static SEEN: AtomicU64 = AtomicU64::new(1000);
    let begin = Instant::now();
    black_box(work());
    let now = (begin.elapsed().as_secs_f64() / AT_FULL_SPEED.as_secs_f64()).min(MOST);
    let now = (now * 1000.0) as u64;
    SEEN.fetch_max(now, Ordering::Relaxed).max(now) as f64 / 1000.0
}

/// Longer than a scheduler's turn. Writing numbers is the standard library's work, which is optimised in a debug build too.
fn work() -> usize {
    let mut text = String::new();
    let mut length = 0;
    for number in 0..100_000u32 {
        text.clear();
        let _ = write!(text, "{}", f64::from(number) / 7.0);
        length += text.len();
    }
    length
}

/// Asks `condition` again and again until it has a value.
///
/// # Panics
/// It has none by the deadline; `what` says what was awaited.
pub fn until<T>(limit: Limit, what: &str, condition: impl FnMut() -> Option<T>) -> T {
    until_or_idle(limit, what, || 0, condition)
}

/// As [`until`], but the limit begins anew whenever `progress` has another value.
///
/// # Panics
/// Neither the condition nor the progress changed within the limit.
pub fn until_or_idle<T>(
    limit: Limit,
    what: &str,
    mut progress: impl FnMut() -> u64,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let mut deadline = Deadline::after(limit);
    let mut so_far = progress();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        let now = progress();
        if now != so_far {
            so_far = now;
            deadline.restart();
        }
        assert!(!deadline.has_passed(), "waited {} s for {what}", deadline.waited_s());
        thread::sleep(STEP);
    }
}

/// As [`until`], for a condition without a value.
///
/// # Panics
/// It is still false at the deadline.
pub fn until_true(limit: Limit, what: &str, mut condition: impl FnMut() -> bool) {
    until(limit, what, || condition().then_some(()));
}

/// A stream from which each read takes at most `limit`.
#[derive(Debug)]
pub struct Patient<S> {
    /// The stream.
    pub stream: S,
    limit: Limit,
}

impl<S> Patient<S> {
    /// Puts a limit on a stream's reads.
    pub fn new(stream: S, limit: Limit) -> Self {
        Self { stream, limit }
    }
}

impl<S: Read + AsFd> Read for Patient<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let step = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let mut deadline = Deadline::after(self.limit);
        loop {
            let mut watched = [PollFd::new(&self.stream, PollFlags::IN)];
            match poll(&mut watched, Some(&step)) {
                Ok(0) if deadline.has_passed() => return Err(io::ErrorKind::TimedOut.into()),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return self.stream.read(buffer),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    const NONE: Limit = Limit::seconds(0, 0);

    #[test]
    fn slow_machines_get_longer_and_fast_ones_the_least() {
        let limit = 2 * Limit::seconds(5, 60);
        assert_eq!(limit.on_a_machine(1.0), Duration::from_secs(120));
        assert_eq!(limit.on_a_machine(20.0), Duration::from_secs(200));
    }

    #[test]
    #[should_panic(expected = "for what never comes")]
    fn a_limit_ends() {
        until_true(NONE, "what never comes", || false);
    }

    #[test]
    fn progress_begins_the_limit_anew() {
        let asked = Cell::new(0);
        let progress = || {
            asked.set(asked.get() + 1);
            asked.get()
        };
        // Without a moment to wait, only what goes on is waited for.
        assert_eq!(
            until_or_idle(Limit::seconds(0, 1), "three", progress, || (asked.get() > 3).then_some(7)),
            7
        );
    }

    #[test]
    fn reads_end_at_the_limit() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut theirs = Patient::new(theirs, NONE);
        let mut buffer = [0; 8];
        assert_eq!(theirs.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::TimedOut);
        ours.write_all(b"late").unwrap();
        assert_eq!(theirs.read(&mut buffer).unwrap(), 4);
    }
}

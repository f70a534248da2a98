//! Legacy and platform devices: what a PC has on its board rather than in a slot (`spec/devices.md` §2 and §4).

pub mod acpi;
pub mod cmos;
pub mod debug;
pub mod i8042;
pub mod pvpanic;
pub mod serial;

use std::time::{Duration, SystemTime};

/// A clock a device reads; tests bring their own.
pub type Clock = Box<dyn Fn() -> Duration + Send>;

/// The host's time of day, UTC, since 1970. A host clock before that reads as 1970.
pub fn wall_clock() -> Clock {
    Box::new(|| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// Time since this call. It counts while the host sleeps, as a hypervisor's clocks do.
pub fn stopwatch() -> Clock {
    let start = host::boot_time();
    Box::new(move || host::boot_time().saturating_sub(start))
}

//! The host's time since its boot (`CLOCK_BOOTTIME`).
//!
//! The clock of `std` stands still while the host sleeps. That of `rustix` looks for the kernel's fast path with a system call that
//! our filters refuse.

use std::time::Duration;

/// Time since the host's boot. It counts while the host sleeps.
pub fn boot_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes a `timespec` to the pointer, which is one. It cannot fail: every kernel with KVM has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_the_kernel_says() {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let later = boot_time().as_secs_f64();
        assert!(later + 0.02 >= seconds, "{later} {seconds}");
        assert!(boot_time().as_secs_f64() >= later, "it goes forward");
    }
}

//! The guest's clocks, and what a pause does to them: nothing. They all run on, so that after a resume they agree with each other and
//! the guest's wall clock agrees with the host's.
//!
//! | clock | kept by | through a pause | through a save and restore |
//! |---|---|---|---|
//! | time stamp counter | the CPU | runs on: no hypervisor can hold it without changing its offset on every vCPU at the same moment | is set forward by the real time that passed |
//! | paravirtual clock ([`GuestClock`]) | the hypervisor | runs on, because it is computed from the host's counter | is set forward by the real time that passed |
//! | local APIC timers | the hypervisor | run on; what came due is delivered after the resume | go on from the saved registers; one that waits for a count of the time stamp counter is due at that count |
//! | ACPI PM timer | `chipset` | runs on with the host's boot time, as the paravirtual clock does | is set forward by the real time that passed |
//! | CMOS clock | `chipset` | shows the host's wall clock | the same |
//!
//! Linux compares its clock source with another one (its watchdog) and calls it unstable when one stands still while the other goes on. A
//! clock held through a pause would be just that, and set back to where it was would leave the guest's wall clock behind for good. So
//! those that a guest may count its time by are all set forward together after a restore, each by the host's real time that passed since it
//! was read: the real time is what hosts have in common, and a guest whose clock source is the time stamp counter has the right wall clock
//! at once. The counters of a machine's vCPUs keep their exact distances to each other ([`crate::TscReading::offset`]).
//! [`crate::Vcpu::note_pause`] tells a guest that it was held, so that it does not take the gap for a lock-up.

use serde::{Deserialize, Serialize};

use crate::Error;

/// A reading of the guest's paravirtual clock, and of the host's at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockReading {
    /// Nanoseconds since the guest's boot.
    pub guest_ns: u64,
    /// The host's real time: nanoseconds since 1970, UTC.
    pub host_ns: u64,
}

impl ClockReading {
    /// What the guest's clock shows when the host's real time is `host_ns`, in nanoseconds. A host whose clock was set back since the
    /// reading does not set the guest's back.
    pub fn at(&self, host_ns: u64) -> u64 {
        self.guest_ns.saturating_add(host_ns.saturating_sub(self.host_ns))
    }
}

/// The guest's paravirtual clock.
pub trait GuestClock {
    /// Reads it.
    ///
    /// # Errors
    /// [`Error::Operation`].
    fn read(&self) -> Result<ClockReading, Error>;

    /// Makes the clock of a machine that was saved go on: from the reading, set forward by the real time that has passed since.
    ///
    /// # Errors
    /// [`Error::Operation`].
    fn set(&self, reading: ClockReading) -> Result<(), Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_s_clock_follows_the_host_s_forward_only() {
        let reading = ClockReading { guest_ns: 100, host_ns: 5_000 };
        assert_eq!([5_000, 5_001, 9_000].map(|host| reading.at(host)), [100, 101, 4_100]);
        assert_eq!([0, 4_999].map(|host| reading.at(host)), [100, 100]);
        let broken = ClockReading { guest_ns: u64::MAX, host_ns: 0 };
        assert_eq!(broken.at(1), u64::MAX);
    }
}

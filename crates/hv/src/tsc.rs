//! A vCPU's time stamp counter, and how it goes on after a save.

use serde::{Deserialize, Serialize};

/// A vCPU's time stamp counter at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TscReading {
    /// What it showed.
    pub ticks: u64,
    /// The host's real time at that moment: nanoseconds since 1970, UTC.
    pub host_ns: u64,
    /// Its rate, in kHz.
    pub khz: u32,
    /// How far it is ahead of a count that all vCPUs of the machine share, modulo 2^64. It means something beside the offset of another
    /// vCPU only: the difference is exact, where two readings are some time apart. `None`: the back end does not know.
    pub offset: Option<u64>,
}

impl TscReading {
    /// What the counter shows when the host's real time is `host_ns`, in nanoseconds. A host whose clock was set back since the reading
    /// does not set the counter back, as it does not set the paravirtual clock back ([`crate::ClockReading::at`]).
    pub fn at(&self, host_ns: u64) -> u64 {
        const NANOS_PER_MILLI: u128 = 1_000_000;
        let passed = u128::from(host_ns.saturating_sub(self.host_ns));
        // The counter has 64 bits and wraps; an hour at 4 GHz has 44.
        self.ticks.wrapping_add((passed * u128::from(self.khz) / NANOS_PER_MILLI) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_goes_on_at_its_rate_forward_only() {
        let reading = TscReading { ticks: 100, host_ns: 5_000_000, khz: 2_000_000, offset: None };
        assert_eq!([5_000_000, 5_000_001, 6_000_000].map(|host| reading.at(host)), [100, 102, 2_000_100]);
        assert_eq!([0, 4_999_999].map(|host| reading.at(host)), [100, 100]);
        let broken = TscReading { ticks: u64::MAX, host_ns: 0, khz: u32::MAX, offset: None };
        assert_eq!(broken.at(1_000_000), u64::from(u32::MAX) - 1);
        assert_eq!(broken.at(0), u64::MAX);
        let _ = broken.at(u64::MAX);
    }
}

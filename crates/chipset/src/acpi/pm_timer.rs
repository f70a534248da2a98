//! The power management timer: a 32-bit counter at 3.579545 MHz (ACPI 6.4 §4.8.2.1).
//!
//! It runs on while the machine is paused, because the time stamp counter and the paravirtual clock do (the head of `hv`'s module
//! `clock` has them all): guests hold their clocks against each other, and give up one that stood still meanwhile. For the same reason
//! a restored timer is set forward by the host's real time that has passed since it was saved, as those are.

use std::time::Duration;

use device::{Access, Device, Effect, Persist, Region, RestoreError, Space, read_bytes};
use serde::{Deserialize, Serialize};

use crate::Clock;

const FREQUENCY_HZ: u128 = 3_579_545;
const NANOS: u128 = 1_000_000_000;

/// The counter as it stood when it was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    ticks: u32,
    /// The host's real time at that moment: nanoseconds since 1970, UTC.
    host_ns: u64,
}

/// The counter's ports, read-only.
pub struct PmTimer {
    clock: Clock,
    real_time: Clock,
    /// What the counter shows beyond the clock's ticks, modulo 2^32.
    offset: u32,
}

impl PmTimer {
    /// Its first port.
    pub const PORT: u16 = 0x608;
    /// Bytes of the counter, a port each.
    pub const SIZE: u8 = 4;

    /// A counter that starts at 0 now and goes with `clock`. What passes between a save and a restore is counted by `real_time`.
    pub fn new(clock: Clock, real_time: Clock) -> Self {
        let mut timer = Self { clock, real_time, offset: 0 };
        timer.set(0);
        timer
    }

    fn clock_ticks(&self) -> u32 {
        ticks((self.clock)())
    }

    fn host_ns(&self) -> u64 {
        u64::try_from((self.real_time)().as_nanos()).unwrap_or(u64::MAX)
    }

    fn ticks(&self) -> u32 {
        self.clock_ticks().wrapping_add(self.offset)
    }

    fn set(&mut self, ticks: u32) {
        self.offset = ticks.wrapping_sub(self.clock_ticks());
    }
}

/// Ticks in so long a time, modulo 2^32.
fn ticks(time: Duration) -> u32 {
    (time.as_nanos() * FREQUENCY_HZ / NANOS) as u32
}

impl Device for PmTimer {
    fn regions(&self) -> Vec<Region> {
        vec![Region::new(Space::Pio, Self::PORT.into(), Self::SIZE.into(), 0)]
    }

    fn read(&mut self, at: Access, data: &mut [u8]) {
        read_bytes(self.ticks().to_le_bytes(), at.offset, data);
    }

    fn write(&mut self, _: Access, _: &[u8]) -> Effect {
        Effect::None
    }

    fn reset(&mut self) {
        self.set(0);
    }
}

impl Persist for PmTimer {
    type State = State;
    const KIND: &'static str = "acpi-pm-timer";
    const VERSION: u32 = 1;

    fn save(&self) -> State {
        State { ticks: self.ticks(), host_ns: self.host_ns() }
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        // A host whose clock was set back does not set the counter back.
        let passed = Duration::from_nanos(self.host_ns().saturating_sub(state.host_ns));
        self.set(state.ticks.wrapping_add(ticks(passed)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use device::Stateful;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    /// A timer, the milliseconds of its clock and those of the real time.
    fn timer() -> (PmTimer, [Arc<AtomicU64>; 2]) {
        let millis = [77, 1_000_000].map(|millis| Arc::new(AtomicU64::new(millis)));
        (PmTimer::new(clock(&millis[0]), clock(&millis[1])), millis)
    }

    fn clock(millis: &Arc<AtomicU64>) -> Clock {
        let millis = millis.clone();
        Box::new(move || Duration::from_millis(millis.load(Ordering::SeqCst)))
    }

    fn read(timer: &mut PmTimer) -> u32 {
        let mut data = [0xff; 4];
        timer.read(Access { region: 0, offset: 0 }, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn it_counts_at_its_frequency_and_wraps() {
        let (mut timer, [millis, _]) = timer();
        assert_eq!(read(&mut timer), 0);
        millis.store(2077, Ordering::SeqCst);
        // The start itself lies between two ticks.
        assert!(read(&mut timer).abs_diff(2 * 3_579_545) <= 1);
        millis.store(2_000_077_000, Ordering::SeqCst);
        let wrapped = (2_000_077u64 * 3_579_545) as u32;
        assert!(read(&mut timer).wrapping_sub(wrapped).wrapping_add(280_000) < 300_000);
        let mut middle = [0xff; 2];
        timer.read(Access { region: 0, offset: 1 }, &mut middle);
        assert_eq!(u32::from(u16::from_le_bytes(middle)), read(&mut timer) >> 8 & 0xffff);
    }

    #[test]
    fn a_restored_counter_is_set_forward_by_the_real_time_that_passed() {
        let (mut old, [millis, _]) = timer();
        millis.store(1077, Ordering::SeqCst);
        let saved = old.to_saved().unwrap();
        let stood = read(&mut old);
        // Another machine, whose own clock has nothing to do with it.
        for (now, passed) in [(1_000_000, 0), (1_000_500, 3_579_545 / 2), (999_000, 0)] {
            let (mut new, [millis, real_time]) = timer();
            millis.store(50_000, Ordering::SeqCst);
            real_time.store(now, Ordering::SeqCst);
            new.restore_saved(&saved).unwrap();
            assert_eq!(read(&mut new), stood + passed, "{now}");
        }
    }

    #[test]
    fn contract() {
        device::contract::check(&mut timer().0);
    }
}

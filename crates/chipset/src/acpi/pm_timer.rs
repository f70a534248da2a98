//! The power management timer: a 32-bit counter at 3.579545 MHz (ACPI 6.4 §4.8.2.1).
//!
//! It runs on while the machine is paused, because the time stamp counter and the paravirtual clock do (the head of `hv`'s module
//! `clock` has them all): guests hold their clocks against each other, and give up one that stood still meanwhile. A restored timer
//! goes on from where it was saved, as the time stamp counter does.

use device::{Access, Device, Effect, Persist, Region, RestoreError, Space, read_bytes};
use serde::{Deserialize, Serialize};

use crate::Clock;

const FREQUENCY_HZ: u128 = 3_579_545;
const NANOS: u128 = 1_000_000_000;

/// The counter as it stood when it was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    ticks: u32,
}

/// The counter's ports, read-only.
pub struct PmTimer {
    clock: Clock,
    /// What the counter shows beyond the clock's ticks, modulo 2^32.
    offset: u32,
}

impl PmTimer {
    /// Its first port.
    pub const PORT: u16 = 0x608;
    /// Bytes of the counter, a port each.
    pub const SIZE: u8 = 4;

    /// A counter that starts at 0 now and goes with `clock`.
    pub fn new(clock: Clock) -> Self {
        let mut timer = Self { clock, offset: 0 };
        timer.set(0);
        timer
    }

    fn clock_ticks(&self) -> u32 {
        ((self.clock)().as_nanos() * FREQUENCY_HZ / NANOS) as u32
    }

    fn ticks(&self) -> u32 {
        self.clock_ticks().wrapping_add(self.offset)
    }

    fn set(&mut self, ticks: u32) {
        self.offset = ticks.wrapping_sub(self.clock_ticks());
    }
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
        State { ticks: self.ticks() }
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        self.set(state.ticks);
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

    fn timer() -> (PmTimer, Arc<AtomicU64>) {
        let millis = Arc::new(AtomicU64::new(77));
        let read = millis.clone();
        (PmTimer::new(Box::new(move || Duration::from_millis(read.load(Ordering::SeqCst)))), millis)
    }

    fn read(timer: &mut PmTimer) -> u32 {
        let mut data = [0xff; 4];
        timer.read(Access { region: 0, offset: 0 }, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn it_counts_at_its_frequency_and_wraps() {
        let (mut timer, millis) = timer();
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
    fn a_restored_counter_goes_on_where_it_stood() {
        let (mut old, millis) = timer();
        millis.store(1077, Ordering::SeqCst);
        let saved = old.to_saved().unwrap();
        let stood = read(&mut old);
        millis.store(50_000, Ordering::SeqCst);
        let read_clock = millis.clone();
        let mut new =
            PmTimer::new(Box::new(move || Duration::from_millis(read_clock.load(Ordering::SeqCst))));
        new.restore_saved(&saved).unwrap();
        assert_eq!(read(&mut new), stood);
    }

    #[test]
    fn contract() {
        device::contract::check(&mut timer().0);
    }
}

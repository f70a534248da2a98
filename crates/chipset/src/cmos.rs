//! The MC146818 real-time clock and its battery-backed bytes (`spec/devices.md` §2). vCPUs enter it.
//!
//! The clock shows the host's time, UTC, in BCD; setting it changes nothing. Firmware finds the sizes of RAM in the bytes that PC
//! firmware has always looked at.

use std::time::Duration;

use device::{Access, Device, Effect, Persist, Power, Region, RestoreError, Space};
use host::calendar::Moment;
use serde::{Deserialize, Serialize};

use crate::Clock;

const INDEX: u64 = 0;
const DATA: u64 = 1;
/// Bit 7 of the index masks NMIs on real boards.
const INDEX_MASK: u8 = 0x7f;
const BYTES: usize = 128;
/// Writing 0 at this index (shutdown status with NMIs masked) is how old firmware resets.
const SHUTDOWN: u8 = 0x8f;

const STATUS_A: u8 = 0x0a;
const STATUS_D: u8 = 0x0d;
/// A 32768 Hz time base.
const TIME_BASE: u8 = 0x20;
const UPDATE_IN_PROGRESS: u8 = 0x80;
/// How long before the next second an update is announced.
const UPDATE_NOTICE: Duration = Duration::from_micros(244);
/// RAM and time are valid.
const VALID: u8 = 0x80;

const MIB16: u64 = 16 << 20;
const UNIT: u64 = 64 << 10;

/// What the guest has left in the registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    index: u8,
    bytes: Vec<u8>,
}

impl Default for State {
    fn default() -> Self {
        Self { index: 0, bytes: vec![0; BYTES] }
    }
}

/// Ports 0x70 and 0x71.
pub struct Cmos {
    state: State,
    clock: Clock,
    /// RAM above 16 MiB and below the hole, in units of 64 KiB.
    low_units: u16,
    /// RAM above 4 GiB, in units of 64 KiB; 24 bits count.
    high_units: u32,
}

impl Cmos {
    /// A clock that shows `clock` (UTC since 1970), for a machine with RAM up to address `low_ram` below 4 GiB and `high_ram` bytes
    /// above.
    pub fn new(clock: Clock, low_ram: u64, high_ram: u64) -> Self {
        let low_units = u16::try_from(low_ram.saturating_sub(MIB16) / UNIT).unwrap_or(u16::MAX);
        let high_units = u32::try_from(high_ram / UNIT).unwrap_or(u32::MAX).min(0xff_ffff);
        Self { state: State::default(), clock, low_units, high_units }
    }

    fn read_byte(&self, index: u8) -> u8 {
        let now = (self.clock)();
        let date = Moment::since_1970(now);
        match index {
            0x00 => bcd(date.second.into()),
            0x02 => bcd(date.minute.into()),
            0x04 => bcd(date.hour.into()),
            0x06 => bcd(date.week_day.into()),
            0x07 => bcd(date.day.into()),
            0x08 => bcd(date.month.into()),
            0x09 => bcd(date.year % 100),
            0x32 => bcd(date.year / 100),
            STATUS_A => {
                let updating =
                    Duration::from_nanos(now.subsec_nanos().into()) + UPDATE_NOTICE >= Duration::from_secs(1);
                TIME_BASE | if updating { UPDATE_IN_PROGRESS } else { 0 }
            }
            STATUS_D => VALID,
            0x34 => self.low_units as u8,
            0x35 => (self.low_units >> 8) as u8,
            0x5b => self.high_units as u8,
            0x5c => (self.high_units >> 8) as u8,
            0x5d => (self.high_units >> 16) as u8,
            _ => self.state.bytes.get(usize::from(index)).copied().unwrap_or(u8::MAX),
        }
    }
}

impl Device for Cmos {
    fn regions(&self) -> Vec<Region> {
        vec![Region::new(Space::Pio, 0x70, 2, 0)]
    }

    fn read(&mut self, at: Access, data: &mut [u8]) {
        match (at.offset, data) {
            (INDEX, [data]) => *data = self.state.index,
            (DATA, [data]) => *data = self.read_byte(self.state.index & INDEX_MASK),
            _ => {}
        }
    }

    fn write(&mut self, at: Access, data: &[u8]) -> Effect {
        match (at.offset, data) {
            (INDEX, [index]) => self.state.index = *index,
            (DATA, [0]) if self.state.index == SHUTDOWN => return Effect::Power(Power::Reset),
            (DATA, [value]) => {
                if let Some(byte) = self.state.bytes.get_mut(usize::from(self.state.index & INDEX_MASK)) {
                    *byte = *value;
                }
            }
            _ => {}
        }
        Effect::None
    }

    fn reset(&mut self) {
        self.state = State::default();
    }
}

impl Persist for Cmos {
    type State = State;
    const KIND: &'static str = "cmos";
    const VERSION: u32 = 1;

    fn save(&self) -> State {
        self.state.clone()
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        if state.bytes.len() != BYTES {
            return Err(RestoreError::Value { kind: Self::KIND, field: "number of bytes" });
        }
        self.state = state;
        Ok(())
    }
}

/// Two decimal digits; higher ones are cut off.
fn bcd(value: u64) -> u8 {
    (value / 10 % 10 * 16 + value % 10) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Access {
        Access { region: 0, offset }
    }

    fn read(cmos: &mut Cmos, index: u8) -> u8 {
        assert_eq!(Device::write(cmos, at(INDEX), &[index]), Effect::None);
        let mut data = [0xff];
        cmos.read(at(DATA), &mut data);
        data[0]
    }

    fn cmos_at(now: Duration) -> Cmos {
        Cmos::new(Box::new(move || now), 3 << 30, 5 << 30)
    }

    #[test]
    fn the_clock_reads_in_bcd() {
        let mut cmos = cmos_at(Duration::from_secs(1_735_689_599));
        let registers = [0x32, 9, 8, 7, 6, 4, 2, 0];
        let values = registers.map(|index| read(&mut cmos, index));
        assert_eq!(values, [0x20, 0x24, 0x12, 0x31, 0x03, 0x23, 0x59, 0x59]);
        assert_eq!(read(&mut cmos, 0x0d), 0x80);
        // The same with NMIs masked.
        assert_eq!(read(&mut cmos, 0x80 | 8), 0x12);
    }

    #[test]
    fn an_update_is_announced_before_it_comes() {
        assert_eq!(read(&mut cmos_at(Duration::from_micros(999_755)), 0x0a), 0x20);
        assert_eq!(read(&mut cmos_at(Duration::from_micros(999_756)), 0x0a), 0xa0);
    }

    #[test]
    fn memory_sizes() {
        let mut cmos = cmos_at(Duration::ZERO);
        let low = u64::from(read(&mut cmos, 0x34)) | u64::from(read(&mut cmos, 0x35)) << 8;
        assert_eq!(low * UNIT + MIB16, 3 << 30);
        let high = [0x5b, 0x5c, 0x5d].map(|index| read(&mut cmos, index));
        assert_eq!(high, [0x00, 0x40, 0x01]);
        let mut tiny = Cmos::new(Box::new(|| Duration::ZERO), 1 << 20, u64::MAX);
        assert_eq!([0x34, 0x35, 0x5b, 0x5d].map(|i| read(&mut tiny, i)), [0, 0, 0xff, 0xff]);
    }

    #[test]
    fn bytes_are_kept_and_shutdown_resets() {
        let mut cmos = cmos_at(Duration::ZERO);
        assert_eq!(read(&mut cmos, 0x0f), 0);
        assert_eq!(Device::write(&mut cmos, at(DATA), &[5]), Effect::None);
        assert_eq!(read(&mut cmos, 0x0f), 5);
        assert_eq!(read(&mut cmos, 0x8f), 5);
        assert_eq!(Device::write(&mut cmos, at(DATA), &[1]), Effect::None);
        assert_eq!(Device::write(&mut cmos, at(DATA), &[0]), Effect::Power(Power::Reset));
    }

    #[test]
    fn contract() {
        device::contract::check(&mut cmos_at(Duration::from_secs(1)));
        let short = State { bytes: vec![0; 127], ..State::default() };
        assert!(Persist::restore(&mut cmos_at(Duration::ZERO), short).is_err());
    }
}

//! The sleep control and reset register, one port for both (ACPI 6.4 §4.8.3.7).

use device::{Access, Device, Effect, Power, Region, Space, Stateless};

const PORT: u64 = 0x600;
/// The FADT's reset value.
const RESET: u8 = 1;
/// Sleep type 5 (soft off) with the enable bit.
const SOFT_OFF: u8 = 5 << 2 | 1 << 5;

/// Port 0x600. No state.
#[derive(Clone, Copy, Debug, Default)]
pub struct SleepControl;

impl Stateless for SleepControl {
    const KIND: &'static str = "sleep-control";
}

impl Device for SleepControl {
    fn regions(&self) -> Vec<Region> {
        vec![Region::new(Space::Pio, PORT, 1, 0)]
    }

    fn read(&mut self, _: Access, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, _: Access, data: &[u8]) -> Effect {
        match data.first() {
            Some(&RESET) => Effect::Power(Power::Reset),
            Some(&SOFT_OFF) => Effect::Power(Power::Off),
            _ => Effect::None,
        }
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_their_effects() {
        let at = Access { region: 0, offset: 0 };
        assert_eq!(SleepControl.write(at, &[1]), Effect::Power(Power::Reset));
        assert_eq!(SleepControl.write(at, &[0x34]), Effect::Power(Power::Off));
        for other in [0, 0x14, 0x20, 0x35, 0xff] {
            assert_eq!(SleepControl.write(at, &[other]), Effect::None);
        }
        let mut data = [0xff];
        SleepControl.read(at, &mut data);
        assert_eq!(data, [0]);
    }

    #[test]
    fn contract() {
        device::contract::check(&mut SleepControl);
    }
}

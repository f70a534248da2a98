//! The sleep control and reset register, one port for both (ACPI 6.4 §4.8.3.7).

use acpi_tables::aml::{Package, ZERO};
use device::{Access, Device, Effect, Power, Region, Space, Stateless, aml};

/// The sleep type of soft off.
const SOFT_OFF: u8 = 5;
/// What a guest writes to go there: the sleep type with the enable bit.
const ENTER_SOFT_OFF: u8 = SOFT_OFF << 2 | 1 << 5;

/// The port. No state.
#[derive(Clone, Copy, Debug, Default)]
pub struct SleepControl;

impl SleepControl {
    /// Its port.
    pub const PORT: u16 = 0x600;
    /// Writing this resets the machine.
    pub const RESET: u8 = 1;
}

impl Stateless for SleepControl {
    const KIND: &'static str = "sleep-control";
}

impl Device for SleepControl {
    fn regions(&self) -> Vec<Region> {
        vec![Region::new(Space::Pio, Self::PORT.into(), 1, 0)]
    }

    /// S5: the sleep type of soft off.
    fn aml(&self) -> Vec<u8> {
        aml::encode(&aml::name("_S5_", &Package::new(vec![&SOFT_OFF, &SOFT_OFF, &ZERO, &ZERO])))
    }

    fn read(&mut self, _: Access, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, _: Access, data: &[u8]) -> Effect {
        match data.first() {
            Some(&Self::RESET) => Effect::Power(Power::Reset),
            Some(&ENTER_SOFT_OFF) => Effect::Power(Power::Off),
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
    fn the_guest_is_told_the_type_that_switches_off() {
        let aml = SleepControl.aml();
        let [.., b'S', b'5', b'_', 0x12, _, 4, 0x0a, sleep_type, 0x0a, _, 0, 0] = aml[..] else {
            panic!("{aml:x?}")
        };
        let at = Access { region: 0, offset: 0 };
        assert_eq!(SleepControl.write(at, &[sleep_type << 2 | 1 << 5]), Effect::Power(Power::Off));
    }

    #[test]
    fn contract() {
        device::contract::check(&mut SleepControl);
    }
}

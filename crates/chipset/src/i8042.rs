//! What is left of the keyboard controller: its reset line (`spec/devices.md` §2). vCPUs enter it.

use device::{Access, Device, Effect, Power, Region, Space, Stateless};

const BASE: u64 = 0x61;
const LEN: u64 = 4;
/// Port 0x61: the speaker and timer bits.
const PORT_B: u64 = 0x61 - BASE;
/// Port 0x64: status when read, command when written.
const COMMAND: u64 = 0x64 - BASE;

/// Port B as guests expect it: the output of timer 2 is high, so that a loop which waits for it ends.
const TIMER_2_OUTPUT: u8 = 0x20;
/// Pulse the processor's reset line.
const RESET_CPU: u8 = 0xfe;

/// Ports 0x61 to 0x64. No state.
#[derive(Clone, Copy, Debug, Default)]
pub struct I8042;

impl Stateless for I8042 {
    const KIND: &'static str = "i8042";
}

impl Device for I8042 {
    fn regions(&self) -> Vec<Region> {
        vec![Region::new(Space::Pio, BASE, LEN, 0)]
    }

    fn read(&mut self, at: Access, data: &mut [u8]) {
        match (at.offset, data) {
            (PORT_B, [data]) => *data = TIMER_2_OUTPUT,
            // No key, and room for commands.
            (COMMAND, [data]) => *data = 0,
            _ => {}
        }
    }

    fn write(&mut self, at: Access, data: &[u8]) -> Effect {
        if (at.offset, data) == (COMMAND, &[RESET_CPU]) { Effect::Power(Power::Reset) } else { Effect::None }
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_reads_and_the_reset_command() {
        let at = |offset| Access { region: 0, offset };
        let read = |offset| {
            let mut data = [0xff];
            I8042.read(at(offset), &mut data);
            data[0]
        };
        assert_eq!([read(0), read(1), read(3)], [0x20, 0xff, 0]);
        assert_eq!(I8042.write(at(3), &[0xfe]), Effect::Power(Power::Reset));
        assert_eq!(I8042.write(at(3), &[0xff]), Effect::None);
        assert_eq!(I8042.write(at(0), &[0xfe]), Effect::None);
    }

    #[test]
    fn contract() {
        device::contract::check(&mut I8042);
    }
}

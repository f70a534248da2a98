//! Where a running vCPU's I/O goes: the address spaces, and what decodes in front of them. Called on vCPU threads.

use std::sync::Arc;

use device::{AddressSpaces, Effect, Event, Events, Power, Space};
use hv::VcpuIo;
use irqchip::Pins;
use memory::layout;
use pci::{ConfigPorts, address};

/// The machine as its vCPUs see it. Nothing in it is locked but the device that an access reaches.
pub(crate) struct MachineIo {
    pub(crate) spaces: Arc<AddressSpaces>,
    pub(crate) config_ports: Arc<ConfigPorts>,
    pub(crate) pins: Pins,
    pub(crate) events: Events,
}

/// What a memory address means: a PCI configuration register, or an address of a device.
fn decode(address: u64, len: usize) -> Option<(Space, u64)> {
    match address.checked_sub(layout::ECAM) {
        Some(offset) if offset < layout::ECAM_SIZE => {
            address::within_dword(offset, len).then(|| (Space::Config, address::from_ecam(offset)))
        }
        _ => Some((Space::Mmio, address)),
    }
}

fn config_port(port: u16) -> Option<u16> {
    port.checked_sub(ConfigPorts::BASE).filter(|offset| *offset < ConfigPorts::LEN)
}

impl MachineIo {
    fn apply(&self, effect: Effect) {
        match effect {
            // The bus has moved the device.
            Effect::None | Effect::Remap => {}
            Effect::Ejected => self.events.raise(Event::Ejected),
            Effect::Power(Power::Reset) => self.events.raise(Event::Reset),
            Effect::Power(Power::Off) => self.events.raise(Event::PowerOff),
        }
    }
}

impl VcpuIo for MachineIo {
    fn pio_read(&self, port: u16, data: &mut [u8]) {
        match config_port(port) {
            Some(offset) => self.config_ports.read(&self.spaces, offset, data),
            None => self.spaces.read(Space::Pio, port.into(), data),
        }
    }

    fn pio_write(&self, port: u16, data: &[u8]) {
        let effect = match config_port(port) {
            Some(offset) => self.config_ports.write(&self.spaces, offset, data),
            None => self.spaces.write(Space::Pio, port.into(), data),
        };
        self.apply(effect);
    }

    fn mmio_read(&self, address: u64, data: &mut [u8]) {
        match decode(address, data.len()) {
            Some((space, at)) => self.spaces.read(space, at, data),
            None => data.fill(0xff),
        }
    }

    fn mmio_write(&self, address: u64, data: &[u8]) {
        if let Some((space, at)) = decode(address, data.len()) {
            self.apply(self.spaces.write(space, at, data));
        }
    }

    fn end_of_interrupt(&self, vector: u8) {
        self.pins.eoi(vector);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ecam_addresses_are_configuration_registers() {
        assert_eq!(decode(layout::ECAM + 0x8004, 4), Some((Space::Config, 0x8004)));
        assert_eq!(decode(layout::ECAM + 0x9004, 2), Some((Space::Config, 0x8004)));
        assert_eq!(decode(layout::ECAM + 2, 4), None);
        assert_eq!(decode(layout::ECAM + layout::ECAM_SIZE, 4), Some((Space::Mmio, 0xf800_0000)));
        assert_eq!(decode(0xc000_0000, 8), Some((Space::Mmio, 0xc000_0000)));
    }
}

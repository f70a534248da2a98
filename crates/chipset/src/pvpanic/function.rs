//! Pvpanic's PCI function: one small BAR with the register.

use device::{Access, Device, Effect, Events, Persist, Region, RestoreError};
use pci::{Address, BarKind, ConfigSpace, ConfigState, Identity, REGION_CONFIG};

use super::Pvpanic;

/// The register behind a PCI function.
pub struct PvpanicFunction {
    config: ConfigSpace,
    register: Pvpanic,
    events: Events,
}

impl PvpanicFunction {
    /// Bytes of BAR 0: the least a memory BAR can have.
    pub const BAR_SIZE: u64 = 16;

    /// A function in the given place whose reports go to `events`.
    pub fn new(address: Address, bar: u64, events: Events) -> Self {
        let identity = Identity {
            vendor: 0x1b36,
            device: 0x0011,
            class: 0x08_8000,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
            ..Identity::default()
        };
        let mut config = ConfigSpace::new(address, &identity);
        config.add_bar(0, BarKind::Memory32, Self::BAR_SIZE, bar);
        Self { config, register: Pvpanic, events }
    }
}

impl Device for PvpanicFunction {
    fn regions(&self) -> Vec<Region> {
        self.config.regions()
    }

    fn read(&mut self, at: Access, data: &mut [u8]) {
        if at.region == REGION_CONFIG {
            self.config.read(at.offset, data);
        } else {
            self.register.read(at.offset, data);
        }
    }

    fn write(&mut self, at: Access, data: &[u8]) -> Effect {
        if at.region == REGION_CONFIG {
            return self.config.write(at.offset, data);
        }
        if let Some(event) = self.register.write(at.offset, data) {
            event.report(&self.events);
        }
        Effect::None
    }

    fn reset(&mut self) {
        self.config.reset();
    }

    fn undo_remap(&mut self) {
        self.config.undo_remap();
    }
}

impl Persist for PvpanicFunction {
    type State = ConfigState;
    const KIND: &'static str = "pvpanic";
    const VERSION: u32 = 1;

    fn save(&self) -> ConfigState {
        self.config.save()
    }

    fn restore(&mut self, state: ConfigState) -> Result<(), RestoreError> {
        self.config.restore(state).map_err(|field| RestoreError::Value { kind: Self::KIND, field })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn the_device_contract_holds() {
        let events = Events::new(Arc::new(device::NoSink)).unwrap();
        let address = Address { segment: 0, slot: 4 };
        device::contract::check(&mut PvpanicFunction::new(address, 0xe000_0000, events));
    }
}

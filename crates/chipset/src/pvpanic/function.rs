//! Pvpanic's PCI function: one small BAR with the register.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};

use config::plan;
use device::{Access, Device, Effect, Events, Persist, Region, RestoreError, Slot};
use pci::{
    Address, BarKind, BarNeed, BuildContext, Built, ConfigSpace, ConfigState, Function, Identity, Place,
    REGION_CONFIG,
};

use super::Pvpanic;

/// The register behind a PCI function.
pub struct PvpanicFunction {
    config: ConfigSpace,
    register: Pvpanic,
    events: Events,
}

/// Bytes of BAR 0: the least a memory BAR can have.
const BAR_SIZE: u64 = 16;

/// The function before it has a place.
struct Unplaced(Events);

/// Builds the function.
///
/// # Errors
/// None.
pub fn build(_: &plan::Pvpanic, context: &BuildContext<'_>) -> Result<Built, Infallible> {
    Ok(Built::new(Unplaced(context.events.clone())))
}

impl Function for Unplaced {
    fn bars(&self) -> Vec<BarNeed> {
        const PAGE: u64 = 4096;
        vec![BarNeed { index: 0, kind: BarKind::Memory32, size: BAR_SIZE, align: PAGE }]
    }

    fn settle(self: Box<Self>, place: &Place<'_>) -> io::Result<Slot> {
        let bar = place.bars.first().copied().unwrap_or_default();
        Ok(Arc::new(Mutex::new(PvpanicFunction::new(place.address, bar, self.0))))
    }
}

impl PvpanicFunction {
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
        config.add_bar(0, BarKind::Memory32, BAR_SIZE, bar);
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

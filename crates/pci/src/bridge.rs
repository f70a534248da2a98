//! The host bridge in slot 0 of segment 0: an identity and nothing more (`spec/devices.md` §6).

use device::{Access, Device, Effect, Persist, Region, RestoreError};

use crate::{Address, ConfigSpace, ConfigState, Identity};

/// The host bridge.
#[derive(Debug)]
pub struct HostBridge(ConfigSpace);

impl HostBridge {
    /// A fresh bridge.
    pub fn new() -> Self {
        let identity = Identity { vendor: 0x8086, device: 0x0d57, class: 0x06_0000, ..Identity::default() };
        Self(ConfigSpace::new(Address { segment: 0, slot: 0 }, &identity))
    }
}

impl Default for HostBridge {
    fn default() -> Self {
        Self::new()
    }
}

impl Device for HostBridge {
    fn regions(&self) -> Vec<Region> {
        self.0.regions()
    }

    fn read(&mut self, at: Access, data: &mut [u8]) {
        self.0.read(at.offset, data);
    }

    fn write(&mut self, at: Access, data: &[u8]) -> Effect {
        self.0.write(at.offset, data)
    }

    fn reset(&mut self) {
        self.0.reset();
    }

    fn undo_remap(&mut self) {
        self.0.undo_remap();
    }
}

impl Persist for HostBridge {
    type State = ConfigState;
    const KIND: &'static str = "pci-host-bridge";
    const VERSION: u32 = 1;

    fn save(&self) -> ConfigState {
        self.0.save()
    }

    fn restore(&mut self, state: ConfigState) -> Result<(), RestoreError> {
        self.0.restore(state).map_err(|field| RestoreError::Value { kind: Self::KIND, field })
    }
}

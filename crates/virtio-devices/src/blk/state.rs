//! What the guest can see of a disk beyond queues, features and data.

use device::{Persist, RestoreError};
use serde::{Deserialize, Serialize};

use super::disk::SERIAL_LEN;
use super::front::Blk;

/// The state of a block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The writeback register: whether writes may wait in the host's cache for a flush.
    pub writeback: bool,
    /// The serial number. It travels because one made from a file's identity would change on another host.
    pub serial: String,
}

impl Persist for Blk {
    type State = State;
    const KIND: &'static str = "virtio-blk";
    const VERSION: u32 = 1;

    fn save(&self) -> State {
        State { writeback: self.disk.writeback(), serial: self.disk.serial() }
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        if state.serial.len() > SERIAL_LEN {
            return Err(RestoreError::Value { kind: Self::KIND, field: "serial" });
        }
        self.disk.set_writeback(state.writeback);
        self.disk.set_serial(state.serial);
        Ok(())
    }
}

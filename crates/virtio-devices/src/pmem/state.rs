//! What the guest can see of a persistent memory device beyond its contents.

use device::{Persist, RestoreError};
use serde::{Deserialize, Serialize};

use super::front::Front;

/// Where the memory lies: the guest has made it its own, so it neither moves nor changes its size in a restored machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// First guest address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
}

impl Persist for Front {
    type State = State;
    const KIND: &'static str = "virtio-pmem";
    const VERSION: u32 = 1;

    fn save(&self) -> State {
        self.state
    }

    /// The machine has put the memory back before; what is left to see is that it did, and that the file has the size it had.
    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        let refuse = |field| Err(RestoreError::Value { kind: Self::KIND, field });
        match state {
            State { size, .. } if size != self.state.size => refuse("size"),
            State { start, .. } if start != self.state.start => refuse("start"),
            _ => Ok(()),
        }
    }
}

//! What the guest can see of a network card beyond its queues.

use device::{Persist, RestoreError};
use serde::{Deserialize, Serialize};

use super::Net;
use super::front::GUEST_OFFLOADS;

/// The state of a network card.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// What the driver has set up; `None` before it is ready.
    pub driver: Option<DriverState>,
}

/// What a driver can change while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverState {
    /// The offloads in use, as bits of the GUEST_* features.
    pub offloads: u64,
    /// Queue pairs in use.
    pub pairs: u16,
    /// The guest has been asked to announce itself and has not said that it did.
    pub announce: bool,
}

impl Persist for Net {
    type State = State;
    const KIND: &'static str = "virtio-net";
    const VERSION: u32 = 1;

    fn save(&self) -> State {
        State { driver: self.driver().clone() }
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        if let Some(DriverState { offloads, pairs, .. }) = &state.driver {
            let impossible = |field| Err(RestoreError::Value { kind: Self::KIND, field });
            if offloads & !GUEST_OFFLOADS != 0 {
                return impossible("set of offloads");
            }
            if *pairs == 0 || *pairs > self.max_pairs() {
                return impossible("number of queue pairs");
            }
        }
        self.set_restored(state.driver);
        Ok(())
    }
}

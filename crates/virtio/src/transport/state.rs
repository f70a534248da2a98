//! What of a virtio function stands in a snapshot.

use device::{Part, Persist, RestoreError};
use pci::{ConfigState, MsixState};
use serde::{Deserialize, Serialize};

use super::common::Common;
use super::{Phase, Then, VirtioPci};
use crate::SignalsState;

/// A virtio function as it stands in a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    config: ConfigState,
    msix: MsixState,
    pub(super) common: Common,
    signals: SignalsState,
    running: bool,
    device: Part,
}

impl Persist for VirtioPci {
    type State = State;
    const KIND: &'static str = "virtio-pci";
    const VERSION: u32 = 1;

    fn save(&self) -> State {
        State {
            config: self.config.save(),
            msix: self.msix.save(),
            common: self.common.clone(),
            signals: self.signals.save(),
            running: !matches!(self.phase, Phase::Idle | Phase::Stopping(Then::Reset)),
            device: Part::of(self.device.as_ref()),
        }
    }

    /// Leaves the device paused if it was running.
    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        let former = Persist::save(self);
        let restored = self.put_in(state);
        if restored.is_err() {
            // What was there a moment ago fits.
            let _ = self.put_in(former);
        }
        restored
    }
}

impl VirtioPci {
    fn put_in(&mut self, state: State) -> Result<(), RestoreError> {
        let value = |field| RestoreError::Value { kind: Self::KIND, field };
        let State { config, msix, common, signals, running, device } = state;
        common.check(self.device.info()).map_err(value)?;
        if running && !common.is_driver_ready() {
            return Err(value("status"));
        }
        device.restore(self.device.as_mut())?;
        self.config.restore(config).map_err(value)?;
        self.msix.restore(msix).map_err(value)?;
        self.common = common;
        self.signals.restore(signals);
        self.route_queues();
        self.phase = if running { Phase::Paused } else { Phase::Idle };
        Ok(())
    }
}

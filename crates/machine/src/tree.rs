//! A machine's state as data: what a snapshot holds besides guest RAM and the configuration.

use std::collections::BTreeMap;

use device::{Collision, RestoreError, SaveError, Saved};
use hv::{ClockReading, CpuState};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::VcpuError;
use crate::own_memory::MemoryPlaces;

/// The state of every device, by id.
pub(crate) type NodeStates = BTreeMap<String, Saved>;

/// The state of a whole machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tree {
    /// Devices, by id: those of the board and the PCI functions.
    pub(crate) nodes: NodeStates,
    /// Where devices' own memory lies. What is in it is not part of the state.
    pub(crate) memory: MemoryPlaces,
    /// vCPUs, by number.
    pub(crate) vcpus: Vec<CpuState>,
    /// The guest's paravirtual clock, if it has one.
    pub(crate) clock: Option<ClockReading>,
}

/// Why a state cannot be taken out or put in. Each names the device.
#[derive(Debug, Error)]
pub enum StateError {
    /// A device's cannot be taken out.
    #[error("The state of device '{id}' cannot be saved")]
    Save {
        /// The device's id.
        id: String,
        /// What is wrong with it.
        #[source]
        source: SaveError,
    },
    /// A device's cannot be put in.
    #[error("The state of device '{id}' cannot be restored")]
    Restore {
        /// The device's id.
        id: String,
        /// What is wrong with it.
        #[source]
        source: RestoreError,
    },
    /// A vCPU is inside the device and does not leave it.
    #[error("Device '{0}' is busy: pause the VM first")]
    Busy(String),
    /// The machine has a device that the state does not know.
    #[error("The state has nothing of device '{0}': restore with the configuration that was saved with it")]
    Missing(String),
    /// The state has a device that the machine does not know.
    #[error(
        "The state has device '{0}', which this machine lacks: restore with the configuration that was saved with it"
    )]
    Stranger(String),
    /// Two devices were saved at the same addresses.
    #[error("Device '{id}' cannot go back to its addresses")]
    Place {
        /// The device's id.
        id: String,
        /// Which addresses.
        #[source]
        source: Collision,
    },
    /// There are more or fewer vCPUs.
    #[error("The state has {found} vCPUs, and this machine {expected}")]
    Vcpus {
        /// vCPUs of the machine.
        expected: usize,
        /// vCPUs of the state.
        found: usize,
    },
    /// The guest's clock.
    #[error("The state of the guest's clock cannot be saved")]
    Clock(#[source] hv::Error),
    /// A vCPU.
    #[error("The state of the vCPUs cannot be saved")]
    Vcpu(#[from] VcpuError),
}

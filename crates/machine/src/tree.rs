//! A machine's state as data: what a snapshot holds besides guest RAM and the configuration.

use std::collections::BTreeMap;

use chipset::acpi::CpuSlots;
use config::Plan;
use device::{Collision, RestoreError, SaveError, Saved};
use hv::cpuid::{self, Leaf};
use hv::{ClockReading, CpuState};
use memory::SavedRange;
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
    /// vCPUs in use, by number.
    pub(crate) vcpus: BTreeMap<u32, CpuState>,
    /// Bytes of RAM when the guest was booted: what has come since through ACPI lies beyond.
    pub(crate) boot_ram: u64,
    /// The guest's paravirtual clock, if it has one.
    pub(crate) clock: Option<ClockReading>,
    /// Where RAM lies. What is in it is kept elsewhere.
    pub(crate) ram: Vec<SavedRange>,
    /// The slot that each PCI function has, by id.
    pub(crate) slots: BTreeMap<String, u8>,
    /// What CPUID shows the guest.
    pub(crate) cpuid: Vec<Leaf>,
}

impl Tree {
    /// Where RAM lies, in ascending order.
    pub fn ram(&self) -> &[SavedRange] {
        &self.ram
    }

    /// The vCPUs in use, by number.
    pub fn vcpus(&self) -> &BTreeMap<u32, CpuState> {
        &self.vcpus
    }

    /// Notes in `plan` the slots that devices had.
    pub fn settle(&self, plan: &mut Plan) {
        self.slots.iter().for_each(|(id, slot)| plan.settle(id, *slot));
    }

    /// Whether a CPU that shows the leaves `host` can go on with this state.
    pub(crate) fn check_cpuid(&self, host: &[Leaf]) -> Result<(), StateError> {
        match cpuid::missing(&self.cpuid, host) {
            None => Ok(()),
            Some(feature) => Err(StateError::Feature(feature)),
        }
    }

    /// How many vCPUs a machine needs, in use or parked, to have each of these at its number. It can have `max`.
    pub(crate) fn vcpu_slots(&self, max: u32) -> Result<u32, StateError> {
        let last = self.vcpus.last_key_value().map(|(number, _)| *number);
        match last {
            Some(last) if last >= max => Err(self.other_vcpus()),
            _ => Ok(last.map_or(0, |last| last + 1)),
        }
    }

    /// Whether each CPU that the guest has is here.
    pub(crate) fn check_vcpus(&self, slots: &CpuSlots) -> Result<(), StateError> {
        if slots.present().all(|number| self.vcpus.contains_key(&number)) {
            Ok(())
        } else {
            Err(self.other_vcpus())
        }
    }

    fn other_vcpus(&self) -> StateError {
        StateError::Vcpus { found: self.vcpus.len() }
    }
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
    /// There are other vCPUs.
    #[error(
        "The state has {found} vCPUs, which are not those of this machine: restore with the configuration that was saved with it"
    )]
    Vcpus {
        /// vCPUs of the state.
        found: usize,
    },
    /// RAM that came while the machine ran is not there.
    #[error("The state has RAM at {0:#x}, and there is none: restore with the RAM that was saved with it")]
    Ram(u64),
    /// The guest uses something that this host's CPU, or its hypervisor, does not have.
    #[error("The guest's CPU has {0}, which this host lacks: restore on a host with the same CPU features")]
    Feature(String),
    /// The guest's clock.
    #[error("The state of the guest's clock cannot be saved")]
    Clock(#[source] hv::Error),
    /// A vCPU.
    #[error("The state of the vCPUs cannot be saved")]
    Vcpu(#[from] VcpuError),
}

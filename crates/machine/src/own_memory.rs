//! Memory that devices bring into the guest's address space: where each lies, and what the hypervisor knows it by.

use std::collections::BTreeMap;
use std::sync::Arc;

use hv::{Mapping, MappingKind, RegionId, Vm};
use memory::HostMemory;
use pci::MemoryLease;
use serde::{Deserialize, Serialize};

/// Where a device's own memory lies in the guest. Drivers remember it, so it stays the same in a restored machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemoryPlace {
    /// First guest address.
    pub(crate) base: u64,
    /// Bytes.
    pub(crate) size: u64,
}

/// The places of a whole machine, by the device's id.
pub(crate) type MemoryPlaces = BTreeMap<String, MemoryPlace>;

/// A device's own memory while the guest can reach it. Dropping it takes it from the guest and gives its addresses back.
pub(crate) struct MappedMemory {
    vm: Arc<dyn Vm>,
    id: RegionId,
    /// Leased as long as the guest has something there; `None` only while it is dropped.
    lease: Option<MemoryLease>,
    place: MemoryPlace,
    memory: Arc<dyn HostMemory>,
}

impl MappedMemory {
    /// Gives the guest `memory` at the leased addresses.
    pub(crate) fn new(
        vm: Arc<dyn Vm>,
        memory: Arc<dyn HostMemory>,
        lease: MemoryLease,
    ) -> Result<Self, hv::Error> {
        let place = MemoryPlace { base: lease.base(), size: lease.size() };
        let id = vm.map(Mapping { guest: place.base, memory: memory.clone(), kind: MappingKind::Device })?;
        Ok(Self { vm, id, lease: Some(lease), place, memory })
    }

    /// The memory itself.
    pub(crate) fn memory(&self) -> &Arc<dyn HostMemory> {
        &self.memory
    }

    /// Where it lies.
    pub(crate) fn place(&self) -> MemoryPlace {
        self.place
    }
}

impl Drop for MappedMemory {
    fn drop(&mut self) {
        if let Err(error) = self.vm.unmap(self.id) {
            let MemoryPlace { base, size } = self.place;
            tracing::error!(
                "{size:#x} bytes of a device that is gone stay in the guest at {base:#x}: {error}"
            );
            // The hypervisor keeps the memory, and nobody else may get the addresses.
            std::mem::forget(self.lease.take());
        }
    }
}

//! Guest RAM and where the hypervisor has it.

use std::collections::BTreeMap;
use std::sync::Arc;

use config::plan::Zone;
use hv::{Mapping, MappingKind, RegionId, Vm};
use memory::{GuestAddress, GuestMemoryBackend, GuestRam, HostMemory};

use crate::PlugError;

/// RAM as both the VMM and the guest see it.
pub(crate) struct MappedRam {
    vm: Arc<dyn Vm>,
    ram: GuestRam,
    /// What the hypervisor knows each region by, by its first address.
    regions: BTreeMap<GuestAddress, RegionId>,
}

impl MappedRam {
    /// Gives the guest all of `ram`.
    pub(crate) fn new(vm: Arc<dyn Vm>, ram: GuestRam) -> Result<Self, hv::Error> {
        let mut mapped = Self { vm, ram: ram.clone(), regions: BTreeMap::new() };
        ram.host_memory().into_iter().try_for_each(|(base, memory)| mapped.map(base, memory))?;
        Ok(mapped)
    }

    fn map(&mut self, base: GuestAddress, memory: Arc<dyn HostMemory>) -> Result<(), hv::Error> {
        let id = self.vm.map(Mapping { guest: base.0, memory, kind: MappingKind::Ram })?;
        self.regions.insert(base, id);
        Ok(())
    }

    /// RAM as the VMM sees it.
    pub(crate) fn guest(&self) -> &GuestRam {
        &self.ram
    }

    /// What the hypervisor knows each region by.
    pub(crate) fn regions(&self) -> Vec<(GuestAddress, RegionId)> {
        self.regions.iter().map(|(base, id)| (*base, *id)).collect()
    }

    /// Whether there are `len` bytes of RAM at `base`.
    pub(crate) fn has(&self, base: GuestAddress, len: u64) -> bool {
        usize::try_from(len).is_ok_and(|len| self.ram.map().check_range(base, len))
    }

    /// Adds a zone at `base`: the VMM's own threads see it first, since nobody names its addresses yet.
    pub(crate) fn plug(&mut self, zone: &Zone, base: GuestAddress) -> Result<(), PlugError> {
        self.ram.plug(zone, base)?;
        let memory = self.ram.host_memory().into_iter().find(|(start, _)| *start == base);
        let mapped = memory.map_or(Ok(()), |(base, memory)| self.map(base, memory));
        if let Err(error) = mapped {
            self.ram.unplug(base)?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Takes the zone at `base` away, from the guest first.
    pub(crate) fn unplug(&mut self, base: GuestAddress) -> Result<(), PlugError> {
        let id = self.regions.get(&base).ok_or(PlugError::NoRam(base.0))?;
        self.vm.unmap(*id)?;
        self.regions.remove(&base);
        Ok(self.ram.unplug(base)?)
    }
}

//! A KVM machine's memory slots, and the host memory behind them.
//!
//! KVM knows memory by address only. So each slot keeps its [`HostMemory`](memory::HostMemory) alive until KVM has let go of the slot,
//! and every vCPU keeps all slots: memory of a machine that is dropped goes when nothing is left that could run its guest.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hv::{Error, Mapping, MappingKind, RegionId};
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};

type Region = kvm_userspace_memory_region;

struct Slot {
    /// As KVM has it.
    region: Region,
    mapping: Mapping,
}

#[derive(Default)]
struct Table {
    slots: BTreeMap<u32, Slot>,
    logging: bool,
}

/// All slots of one machine. `set` in its methods is `KVM_SET_USER_MEMORY_REGION`.
#[derive(Default)]
pub(crate) struct Slots(Mutex<Table>);

impl Slots {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `mapping` the lowest free slot.
    pub(crate) fn map<E: Into<std::io::Error>>(
        &self,
        mapping: Mapping,
        set: impl FnOnce(Region) -> Result<(), E>,
    ) -> Result<RegionId, Error> {
        let mut table = self.lock();
        let free = (0..u32::MAX).find(|slot| !table.slots.contains_key(slot));
        let slot = free.ok_or_else(|| Error::operation("map so many regions", ErrorKind::OutOfMemory))?;
        let region = Region {
            slot,
            flags: flags(mapping.kind, table.logging),
            guest_phys_addr: mapping.guest,
            memory_size: mapping.memory.size() as u64,
            userspace_addr: mapping.memory.start().addr() as u64,
        };
        set(region).map_err(|e| Error::operation("map memory into the guest", e))?;
        table.slots.insert(slot, Slot { region, mapping });
        Ok(RegionId(slot))
    }

    /// Frees the slot `id`. It stays if KVM refuses.
    pub(crate) fn unmap<E: Into<std::io::Error>>(
        &self,
        id: RegionId,
        set: impl FnOnce(Region) -> Result<(), E>,
    ) -> Result<(), Error> {
        let mut table = self.lock();
        let Some(slot) = table.slots.get(&id.0) else { return Ok(()) };
        // A size of zero removes the slot.
        set(Region { memory_size: 0, ..slot.region })
            .map_err(|e| Error::operation("take memory from the guest", e))?;
        let gone = table.slots.remove(&id.0);
        drop(table);
        // Unmapping host memory may take its time, so nobody waits for the lock meanwhile.
        drop(gone);
        Ok(())
    }

    /// Switches the dirty log of RAM, now and for what is mapped later.
    pub(crate) fn set_logging<E: Into<std::io::Error>>(
        &self,
        on: bool,
        set: impl Fn(Region) -> Result<(), E>,
    ) -> Result<(), Error> {
        let mut table = self.lock();
        table.logging = on;
        for slot in table.slots.values_mut() {
            let region = Region { flags: flags(slot.mapping.kind, on), ..slot.region };
            if region.flags != slot.region.flags {
                set(region).map_err(|e| Error::operation("switch dirty logging", e))?;
                slot.region = region;
            }
        }
        Ok(())
    }

    /// Bytes of the slot `id`, if it is logged now.
    pub(crate) fn logged_size(&self, id: RegionId) -> Option<usize> {
        let table = self.lock();
        let slot = table.slots.get(&id.0)?;
        (slot.region.flags & KVM_MEM_LOG_DIRTY_PAGES != 0).then(|| slot.mapping.memory.size())
    }
}

fn flags(kind: MappingKind, logging: bool) -> u32 {
    match kind {
        MappingKind::Ram if logging => KVM_MEM_LOG_DIRTY_PAGES,
        MappingKind::Ram | MappingKind::Device => 0,
        MappingKind::Rom => KVM_MEM_READONLY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::mapping;
    use std::cell::RefCell;
    use std::sync::Arc;

    fn refuse(_: Region) -> std::io::Result<()> {
        Err(ErrorKind::Other.into())
    }

    fn accept(_: Region) -> std::io::Result<()> {
        Ok(())
    }

    #[test]
    fn a_refused_unmap_forgets_nothing_and_can_be_repeated() {
        let slots = Slots::default();
        let mapping = mapping(0, MappingKind::Ram);
        let memory = Arc::downgrade(&mapping.memory);
        let id = slots.map(mapping, accept).unwrap();
        assert!(slots.unmap(id, refuse).is_err());
        assert!(memory.upgrade().is_some(), "KVM has the memory still");
        let removed = RefCell::new(Vec::new());
        let remove = |region: Region| {
            removed.borrow_mut().push((region.slot, region.memory_size));
            accept(region)
        };
        slots.unmap(id, remove).unwrap();
        slots.unmap(id, remove).unwrap();
        assert_eq!(removed.take(), [(id.0, 0)]);
        assert!(memory.upgrade().is_none());
    }

    #[test]
    fn what_cannot_be_mapped_takes_no_slot() {
        let slots = Slots::default();
        assert!(slots.map(mapping(0, MappingKind::Ram), refuse).is_err());
        assert_eq!(slots.map(mapping(0, MappingKind::Ram), accept).unwrap(), RegionId(0));
        assert_eq!(slots.map(mapping(0, MappingKind::Rom), accept).unwrap(), RegionId(1));
    }

    #[test]
    fn only_ram_is_logged_and_rom_stays_read_only() {
        let slots = Slots::default();
        let flags = RefCell::new(BTreeMap::new());
        let set = |region: Region| {
            flags.borrow_mut().insert(region.slot, region.flags);
            accept(region)
        };
        for kind in [MappingKind::Ram, MappingKind::Rom, MappingKind::Device] {
            slots.map(mapping(0, kind), set).unwrap();
        }
        let shown = || flags.borrow().values().copied().collect::<Vec<_>>();
        assert_eq!(shown(), [0, KVM_MEM_READONLY, 0]);
        slots.set_logging(true, set).unwrap();
        slots.map(mapping(0, MappingKind::Ram), set).unwrap();
        assert_eq!(shown(), [KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, 0, KVM_MEM_LOG_DIRTY_PAGES]);
        let logged = |id| slots.logged_size(RegionId(id));
        assert_eq!([logged(0), logged(1), logged(2), logged(9)], [Some(1 << 20), None, None, None]);
        slots.set_logging(false, set).unwrap();
        assert_eq!(shown(), [0, KVM_MEM_READONLY, 0, 0]);
    }

    #[test]
    fn a_refused_switch_of_logging_can_be_repeated() {
        let slots = Slots::default();
        slots.map(mapping(0, MappingKind::Ram), accept).unwrap();
        assert!(slots.set_logging(true, refuse).is_err());
        assert_eq!(slots.logged_size(RegionId(0)), None);
        slots.set_logging(true, accept).unwrap();
        assert_eq!(slots.logged_size(RegionId(0)), Some(1 << 20));
    }
}

//! Guest RAM: where it lies in the guest's physical address space, what backs it, and who hears of writes to it.
//!
//! RAM is `vm-memory`'s, with one [`WriteHook`] per region: every write that the VMM itself makes goes through it, because KVM's dirty
//! log sees the guest's writes only. The layout follows `spec/devices.md` §1.
//!
//! ```text
//!  GuestRam ── publishes ──▶ Ram (map and mappings, never changed)      plug and unplug publish another
//!     │ map()                    ▲
//!     │ dma()                    │ keeps it while it looks
//!     └──▶ DmaRam ── view() ─────┘   a device's way to it, one view per wake
//! ```

// Mapping and advising memory has no safe binding.
#![allow(unsafe_code)]

mod backing;
mod bits;
mod demand;
mod dma;
mod error;
mod extents;
mod hook;
mod host;
pub mod layout;
mod mapping;
pub mod missing;
mod occupied;
mod pagemap;
mod pages;
mod part;
mod policy;
mod ranges;
mod restore;
mod testing;
mod zeroed;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use config::plan::Zone;

use part::Part;

pub use demand::{DemandError, OnDemand};
pub use dma::{DmaRam, DmaView};
pub use error::RamError;
pub use hook::{HookSlice, WriteHook};
pub use host::{Contents, HostMemory, map};
pub use pagemap::open_pagemap;
pub use pages::PagesError;
pub use ranges::SavedRange;
pub use restore::{NoFiles, Obstacle, RangeMode, RangeSource};
pub use testing::{test_ram, test_ram_with_room};
pub use vm_memory::{
    Address, ByteValued, Bytes, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryBackend,
    GuestMemoryError, GuestMemoryRegion, Permissions, ReadVolatile, VolatileMemoryError, VolatileSlice,
    WriteVolatile,
};

/// All of guest RAM at one moment, by physical address.
pub type RamMap = vm_memory::GuestMemoryMmap<WriteHook>;

/// One stretch of guest RAM that lies in one piece in guest and host.
pub type RamRegion = vm_memory::GuestRegionMmap<WriteHook>;

/// The handle every user of guest RAM holds: cheap to clone. What it publishes may change at any time; who looks keeps what was there.
#[derive(Clone, Debug)]
pub struct GuestRam(Arc<ArcSwap<Ram>>);

/// RAM as it was at one moment.
#[derive(Debug)]
pub(crate) struct Ram {
    pub(crate) map: RamMap,
    /// What the regions consist of, by their first addresses.
    parts: BTreeMap<u64, Arc<Part>>,
    /// Parts of the map that are no RAM yet, by the id of the zone that grows there.
    pub(crate) rooms: BTreeMap<String, layout::Range>,
}

/// A look at guest RAM: the map stays as it is while this lives. Keep it for one piece of work and no longer, or memory that was
/// unplugged meanwhile is not given back.
#[derive(Debug)]
pub struct RamView(Guard<Arc<Ram>>);

impl Deref for RamView {
    type Target = RamMap;

    fn deref(&self) -> &RamMap {
        &self.0.map
    }
}

impl GuestRam {
    fn publish(ram: Ram) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(ram)))
    }

    /// Allocates RAM for the zones, in order, around the hole below 4 GiB, and their room for more behind.
    ///
    /// # Errors
    /// [`RamError`] names the zone that could not be backed.
    pub fn allocate(zones: &[Zone]) -> Result<Self, RamError> {
        let rooms = backing::rooms(zones);
        let regions = backing::allocate(zones, &rooms)?;
        Self::of(regions, rooms)
    }

    /// RAM that consists of `regions`.
    fn of(mut regions: Vec<RamRegion>, rooms: BTreeMap<String, layout::Range>) -> Result<Self, RamError> {
        // A zone's room lies behind the RAM of those that follow.
        regions.sort_by_key(GuestMemoryRegion::start_addr);
        let parts =
            regions.iter().filter_map(|region| Some((region.start_addr().0, Part::of(region)?))).collect();
        let map = RamMap::from_regions(regions).map_err(RamError::Layout)?;
        Ok(Self::publish(Ram { map, parts, rooms }))
    }

    /// Adds a zone's memory at `base`, in one piece. Control is the only one to change RAM.
    ///
    /// # Errors
    /// [`RamError`] names the zone that could not be backed, or says that the place is taken; RAM is as before then.
    pub fn plug(&self, zone: &Zone, base: GuestAddress) -> Result<(), RamError> {
        let region = backing::allocate_at(zone, base.0)?;
        let old = self.0.load_full();
        let mut parts = old.parts.clone();
        parts.extend(Part::of(&region).map(|part| (base.0, part)));
        let map = old.map.insert_region(Arc::new(region)).map_err(RamError::Layout)?;
        self.0.store(Arc::new(Ram { map, parts, rooms: old.rooms.clone() }));
        Ok(())
    }

    /// Takes the memory at `base` away. The host gets it back when the last look at it has ended. The hypervisor has let go of it before.
    ///
    /// # Errors
    /// [`RamError::Layout`] if no region begins there; RAM is as before then.
    pub fn unplug(&self, base: GuestAddress) -> Result<(), RamError> {
        let old = self.0.load_full();
        let len = old.map.find_region(base).map_or(0, GuestMemoryRegion::len);
        let (map, _) = old.map.remove_region(base, len).map_err(RamError::Layout)?;
        let mut parts = old.parts.clone();
        parts.remove(&base.0);
        self.0.store(Arc::new(Ram { map, parts, rooms: old.rooms.clone() }));
        Ok(())
    }

    /// RAM as it is now, by physical address.
    pub fn map(&self) -> RamView {
        RamView(self.0.load())
    }

    /// RAM as a device reaches it.
    pub fn dma(&self) -> DmaRam {
        DmaRam::new(self.clone())
    }

    /// Each region's first address and the memory behind it, for whoever maps it into a guest.
    pub fn host_memory(&self) -> Vec<(GuestAddress, Arc<dyn HostMemory>)> {
        let ram = self.0.load();
        let shared =
            |(start, part): (&u64, &Arc<Part>)| (GuestAddress(*start), part.clone() as Arc<dyn HostMemory>);
        ram.parts.iter().map(shared).collect()
    }

    /// Bytes of RAM, without the room for more.
    pub fn total(&self) -> u64 {
        let ram = self.0.load();
        let all: u64 = ram.map.iter().map(GuestMemoryRegion::len).sum();
        all - ram.rooms.values().map(|(_, len)| len).sum::<u64>()
    }

    /// The first address behind all RAM and the room for more.
    pub fn end(&self) -> u64 {
        self.map().last_addr().0.saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(size: u64) -> Zone {
        Zone::new("z", size)
    }

    #[test]
    fn who_looks_keeps_what_was_there() {
        const BASE: GuestAddress = GuestAddress(1 << 32);
        let ram = test_ram(&[(0, 1 << 20)]);
        let (before, device) = (ram.map(), ram.dma());
        ram.plug(&zone(1 << 20), BASE).unwrap();
        assert!(!before.address_in_range(BASE) && ram.map().address_in_range(BASE));
        assert_eq!(ram.total(), 2 << 20);
        let busy = device.view();
        busy.write_obj(7u64, BASE).unwrap();
        assert!(matches!(ram.plug(&zone(1 << 20), BASE), Err(RamError::Layout(_))));
        ram.unplug(BASE).unwrap();
        assert_eq!(busy.read_obj::<u64>(BASE).unwrap(), 7);
        assert!(device.view().read_obj::<u64>(BASE).is_err());
        assert!(matches!(ram.unplug(BASE), Err(RamError::Layout(_))));
        assert_eq!(ram.total(), 1 << 20);
    }

    #[test]
    fn unplugged_memory_is_given_back_with_the_last_look() {
        const BASE: GuestAddress = GuestAddress(1 << 32);
        let ram = test_ram(&[(0, 1 << 20)]);
        ram.plug(&zone(1 << 20), BASE).unwrap();
        let mapping = Arc::downgrade(ram.0.load().parts.get(&BASE.0).unwrap());
        let busy = ram.dma().view();
        ram.unplug(BASE).unwrap();
        assert!(mapping.strong_count() > 0);
        drop(busy);
        assert_eq!(mapping.strong_count(), 0);
    }

    #[test]
    fn room_for_more_is_in_the_map_and_is_no_ram_yet() {
        const ROOM: u64 = 128 << 20;
        let path = std::env::temp_dir().join(format!("memory-room-{}", std::process::id()));
        let first =
            Zone { id: "a".into(), room: ROOM, file: Some(path.clone()), shared: true, ..zone(1 << 20) };
        let second = Zone { id: "b".into(), room: 2 * ROOM, prefault: true, ..zone(1 << 20) };
        let ram = GuestRam::allocate(&[first, zone(1 << 20), second]).unwrap();
        let len = std::fs::metadata(&path).unwrap().len();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(len, ROOM + (1 << 20), "the room lies in the same file");
        let dma = ram.dma();
        let b = (layout::ABOVE_4G + ROOM, 2 * ROOM);
        assert_eq!(
            (dma.room("a"), dma.room("z"), dma.room("b")),
            (Some((layout::ABOVE_4G, ROOM)), None, Some(b))
        );
        assert_eq!((ram.total(), ram.end()), (3 << 20, b.0 + b.1));
        assert!(ram.host_memory().iter().any(|(base, _)| base.0 == b.0));
        dma.view().write_obj(7u64, GuestAddress(b.0 + b.1 - 8)).unwrap();
        dma.view().claim(GuestAddress(b.0), b.1).unwrap();
        assert!(matches!(dma.view().claim(GuestAddress(b.0), b.1 + 1), Err(PagesError::Outside { .. })));
        ram.plug(&zone(1 << 20), GuestAddress(1 << 40)).unwrap();
        assert_eq!((ram.total(), dma.room("b")), (4 << 20, Some(b)));
    }

    #[test]
    fn a_copy_of_the_map_keeps_the_memory_it_leads_to() {
        let ram = GuestRam::allocate(&[zone(1 << 20)]).unwrap();
        let mapping = Arc::downgrade(ram.0.load().parts.get(&0).unwrap());
        let map = RamMap::clone(&ram.map());
        drop(ram);
        assert!(mapping.strong_count() > 0);
        map.write_obj(7u64, GuestAddress(8)).unwrap();
        drop(map);
        assert_eq!(mapping.strong_count(), 0);
    }
}

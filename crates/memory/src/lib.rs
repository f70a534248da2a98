//! Guest RAM: where it lies in the guest's physical address space, what backs it, and who hears of writes to it.
//!
//! RAM is `vm-memory`'s, with one [`WriteHook`] per region: every write that the VMM itself makes goes through it, because KVM's dirty
//! log sees the guest's writes only. The layout follows `spec/devices.md` §1.

// Mapping and advising memory has no safe binding.
#![allow(unsafe_code)]

mod backing;
mod hook;
mod host;
pub mod layout;
mod mapping;
mod testing;

use std::sync::Arc;

use mapping::Mapping;

pub use backing::{Backing, Pages, RamError, Zone};
pub use hook::{HookSlice, WriteHook};
pub use host::HostMemory;
pub use testing::test_ram;
pub use vm_memory::{
    Address, ByteValued, Bytes, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryBackend,
    GuestMemoryError, GuestMemoryRegion, VolatileSlice,
};

/// All of guest RAM at one moment. Workers borrow it; hot-plug publishes a new one through [`GuestRam`].
pub type RamMap = vm_memory::GuestMemoryMmap<WriteHook>;

/// One stretch of guest RAM that lies in one piece in guest and host.
pub type RamRegion = vm_memory::GuestRegionMmap<WriteHook>;

/// The handle every user of guest RAM holds: cheap to clone.
#[derive(Clone, Debug)]
pub struct GuestRam(Arc<Ram>);

/// Fields are dropped in this order: regions point into mappings.
#[derive(Debug)]
struct Ram {
    map: RamMap,
    /// One per region, in their order.
    mappings: Vec<Arc<Mapping>>,
}

impl GuestRam {
    /// Allocates RAM for the zones, in order, around the hole below 4 GiB.
    ///
    /// # Errors
    /// [`RamError`] names the zone that could not be backed.
    pub fn allocate(zones: &[Zone]) -> Result<Self, RamError> {
        let (map, mappings) = backing::allocate(zones)?;
        let mappings = mappings.into_iter().map(Arc::new).collect();
        Ok(Self(Arc::new(Ram { map, mappings })))
    }

    /// RAM as it is now.
    pub fn map(&self) -> &RamMap {
        &self.0.map
    }

    /// Each region's first address and the memory behind it, for whoever maps it into a guest.
    pub fn host_memory(&self) -> impl Iterator<Item = (GuestAddress, Arc<dyn HostMemory>)> + '_ {
        let starts = self.0.map.iter().map(GuestMemoryRegion::start_addr);
        starts.zip(&self.0.mappings).map(|(start, memory)| (start, memory.clone() as Arc<dyn HostMemory>))
    }

    /// Bytes of RAM.
    pub fn total(&self) -> u64 {
        self.0.map.iter().map(GuestMemoryRegion::len).sum()
    }
}

//! The one seam between a device's addresses and RAM.
//!
//! A device's address is a physical one today. Behind an IOMMU it will be the guest's own choice: then [`DmaRam`] holds the device's
//! translation besides RAM, and [`DmaView`] looks it up (`vm-memory`'s `Iotlb` does that) before it looks at the map. Its `IommuMemory`
//! does not serve here: behind an IOMMU it logs writes by the device's addresses, and migration needs them by physical ones.

use std::sync::Arc;

use arc_swap::Guard;
use vm_memory::guest_memory::GuestMemorySliceIterator;
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryError, Permissions};

use crate::layout::Range;
use crate::{GuestRam, HookSlice, Ram, RamMap, WriteHook};

/// A device's way to guest RAM. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DmaRam(GuestRam);

/// What a device sees of guest RAM at one moment. A worker takes one when it wakes; what is under way longer keeps one of its own.
#[derive(Debug)]
pub struct DmaView(Guard<Arc<Ram>>);

impl DmaRam {
    pub(crate) fn new(ram: GuestRam) -> Self {
        Self(ram)
    }

    /// Where the zone `id` has room for more, if it has.
    pub fn room(&self, id: &str) -> Option<Range> {
        self.0.0.load().rooms.get(id).copied()
    }

    /// RAM as the device sees it now.
    pub fn view(&self) -> DmaView {
        DmaView(self.0.0.load())
    }
}

impl DmaView {
    /// The same view once more, for work that takes longer than the caller's.
    #[must_use]
    pub fn keep(&self) -> Self {
        Self(Guard::from_inner(Arc::clone(&self.0)))
    }

    /// Whether `other` sees the same.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// All of RAM, where there is no way round the physical address.
    pub(crate) fn map(&self) -> &RamMap {
        &self.0.map
    }

    /// Whether there is RAM at `address`.
    pub fn address_in_range(&self, address: GuestAddress) -> bool {
        self.0.map.address_in_range(address)
    }
}

impl GuestMemory for DmaView {
    type PhysicalMemory = RamMap;
    type Bitmap = WriteHook;

    fn check_range(&self, address: GuestAddress, len: usize, _: Permissions) -> bool {
        GuestMemoryBackend::check_range(&self.0.map, address, len)
    }

    fn get_slices<'a>(
        &'a self,
        address: GuestAddress,
        len: usize,
        _: Permissions,
    ) -> Result<impl GuestMemorySliceIterator<'a, HookSlice<'a>>, GuestMemoryError> {
        Ok(GuestMemoryBackend::get_slices(&self.0.map, address, len))
    }

    fn physical_memory(&self) -> Option<&RamMap> {
        Some(&self.0.map)
    }
}

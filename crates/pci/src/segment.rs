//! A PCI segment's resources: 32 slots and two address windows, leased to functions. Dropping a lease gives it back, so a failed
//! attach needs no clean-up by hand.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use vm_allocator::{AddressAllocator, AllocPolicy, RangeInclusive};

use crate::{Address, BarKind};

const SLOTS: u8 = 32;

/// Why a function gets no place.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PlaceError {
    /// All slots are leased.
    #[error("PCI segment {0} has no free slot: remove a device or use another segment")]
    NoSlot(u16),
    /// The wanted slot is leased.
    #[error("PCI slot {0} is taken: choose another pci_device_id")]
    SlotTaken(Address),
    /// The window is full.
    #[error("PCI segment {segment} has no {size:#x} bytes of {kind:?} addresses left")]
    NoAddresses {
        /// Which segment.
        segment: u16,
        /// Bytes wanted.
        size: u64,
        /// Which window.
        kind: BarKind,
    },
}

struct Free {
    slots: u32,
    window32: Option<AddressAllocator>,
    window64: Option<AddressAllocator>,
}

impl Free {
    fn window(&mut self, kind: BarKind) -> Option<&mut AddressAllocator> {
        match kind {
            BarKind::Memory32 => self.window32.as_mut(),
            BarKind::Memory64 => self.window64.as_mut(),
        }
    }
}

/// One segment. Cloning shares it.
#[derive(Clone)]
pub struct Segment {
    number: u16,
    free: Arc<Mutex<Free>>,
}

impl Segment {
    /// A segment with the given windows (first and last address). Slot 0 of segment 0 belongs to the host bridge.
    pub fn new(number: u16, window32: (u64, u64), window64: (u64, u64)) -> Self {
        // A window that the allocator refuses is an empty one.
        let window =
            |(first, last): (u64, u64)| AddressAllocator::new(first, last.saturating_sub(first) + 1).ok();
        let slots = if number == 0 { !1 } else { u32::MAX };
        let free = Free { slots, window32: window(window32), window64: window(window64) };
        Self { number, free: Arc::new(Mutex::new(free)) }
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leases the wanted slot, or the first free one.
    ///
    /// # Errors
    /// [`PlaceError::NoSlot`] or [`PlaceError::SlotTaken`].
    pub fn lease_slot(&self, wanted: Option<u8>) -> Result<SlotLease, PlaceError> {
        let mut free = self.lock();
        let slot = wanted.unwrap_or(free.slots.trailing_zeros() as u8);
        if slot >= SLOTS {
            return Err(PlaceError::NoSlot(self.number));
        }
        let address = Address { segment: self.number, slot };
        if free.slots & 1 << slot == 0 {
            return Err(PlaceError::SlotTaken(address));
        }
        free.slots &= !(1 << slot);
        Ok(SlotLease { address, segment: self.clone() })
    }

    /// Leases `size` bytes of addresses, as high as possible, aligned to `align` (a power of two).
    ///
    /// # Errors
    /// [`PlaceError::NoAddresses`].
    pub fn lease_bar(&self, kind: BarKind, size: u64, align: u64) -> Result<BarLease, PlaceError> {
        let none = PlaceError::NoAddresses { segment: self.number, size, kind };
        let mut free = self.lock();
        let window = free.window(kind).ok_or(none.clone())?;
        let range = window.allocate(size, align, AllocPolicy::LastMatch).map_err(|_| none)?;
        Ok(BarLease { range, kind, segment: self.clone() })
    }
}

/// A leased slot.
pub struct SlotLease {
    address: Address,
    segment: Segment,
}

impl SlotLease {
    /// Which slot.
    pub fn address(&self) -> Address {
        self.address
    }
}

impl Drop for SlotLease {
    fn drop(&mut self) {
        self.segment.lock().slots |= 1 << self.address.slot;
    }
}

/// A leased range of addresses.
pub struct BarLease {
    range: RangeInclusive,
    kind: BarKind,
    segment: Segment,
}

impl BarLease {
    /// The first address.
    pub fn base(&self) -> u64 {
        self.range.start()
    }

    /// Which window it came from.
    pub fn kind(&self) -> BarKind {
        self.kind
    }
}

impl Drop for BarLease {
    fn drop(&mut self) {
        if let Some(window) = self.segment.lock().window(self.kind) {
            // The range came from this window and is freed once.
            let _ = window.free(&self.range);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment() -> Segment {
        Segment::new(0, (0xc000_0000, 0xc0ff_ffff), (1 << 32, (1 << 33) - 1))
    }

    #[test]
    fn slots_are_leased_once_and_come_back() {
        let segment = segment();
        let third = segment.lease_slot(Some(3)).unwrap();
        assert_eq!(segment.lease_slot(Some(3)).err(), Some(PlaceError::SlotTaken(third.address())));
        assert_eq!(
            segment.lease_slot(Some(0)).err(),
            Some(PlaceError::SlotTaken(Address { segment: 0, slot: 0 }))
        );
        let others: Vec<_> = (0..30).map(|_| segment.lease_slot(None).unwrap()).collect();
        assert!(others.iter().all(|lease| lease.address().slot != 3));
        assert_eq!(segment.lease_slot(None).err(), Some(PlaceError::NoSlot(0)));
        drop(third);
        assert_eq!(segment.lease_slot(None).unwrap().address().slot, 3);
    }

    #[test]
    fn addresses_are_leased_from_the_top_and_come_back() {
        let segment = segment();
        let first = segment.lease_bar(BarKind::Memory32, 0x8_0000, 0x80_0000).unwrap();
        let second = segment.lease_bar(BarKind::Memory32, 0x8_0000, 0x80_0000).unwrap();
        assert_eq!((first.base(), second.base()), (0xc080_0000, 0xc000_0000));
        assert!(segment.lease_bar(BarKind::Memory32, 0x8_0000, 0x80_0000).is_err());
        drop(first);
        assert_eq!(segment.lease_bar(BarKind::Memory32, 0x8_0000, 0x80_0000).unwrap().base(), 0xc080_0000);
        assert_eq!(
            segment.lease_bar(BarKind::Memory64, 1 << 20, 1 << 20).unwrap().base(),
            (1 << 33) - (1 << 20)
        );
    }
}

//! PCI segments: 32 slots and two address windows each, leased to functions. Dropping a lease gives it back, so a failed attach needs
//! no clean-up by hand.
//!
//! Guests move BARs: firmware that assigns addresses itself moves all of them. Nobody is told at that moment, because a device never
//! calls upwards. Before addresses are leased to a new function, its owner asks the functions that are there where their BARs are and
//! lets the leases follow ([`Segments::follow`]).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use vm_allocator::{AddressAllocator, AllocPolicy, RangeInclusive};

use crate::{Address, BarKind};

const SLOTS: u8 = 32;

/// Why a function gets no place.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PlaceError {
    /// The machine has fewer segments.
    #[error("There is no PCI segment {0}: use a lower pci_segment or raise platform.num_pci_segments")]
    NoSegment(u16),
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

/// Addresses that a segment's BARs may have: first and last of each window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Below 4 GiB.
    pub memory32: (u64, u64),
    /// For 64-bit BARs.
    pub memory64: (u64, u64),
}

/// All segments of a machine, by number. Cloning shares them.
#[derive(Clone)]
pub struct Segments(Arc<[Segment]>);

impl Segments {
    /// Segment 0, and one for each of `others`.
    pub fn new(first: Windows, others: impl IntoIterator<Item = Windows>) -> Self {
        let windows = std::iter::once(first).chain(others);
        Self((0..=u16::MAX).zip(windows).map(|(number, windows)| Segment::new(number, windows)).collect())
    }

    /// Segment `number`.
    ///
    /// # Errors
    /// [`PlaceError::NoSegment`].
    pub fn get(&self, number: u16) -> Result<&Segment, PlaceError> {
        self.0.get(usize::from(number)).ok_or(PlaceError::NoSegment(number))
    }

    /// Lets leases follow their BARs to where the guest has moved them: each comes with its base, or `None` while it is not decoded.
    /// What is decoded is leased first, because it is on the bus; a BAR that is not decoded keeps of its last place what nobody else
    /// occupies. Outside of all windows there is nothing to lease.
    pub fn follow<'a>(&self, bars: impl IntoIterator<Item = (&'a mut BarLease, Option<u64>)>) {
        let mut decoded = Vec::new();
        let mut idle = Vec::new();
        // All let go first: BARs may have changed places.
        for (lease, base) in bars {
            lease.held.clear();
            lease.base = base.unwrap_or(lease.base);
            if base.is_some() { &mut decoded } else { &mut idle }.push(lease);
        }
        for lease in decoded.into_iter().chain(idle) {
            lease.held = self.0.iter().flat_map(|segment| segment.hold_at(lease.base, lease.size)).collect();
        }
    }
}

struct Free {
    slots: u32,
    /// Every range that is held, because the allocator does not look whether what is wanted at a fixed address lies inside of one.
    held: Vec<RangeInclusive>,
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
    /// Slot 0 of segment 0 belongs to the host bridge.
    fn new(number: u16, windows: Windows) -> Self {
        // A window that the allocator refuses is an empty one.
        let window = |(first, last): (u64, u64)| {
            let size = last.checked_sub(first)?.checked_add(1)?;
            AddressAllocator::new(first, size).ok()
        };
        let slots = if number == 0 { !1 } else { u32::MAX };
        let held = Vec::new();
        let free =
            Free { slots, held, window32: window(windows.memory32), window64: window(windows.memory64) };
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
        let held = self.hold(kind, size, align, AllocPolicy::LastMatch);
        let held = held.ok_or(PlaceError::NoAddresses { segment: self.number, size, kind })?;
        Ok(BarLease { base: held.range.start(), size, kind, held: vec![held] })
    }

    fn hold(&self, window: BarKind, size: u64, align: u64, policy: AllocPolicy) -> Option<Held> {
        let mut free = self.lock();
        if let AllocPolicy::ExactMatch(first) = policy {
            let wanted = RangeInclusive::new(first, first.checked_add(size.checked_sub(1)?)?).ok()?;
            if free.held.iter().any(|held| held.overlaps(&wanted)) {
                return None;
            }
        }
        let range = free.window(window)?.allocate(size, align, policy).ok()?;
        free.held.push(range);
        Some(Held { range, window, segment: self.clone() })
    }

    /// What of the range at `base` lies in each window, if it is free.
    fn hold_at(&self, base: u64, size: u64) -> impl Iterator<Item = Held> {
        let last = base.saturating_add(size.saturating_sub(1));
        [BarKind::Memory32, BarKind::Memory64].into_iter().filter_map(move |kind| {
            let (window_first, window_last) = {
                let mut free = self.lock();
                let window = free.window(kind)?;
                (window.base(), window.end())
            };
            let first = base.max(window_first);
            let size = last.min(window_last).checked_sub(first)?.checked_add(1)?;
            self.hold(kind, size, 1, AllocPolicy::ExactMatch(first))
        })
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

/// Addresses leased to a BAR.
pub struct BarLease {
    base: u64,
    size: u64,
    kind: BarKind,
    /// Its part of each window: more than one if it lies across an edge, none if it is outside or others are there.
    held: Vec<Held>,
}

impl BarLease {
    /// The BAR's first address, as far as the lease has followed it.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// How wide the BAR's register is.
    pub fn kind(&self) -> BarKind {
        self.kind
    }
}

/// A range taken from a window, given back when dropped.
struct Held {
    range: RangeInclusive,
    window: BarKind,
    segment: Segment,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut free = self.segment.lock();
        free.held.retain(|held| *held != self.range);
        if let Some(window) = free.window(self.window) {
            // The range came from this window and is freed once.
            let _ = window.free(&self.range);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Windows =
        Windows { memory32: (0xc000_0000, 0xc0ff_ffff), memory64: (1 << 32, (1 << 33) - 1) };
    const SECOND: Windows =
        Windows { memory32: (0xc100_0000, 0xc1ff_ffff), memory64: (1 << 33, (1 << 34) - 1) };

    fn segments() -> Segments {
        Segments::new(FIRST, [SECOND])
    }

    fn segment() -> Segment {
        segments().get(0).unwrap().clone()
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

    #[test]
    fn each_segment_has_slots_and_windows_of_its_own() {
        let segments = segments();
        let second = segments.get(1).unwrap();
        assert_eq!(second.lease_slot(None).unwrap().address(), Address { segment: 1, slot: 0 });
        let bar = second.lease_bar(BarKind::Memory32, 0x100_0000, 0x1000).unwrap();
        assert_eq!(bar.base(), 0xc100_0000);
        assert!(segments.get(0).unwrap().lease_bar(BarKind::Memory32, 0x100_0000, 0x1000).is_ok());
        assert_eq!(segments.get(2).err(), Some(PlaceError::NoSegment(2)));
    }

    #[test]
    fn impossible_windows_are_empty() {
        let empty = Windows { memory32: (1, 0), memory64: (0, u64::MAX) };
        let segments = Segments::new(empty, []);
        for kind in [BarKind::Memory32, BarKind::Memory64] {
            let none = PlaceError::NoAddresses { segment: 0, size: 0x1000, kind };
            assert_eq!(segments.get(0).unwrap().lease_bar(kind, 0x1000, 0x1000).err(), Some(none));
        }
    }

    #[test]
    fn leases_follow_bars_that_changed_places() {
        const SIZE: u64 = 0x80_0000;
        let segments = segments();
        let segment = segments.get(0).unwrap();
        let lease = || segment.lease_bar(BarKind::Memory32, SIZE, SIZE);
        let (mut first, mut second) = (lease().unwrap(), lease().unwrap());
        let (at_first, at_second) = (first.base(), second.base());
        segments.follow([(&mut first, Some(at_second)), (&mut second, Some(at_first))]);
        assert_eq!((first.base(), second.base()), (at_second, at_first));
        assert!(lease().is_err(), "both are still leased");
        drop(first);
        assert_eq!(lease().unwrap().base(), at_second);
    }

    #[test]
    fn a_decoded_bar_has_its_place_before_one_that_is_not_decoded() {
        const SIZE: u64 = 0x80_0000;
        let segments = segments();
        let segment = segments.get(0).unwrap();
        let lease = || segment.lease_bar(BarKind::Memory32, SIZE, SIZE);
        // The other is not decoded at that moment, so that the guest can put this one there.
        let (mut bar, mut other) = (lease().unwrap(), lease().unwrap());
        let (left, at) = (bar.base(), other.base());
        segments.follow([(&mut other, None), (&mut bar, Some(at))]);
        drop(other);
        let rest = [lease(), lease()].map(|lease| lease.ok().map(|lease| lease.base()));
        assert_eq!(rest, [Some(left), None], "what the BAR occupies was leased");
    }

    #[test]
    fn a_larger_bar_over_the_place_of_one_that_is_not_decoded_has_all_of_it() {
        let segments = segments();
        let segment = segments.get(0).unwrap();
        let mut large = segment.lease_bar(BarKind::Memory64, 0x40_0000, 0x40_0000).unwrap();
        let mut small = segment.lease_bar(BarKind::Memory32, 0x10_0000, 0x10_0000).unwrap();
        let at = small.base() & !0x3f_ffff;
        segments.follow([(&mut small, None), (&mut large, Some(at))]);
        let below = segment.lease_bar(BarKind::Memory32, 0x10_0000, 0x10_0000).unwrap();
        assert_eq!(below.base(), at - 0x10_0000);
        // It goes: the small one has its place again.
        let away = !0x3f_ffff;
        segments.follow([(&mut large, Some(away)), (&mut small, None)]);
        let next = segment.lease_bar(BarKind::Memory32, 0x10_0000, 0x10_0000).unwrap();
        assert_eq!(next.base(), small.base() - 0x10_0000);
    }

    #[test]
    fn a_bar_across_the_edge_of_a_window_leases_what_lies_inside() {
        let windows = Windows { memory32: (0xc010_0000, 0xc01f_ffff), ..FIRST };
        let segments = Segments::new(windows, []);
        let segment = segments.get(0).unwrap();
        let mut bar = segment.lease_bar(BarKind::Memory64, 0x40_0000, 0x40_0000).unwrap();
        segments.follow([(&mut bar, Some(0xc000_0000))]);
        assert!(segment.lease_bar(BarKind::Memory32, 0x1000, 0x1000).is_err());
        drop(bar);
        assert!(segment.lease_bar(BarKind::Memory32, 0x10_0000, 0x10_0000).is_ok());
    }

    #[test]
    fn what_a_moved_bar_occupies_is_not_leased_and_what_it_left_is() {
        const SIZE: u64 = 0x80_0000;
        let segments = segments();
        let segment = segments.get(0).unwrap();
        let mut bar = segment.lease_bar(BarKind::Memory64, SIZE, SIZE).unwrap();
        let left = bar.base();
        // A 64-bit BAR may lie in the window below 4 GiB.
        segments.follow([(&mut bar, Some(0xc000_0000))]);
        assert_eq!(segment.lease_bar(BarKind::Memory64, SIZE, SIZE).unwrap().base(), left);
        let other = segment.lease_bar(BarKind::Memory32, SIZE, SIZE).unwrap();
        assert_eq!(other.base(), 0xc080_0000);
        assert!(segment.lease_bar(BarKind::Memory32, SIZE, SIZE).is_err());
        // Onto another BAR, then out of all windows: nothing is taken twice, and nothing is lost.
        segments.follow([(&mut bar, Some(0xc080_0000))]);
        segments.follow([(&mut bar, Some(u64::MAX - SIZE + 1))]);
        drop(bar);
        drop(other);
        assert!(segment.lease_bar(BarKind::Memory32, 2 * SIZE, SIZE).is_ok());
    }
}

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

impl Windows {
    /// Deals out both windows by weight (`spec/devices2.md` §1): each segment gets its weight in units, upwards, and the last one what is
    /// left. A window without a whole unit for each weight is empty for all but the last.
    pub fn split(self, weights: &[(u32, u32)]) -> Vec<Self> {
        const ALIGN32: u64 = 4 << 10;
        const ALIGN64: u64 = 4 << 30;
        let parts32 = deal(self.memory32, weights.iter().map(|(weight, _)| *weight), ALIGN32);
        let parts64 = deal(self.memory64, weights.iter().map(|(_, weight)| *weight), ALIGN64);
        let windows = parts32.into_iter().zip(parts64);
        windows.map(|(memory32, memory64)| Self { memory32, memory64 }).collect()
    }
}

fn deal(
    (first, last): (u64, u64),
    weights: impl Iterator<Item = u32> + Clone,
    align: u64,
) -> Vec<(u64, u64)> {
    let sum: u64 = weights.clone().map(u64::from).sum();
    let len = last.saturating_sub(first).saturating_add(1);
    let unit = len / align.saturating_mul(sum.max(1)) * align;
    let mut next = first;
    let mut parts: Vec<_> = weights
        .map(|weight| {
            let start = next;
            next += u64::from(weight) * unit;
            (start, next - 1)
        })
        .collect();
    if let Some(end) = parts.last_mut() {
        end.1 = last;
    }
    parts
}

/// All segments of a machine, by number. Cloning shares them.
#[derive(Clone)]
pub struct Segments(Arc<[Segment]>);

impl Segments {
    /// One for each of `windows`.
    pub fn new(windows: impl IntoIterator<Item = Windows>) -> Self {
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

    /// Leases `size` bytes of the 64-bit window to memory that a function brings, as high as possible, aligned to `align` (a power of two).
    ///
    /// # Errors
    /// [`PlaceError::NoAddresses`].
    pub fn lease_memory(&self, size: u64, align: u64) -> Result<MemoryLease, PlaceError> {
        self.lease_memory_by(size, align, AllocPolicy::LastMatch)
    }

    /// The same from `base` on: where a guest knows it already.
    ///
    /// # Errors
    /// [`PlaceError::NoAddresses`] if not all of it is free.
    pub fn lease_memory_at(&self, base: u64, size: u64) -> Result<MemoryLease, PlaceError> {
        self.lease_memory_by(size, 1, AllocPolicy::ExactMatch(base))
    }

    fn lease_memory_by(&self, size: u64, align: u64, policy: AllocPolicy) -> Result<MemoryLease, PlaceError> {
        let kind = BarKind::Memory64;
        let held = self.hold(kind, size, align, policy);
        held.map(MemoryLease).ok_or(PlaceError::NoAddresses { segment: self.number, size, kind })
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

/// Addresses leased to memory that a function brings. The guest cannot move it.
pub struct MemoryLease(Held);

impl MemoryLease {
    /// The first address.
    pub fn base(&self) -> u64 {
        self.0.range.start()
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.0.range.len()
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
mod tests;

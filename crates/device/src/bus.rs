//! The address spaces: who answers which address.
//!
//! A bus is a sorted immutable array behind an atomically swapped pointer, so a vCPU finds a device without a lock and takes one only:
//! the device's own. Attaching and moving devices builds a new array under `edit`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use arc_swap::ArcSwap;
use host::EventFd;
use thiserror::Error;

use crate::{Access, Device, Effect, Region, Space};

/// A device in its place: the only lock around a device.
pub type Slot = Arc<Mutex<dyn Device>>;

/// Registers that overlap others.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{space:?} addresses {base:#x} to {end:#x} are already taken: give the device another place")]
pub struct Collision {
    /// Which address space.
    pub space: Space,
    /// First address of the refused region.
    pub base: u64,
    /// Last address of the refused region.
    pub end: u64,
}

/// Writes that the hypervisor turns into a descriptor's signal without leaving the guest for long (KVM: ioeventfd).
pub trait Doorbells: Send + Sync {
    /// From now on writes to `address` signal `bell`.
    fn bind(&self, space: Space, address: u64, bell: &EventFd);
    /// Ends [`Doorbells::bind`].
    fn unbind(&self, space: Space, address: u64, bell: &EventFd);
}

/// For hypervisors without doorbells: devices see the writes.
#[derive(Clone, Copy, Debug)]
pub struct NoDoorbells;

impl Doorbells for NoDoorbells {
    fn bind(&self, _: Space, _: u64, _: &EventFd) {}
    fn unbind(&self, _: Space, _: u64, _: &EventFd) {}
}

#[derive(Clone)]
struct Entry {
    region: Arc<Region>,
    slot: Slot,
}

impl Entry {
    fn last(&self) -> u64 {
        self.region.base.saturating_add(self.region.len - 1)
    }

    fn belongs_to(&self, slot: &Slot) -> bool {
        Arc::ptr_eq(&self.slot, slot)
    }
}

/// All address spaces of one machine.
pub struct AddressSpaces {
    /// Sorted by space, then base.
    entries: ArcSwap<Vec<Entry>>,
    /// Held while a new array is made.
    edit: Mutex<()>,
    doorbells: Arc<dyn Doorbells>,
}

impl AddressSpaces {
    /// Empty address spaces.
    pub fn new(doorbells: Arc<dyn Doorbells>) -> Self {
        Self { entries: ArcSwap::default(), edit: Mutex::new(()), doorbells }
    }

    /// Gives a device its addresses.
    ///
    /// # Errors
    /// [`Collision`] if one is taken; then the device has none.
    pub fn attach(&self, slot: &Slot) -> Result<(), Collision> {
        self.edit(slot, |_| Some(lock(slot).regions()))
    }

    /// Takes a device's addresses away and drops it. `slot` is the caller's and the only reference besides those of the bus: a vCPU
    /// may be inside the device at this moment, and the device must not come to its end, which joins threads, on that vCPU's thread.
    /// So this waits until no vCPU is inside, until `deadline`: who removes several devices gives all of them the same, because a vCPU that
    /// is stuck in any of them keeps them all.
    pub fn detach(&self, slot: Slot, deadline: Instant) {
        // Only new regions can collide.
        let _ = self.edit(&slot, |_| Some(Vec::new()));
        while Arc::strong_count(&slot) > 1 {
            if Instant::now() > deadline {
                tracing::error!("A vCPU has not left a removed device: it ends on that vCPU's thread");
                return;
            }
            thread::yield_now();
        }
    }

    /// Takes a device's addresses away for a moment: [`AddressSpaces::attach`] gives it others. No vCPU runs.
    pub fn withdraw(&self, slot: &Slot) {
        // Only new regions can collide.
        let _ = self.edit(slot, |_| Some(Vec::new()));
    }

    /// Reads `data.len()` bytes at `address`; all ones where nobody answers.
    pub fn read(&self, space: Space, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((entry, at)) = find(&self.entries.load(), space, address, data.len()) {
            lock(&entry.slot).read(at, data);
        }
    }

    /// Writes `data` at `address`. A move of the device's own registers is done here; other effects are the caller's.
    pub fn write(&self, space: Space, address: u64, data: &[u8]) -> Effect {
        let entries = self.entries.load();
        let Some((entry, at)) = find(&entries, space, address, data.len()) else { return Effect::None };
        let effect = lock(&entry.slot).write(at, data);
        if effect != Effect::Remap {
            return effect;
        }
        // A device that was detached while the guest moved it stays away.
        let moved = |attached: bool| attached.then(|| lock(&entry.slot).regions());
        if let Err(collision) = self.edit(&entry.slot, moved) {
            tracing::warn!(target: "guest", "The guest moved a device onto another: {collision}");
            lock(&entry.slot).undo_remap();
        }
        Effect::None
    }

    /// Whether some device answers at `address`.
    pub fn answers(&self, space: Space, address: u64) -> bool {
        find(&self.entries.load(), space, address, 1).is_some()
    }

    /// Gives a device other regions: `regions` is told whether it has any now, and answers `None` to leave it as it is. Asked under the
    /// lock of edits, so that of two moves the later one counts.
    fn edit(&self, slot: &Slot, regions: impl FnOnce(bool) -> Option<Vec<Region>>) -> Result<(), Collision> {
        let _edit = self.edit.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.entries.load_full();
        let (old, mut entries): (Vec<Entry>, Vec<Entry>) =
            current.iter().cloned().partition(|e| e.belongs_to(slot));
        let Some(regions) = regions(!old.is_empty()) else { return Ok(()) };
        let new: Vec<Entry> = regions
            .into_iter()
            .filter(|region| region.len != 0)
            .map(|region| Entry { region: Arc::new(region), slot: slot.clone() })
            .collect();
        for entry in &new {
            let place = entries.partition_point(|e| {
                (e.region.space, e.region.base) < (entry.region.space, entry.region.base)
            });
            let clash = |e: &Entry| {
                e.region.space == entry.region.space
                    && e.region.base <= entry.last()
                    && entry.region.base <= e.last()
            };
            if entries.get(place).is_some_and(clash)
                || place.checked_sub(1).is_some_and(|i| clash(&entries[i]))
            {
                return Err(Collision {
                    space: entry.region.space,
                    base: entry.region.base,
                    end: entry.last(),
                });
            }
            entries.insert(place, entry.clone());
        }
        self.ring_for(&old, false);
        self.entries.store(Arc::new(entries));
        self.ring_for(&new, true);
        Ok(())
    }

    fn ring_for(&self, entries: &[Entry], bind: bool) {
        for region in entries.iter().map(|e| &e.region) {
            for (offset, bell) in &region.doorbells {
                let address = region.base.saturating_add(*offset);
                if bind {
                    self.doorbells.bind(region.space, address, bell);
                } else {
                    self.doorbells.unbind(region.space, address, bell);
                }
            }
        }
    }
}

fn find(entries: &[Entry], space: Space, address: u64, len: usize) -> Option<(&Entry, Access)> {
    let after = entries.partition_point(|e| (e.region.space, e.region.base) <= (space, address));
    let entry = entries.get(after.checked_sub(1)?)?;
    let last = address.checked_add((len as u64).saturating_sub(1))?;
    (entry.region.space == space && last <= entry.last())
        .then(|| (entry, Access { region: entry.region.index, offset: address - entry.region.base }))
}

fn lock(slot: &Slot) -> MutexGuard<'_, dyn Device + 'static> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;

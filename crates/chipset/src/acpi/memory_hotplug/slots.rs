//! The RAM that has come, in slots that follow each other without gaps.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memory::layout::{BLOCK, Range};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::register::{ENABLED, INSERTING};

/// Slots there are.
pub(super) const SLOTS: usize = 8;

/// RAM that has come in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slot {
    /// Bytes, a multiple of [`BLOCK`].
    pub(super) len: u64,
    /// The guest has not said yet that it knows.
    pub(super) is_new: bool,
}

/// Why RAM cannot grow. The texts name the field of `vm.resize` or of the configuration to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GrowthError {
    /// Not a multiple of a block.
    #[error(
        "The requested hotplug memory addition is not a valid size: desired_ram may exceed the present RAM by multiples of {BLOCK} bytes \
         (128M), not by {0}"
    )]
    Size(u64),
    /// All slots are taken.
    #[error(
        "No ACPI slot available: RAM has grown {SLOTS} times, so reboot the VM before desired_ram is raised again"
    )]
    Slots,
    /// There are no more addresses.
    #[error(
        "Not enough space in the hotplug RAM region: desired_ram may exceed the present RAM by {left} bytes, not by {wanted}; \
         memory.hotplug_size says how much may come"
    )]
    Window {
        /// Bytes to come.
        wanted: u64,
        /// Bytes there is room for.
        left: u64,
    },
}

/// Slots for RAM. A leaf object that the control thread shares with the registers; cloning shares it.
#[derive(Clone, Debug)]
pub struct MemorySlots {
    window: Range,
    taken: Arc<Mutex<Vec<Slot>>>,
}

impl MemorySlots {
    /// RAM will come to the addresses of `window`, the first of which is that of a block.
    pub(super) fn new(window: Range) -> Self {
        Self { window, taken: Arc::default() }
    }

    /// Whether RAM can come at all.
    pub(super) fn has_window(&self) -> bool {
        self.window.1 > 0
    }

    /// Bytes of RAM that have come.
    pub fn plugged(&self) -> u64 {
        total(&self.lock())
    }

    /// Where the RAM that has come lies: an address and bytes for each slot.
    pub fn ranges(&self) -> Vec<Range> {
        let mut next = self.window.0;
        let place = |slot: Slot| {
            let base = next;
            next += slot.len;
            (base, slot.len)
        };
        self.save().into_iter().map(place).collect()
    }

    /// The address at which the next `len` bytes of RAM are to begin.
    ///
    /// # Errors
    /// [`GrowthError`] if they cannot come.
    pub fn plan(&self, len: u64) -> Result<u64, GrowthError> {
        let taken = self.lock();
        let plugged = total(&taken);
        let left = self.window.1 - plugged;
        match len {
            _ if len > left => Err(GrowthError::Window { wanted: len, left: left / BLOCK * BLOCK }),
            _ if len == 0 || !len.is_multiple_of(BLOCK) => Err(GrowthError::Size(len)),
            _ if taken.len() >= SLOTS => Err(GrowthError::Slots),
            _ => Ok(self.window.0 + plugged),
        }
    }

    /// The RAM that was planned is there, for the guest to find when it is told to look.
    ///
    /// # Errors
    /// As [`MemorySlots::plan`].
    pub fn insert(&self, len: u64) -> Result<(), GrowthError> {
        self.plan(len)?;
        self.lock().push(Slot { len, is_new: true });
        Ok(())
    }

    /// What the guest reads of a slot: where its RAM begins, bytes, and status.
    pub(super) fn shown(&self, number: u32) -> (u64, u64, u8) {
        let taken = self.lock();
        let Some(slot) = taken.get(number as usize) else { return (0, 0, 0) };
        let base = self.window.0 + total(&taken[..number as usize]);
        (base, slot.len, if slot.is_new { ENABLED | INSERTING } else { ENABLED })
    }

    /// The guest knows of the RAM in a slot.
    pub(super) fn acknowledge(&self, number: u32) {
        if let Some(slot) = self.lock().get_mut(number as usize) {
            slot.is_new = false;
        }
    }

    /// Back to power-on: no RAM has come.
    pub(super) fn reset(&self) {
        self.lock().clear();
    }

    pub(super) fn save(&self) -> Vec<Slot> {
        self.lock().clone()
    }

    /// False, and nothing has changed, if that cannot be what this machine's slots held.
    pub(super) fn restore(&self, saved: Vec<Slot>) -> bool {
        let is_whole = |slot: &Slot| slot.len > 0 && slot.len.is_multiple_of(BLOCK);
        let sum = saved.iter().try_fold(0u64, |sum, slot| sum.checked_add(slot.len));
        let fits =
            saved.len() <= SLOTS && saved.iter().all(is_whole) && sum.is_some_and(|sum| sum <= self.window.1);
        if fits {
            *self.lock() = saved;
        }
        fits
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cannot overflow: what is in slots lies within the window.
fn total(slots: &[Slot]) -> u64 {
    slots.iter().map(|slot| slot.len).sum()
}

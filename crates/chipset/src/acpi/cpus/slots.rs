//! Where CPUs can be, and how far the guest is with each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::register::{ENABLED, INSERTING, REMOVING};

/// The guest has been asked to let go of the CPU; only then it may. It sees [`REMOVING`], until it has acknowledged it.
const LEAVING: u8 = 1 << 4;

/// Places for CPUs. A leaf object that the control thread shares with the registers; cloning shares it.
#[derive(Clone, Debug)]
pub struct CpuSlots(Arc<Mutex<Vec<u8>>>);

impl CpuSlots {
    pub(super) fn new(possible: usize, present: u32) -> Self {
        let slots = Self(Arc::new(Mutex::new(vec![0; possible])));
        slots.reset(present);
        slots
    }

    /// Whether there is a CPU in this slot: the guest has it, or is to find it.
    pub fn is_present(&self, cpu: u32) -> bool {
        self.get(cpu) & ENABLED != 0
    }

    /// The slots with a CPU, by number.
    pub fn present(&self) -> impl Iterator<Item = u32> {
        let slots = self.save();
        (0u32..).zip(slots).filter(|(_, slot)| slot & ENABLED != 0).map(|(number, _)| number)
    }

    /// Whether the guest has been asked to let go of a CPU and has not done so yet.
    pub fn are_leaving(&self) -> bool {
        self.lock().iter().any(|slot| slot & LEAVING != 0)
    }

    /// CPUs there will be when none is leaving any more.
    pub fn staying(&self) -> u32 {
        let stays = |slot: &&u8| **slot & (ENABLED | LEAVING) == ENABLED;
        self.lock().iter().filter(stays).count() as u32
    }

    /// Puts a CPU into each empty slot below `count`, for the guest to find when it is told to look.
    pub fn insert(&self, count: u32) {
        for slot in self.lock().iter_mut().take(count as usize).filter(|slot| **slot & ENABLED == 0) {
            *slot = ENABLED | INSERTING;
        }
    }

    /// Asks the guest to let go of all CPUs but the first `count`, at least one; again if it has been asked before. It must be told
    /// to look.
    pub fn ask_to_leave(&self, count: u32) {
        for slot in self.lock().iter_mut().skip(count.max(1) as usize).filter(|slot| **slot & ENABLED != 0) {
            *slot |= LEAVING | REMOVING;
        }
    }

    /// What the guest reads.
    pub(super) fn status(&self, cpu: u32) -> u8 {
        self.get(cpu) & (ENABLED | INSERTING | REMOVING)
    }

    /// The guest has seen these bits of a CPU's status.
    pub(super) fn acknowledge(&self, cpu: u32, seen: u8) {
        if let Some(slot) = self.lock().get_mut(cpu as usize) {
            *slot &= !seen;
        }
    }

    /// Empties a slot, if that was asked for.
    pub(super) fn eject(&self, cpu: u32) -> bool {
        let mut slots = self.lock();
        let asked = slots.get_mut(cpu as usize).filter(|slot| **slot & LEAVING != 0);
        asked.map(|slot| *slot = 0).is_some()
    }

    /// Back to power-on: the first `present` slots have a CPU.
    pub(super) fn reset(&self, present: u32) {
        for (slot, number) in self.lock().iter_mut().zip(0u32..) {
            *slot = if number < present { ENABLED } else { 0 };
        }
    }

    pub(super) fn save(&self) -> Vec<u8> {
        self.lock().clone()
    }

    /// False, and nothing has changed, if that is no state of this machine's slots.
    pub(super) fn restore(&self, saved: Vec<u8>) -> bool {
        let is_possible = |slot: &u8| match slot & (ENABLED | LEAVING) {
            0 => *slot == 0,
            ENABLED => slot & !(ENABLED | INSERTING) == 0,
            _ => slot & !(ENABLED | INSERTING | REMOVING | LEAVING) == 0 && slot & ENABLED != 0,
        };
        let mut slots = self.lock();
        let first_stays = saved.first().is_some_and(|first| first & (ENABLED | LEAVING) == ENABLED);
        let fits = saved.len() == slots.len() && first_stays && saved.iter().all(is_possible);
        if fits {
            *slots = saved;
        }
        fits
    }

    fn get(&self, cpu: u32) -> u8 {
        self.lock().get(cpu as usize).copied().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

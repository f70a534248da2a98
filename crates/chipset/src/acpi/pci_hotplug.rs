//! Hot-plug of PCI devices: the registers that say in which slots a device has come and which ones the guest is to let go of
//! (`spec/devices.md` §4, PHPR; `spec/lifecycle.md` §11).
//!
//! ```text
//!  control: insert ──▶ PCIU bit ─┐                         ┌─▶ the guest's kernel looks into the slot
//!  control: ask_back ▶ PCID bit ─┴─▶ interrupt ─▶ PSCN ────┴─▶ ... lets go of it ─▶ _EJ0 ─▶ B0EJ ─▶ take_ejected: control
//! ```
//! A slot leaves only if control has asked for it: whatever else a guest writes to B0EJ is ignored.

mod description;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use device::{Access, Device, Effect, Persist, Region, RestoreError, Space};
use pci::Address;
use serde::{Deserialize, Serialize};

use super::{Cause, Notifier};

/// Slots whose device has come, by bit. Reading clears it.
const UP: u64 = 0;
/// Slots whose device is to go, by bit. Reading clears it.
const DOWN: u64 = 4;
/// Writing the bits of slots ejects them. Reads as zero.
const EJECT: u64 = 8;
/// The number of the segment that the others are about.
const SEGMENT: u64 = 12;
/// Bytes of all registers.
const LEN: u64 = 16;

/// What is under way in a segment: a bit for each slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Slots {
    /// A device has come, and the guest has not looked yet.
    up: u32,
    /// The device is to go, and the guest has not looked yet.
    down: u32,
    /// The device is to go: the guest may eject it.
    asked: u32,
    /// The guest has ejected it, and control has not looked yet.
    ejected: u32,
}

/// The registers as they stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    segment: u32,
    slots: Vec<Slots>,
}

type Shared = Arc<Mutex<Vec<Slots>>>;

fn lock(shared: &Shared) -> MutexGuard<'_, Vec<Slots>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The half that control has: it tells the guest, and hears what the guest has ejected. A leaf object; cloning shares it.
#[derive(Clone)]
pub struct PciSlots {
    shared: Shared,
    notifier: Notifier,
}

impl PciSlots {
    /// A device is in this slot now. Whatever was under way there concerned another one, which is gone.
    pub fn insert(&self, at: Address) {
        self.tell(at, |slots, bit| {
            slots.up |= bit;
            slots.down &= !bit;
            slots.asked &= !bit;
            slots.ejected &= !bit;
        });
    }

    /// The guest is to let go of the device in this slot. Asking again interrupts it again.
    pub fn ask_back(&self, at: Address) {
        self.tell(at, |slots, bit| {
            slots.down |= bit;
            slots.asked |= bit;
        });
    }

    fn tell(&self, at: Address, change: impl FnOnce(&mut Slots, u32)) {
        if let Some(slots) = lock(&self.shared).get_mut(usize::from(at.segment)) {
            change(slots, 1 << at.slot);
        }
        self.notifier.notify(Cause::Pci);
    }

    /// What the guest has ejected since the last call.
    pub fn take_ejected(&self) -> Vec<Address> {
        let mut shared = lock(&self.shared);
        let ejected = (0..).zip(shared.iter_mut()).flat_map(|(segment, slots)| {
            let ejected = std::mem::take(&mut slots.ejected);
            (0..32).filter(move |slot| ejected & 1 << slot != 0).map(move |slot| Address { segment, slot })
        });
        ejected.collect()
    }
}

/// The registers.
pub struct PciHotplug {
    base: u64,
    segment: u32,
    slots: PciSlots,
}

impl PciHotplug {
    /// The registers at guest-physical `base`, for this many segments; `notifier` is how the guest hears of news.
    pub fn new(base: u64, segments: usize, notifier: Notifier) -> Self {
        let shared = Arc::new(Mutex::new(vec![Slots::default(); segments]));
        Self { base, segment: 0, slots: PciSlots { shared, notifier } }
    }

    /// Control's half.
    pub fn slots(&self) -> PciSlots {
        self.slots.clone()
    }

    /// Lets `act` have the selected segment, if there is one.
    fn selected<T: Default>(&self, act: impl FnOnce(&mut Slots) -> T) -> T {
        let mut shared = lock(&self.slots.shared);
        let selected = usize::try_from(self.segment).ok().and_then(|segment| shared.get_mut(segment));
        selected.map(act).unwrap_or_default()
    }

    fn eject(&self, wanted: u32) -> Effect {
        let ejected = self.selected(|slots| {
            let ejected = wanted & slots.asked;
            slots.asked &= !ejected;
            slots.down &= !ejected;
            slots.ejected |= ejected;
            ejected
        });
        if wanted & !ejected != 0 {
            let segment = self.segment;
            tracing::warn!(target: "guest", "Segment {segment}: the guest ejects slots {wanted:#x}, asked for are {ejected:#x}");
        }
        if ejected == 0 { Effect::None } else { Effect::Ejected }
    }
}

impl Device for PciHotplug {
    fn regions(&self) -> Vec<Region> {
        vec![Region::new(Space::Mmio, self.base, LEN, 0)]
    }

    fn aml(&self) -> Vec<u8> {
        description::aml(self.base, lock(&self.slots.shared).len())
    }

    /// Whole registers only: a part of one would lose the other part.
    fn read(&mut self, at: Access, data: &mut [u8]) {
        let Ok(data) = <&mut [u8; 4]>::try_from(data) else { return };
        let value = match at.offset {
            UP => self.selected(|slots| std::mem::take(&mut slots.up)),
            DOWN => self.selected(|slots| std::mem::take(&mut slots.down)),
            EJECT => 0,
            SEGMENT => self.segment,
            _ => return,
        };
        *data = value.to_le_bytes();
    }

    fn write(&mut self, at: Access, data: &[u8]) -> Effect {
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else { return Effect::None };
        match at.offset {
            EJECT => return self.eject(value),
            SEGMENT => self.segment = value,
            _ => {}
        }
        Effect::None
    }

    fn reset(&mut self) {
        self.segment = 0;
        lock(&self.slots.shared).fill(Slots::default());
    }
}

impl Persist for PciHotplug {
    type State = State;
    const KIND: &'static str = "acpi-pci-hotplug";
    const VERSION: u32 = 1;

    fn save(&self) -> State {
        State { segment: self.segment, slots: lock(&self.slots.shared).clone() }
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        let mut shared = lock(&self.slots.shared);
        if state.slots.len() != shared.len() {
            return Err(RestoreError::Value { kind: Self::KIND, field: "slots" });
        }
        self.segment = state.segment;
        *shared = state.slots;
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! The memory hot-plug controller: tells the guest of RAM that has come (`spec/devices.md` §4, MHPC, and §11).
//!
//! ```text
//!  control --plan, insert--> MemorySlots --registers--> guest
//! ```
//! The guest selects a slot, reads where its RAM is, and says that it knows. What it reads and what it writes are two views of the
//! same addresses: writing the first register does not change what is read there. RAM stays once it has come.

mod description;
mod slots;
#[cfg(test)]
mod tests;

use device::{Access, Device, Effect, Persist, Region, RestoreError, Space};
use memory::layout::Range;
use serde::{Deserialize, Serialize};

use slots::Slot;

pub use slots::{GrowthError, MemorySlots};

/// Offsets and bits of the registers. What no constant names reads as zero, and nothing is done about what is written there.
mod register {
    /// Read: where the RAM of the selected slot begins, 64 bits.
    pub(super) const BASE: u64 = 0;
    /// Read: how much it is, 64 bits.
    pub(super) const LENGTH: u64 = 8;
    /// Read: its proximity domain, 32 bits. Always 0, and no method reads it: the SRAT tells of nodes.
    pub(super) const PROXIMITY: u64 = 0x10;
    /// Status when read, what was done when written: a byte.
    pub(super) const STATUS: u64 = 0x14;
    /// Written: the slot that the others are about, 32 bits.
    pub(super) const SELECT: u64 = 0;
    /// Written: what the guest has done, 32 bits each. Nothing uses them.
    pub(super) const OUTCOME_EVENT: u64 = 4;
    pub(super) const OUTCOME: u64 = 8;
    /// Bytes of all registers.
    pub(super) const LEN: u64 = 0x18;

    /// Read: there is RAM.
    pub(super) const ENABLED: u8 = 1;
    /// Read: it has come. Written: the guest knows.
    pub(super) const INSERTING: u8 = 1 << 1;
    /// Written: the guest has let go of it.
    pub(super) const EJECT: u8 = 1 << 3;
}

/// The selected slot, and the RAM that has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    selected: u32,
    slots: Vec<Slot>,
}

/// The registers, 24 bytes of MMIO. Without addresses for RAM there are none, and the guest is told so.
pub struct MemoryHotplug {
    base: u64,
    selected: u32,
    slots: MemorySlots,
}

impl MemoryHotplug {
    /// The registers at guest-physical `base`, for RAM that comes to the addresses of `window`.
    pub fn new(base: u64, window: Range) -> Self {
        Self { base, selected: 0, slots: MemorySlots::new(window) }
    }

    /// Control's half.
    pub fn slots(&self) -> MemorySlots {
        self.slots.clone()
    }

    /// What the guest has done about the selected slot.
    fn obey(&self, done: u8) {
        if done & register::INSERTING != 0 {
            self.slots.acknowledge(self.selected);
        }
        if done & register::EJECT != 0 {
            let selected = self.selected;
            tracing::warn!(target: "guest", "The guest ejects the RAM in slot {selected}, which stays: nobody has asked for it");
        }
    }
}

impl Device for MemoryHotplug {
    fn regions(&self) -> Vec<Region> {
        let registers = Region::new(Space::Mmio, self.base, register::LEN, 0);
        if self.slots.has_window() { vec![registers] } else { Vec::new() }
    }

    fn aml(&self) -> Vec<u8> {
        if self.slots.has_window() { description::aml(self.base) } else { description::nothing() }
    }

    fn read(&mut self, at: Access, data: &mut [u8]) {
        let (base, length, status) = self.slots.shown(self.selected);
        let mut registers = [0; register::LEN as usize];
        registers[register::BASE as usize..][..8].copy_from_slice(&base.to_le_bytes());
        registers[register::LENGTH as usize..][..8].copy_from_slice(&length.to_le_bytes());
        registers[register::STATUS as usize] = status;
        for (offset, byte) in (at.offset as usize..).zip(data) {
            *byte = registers.get(offset).copied().unwrap_or(0);
        }
    }

    fn write(&mut self, at: Access, data: &[u8]) -> Effect {
        for (offset, byte) in (at.offset..).zip(data) {
            match offset {
                register::SELECT..register::OUTCOME_EVENT => {
                    let shift = 8 * (offset - register::SELECT);
                    self.selected = self.selected & !(0xff << shift) | u32::from(*byte) << shift;
                }
                register::STATUS => self.obey(*byte),
                _ => {}
            }
        }
        Effect::None
    }

    fn reset(&mut self) {
        self.selected = 0;
        self.slots.reset();
    }
}

impl Persist for MemoryHotplug {
    type State = State;
    const KIND: &'static str = "acpi-memory-hotplug";
    const VERSION: u32 = 1;

    fn save(&self) -> State {
        State { selected: self.selected, slots: self.slots.save() }
    }

    fn restore(&mut self, State { selected, slots }: State) -> Result<(), RestoreError> {
        if !self.slots.restore(slots) {
            return Err(RestoreError::Value { kind: Self::KIND, field: "slots" });
        }
        self.selected = selected;
        Ok(())
    }
}

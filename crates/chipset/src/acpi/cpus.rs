//! The CPU hot-plug controller: tells the guest which CPUs come and which are to go, and hears from it which it has let go of
//! (`spec/devices.md` §4, PRES and CPUS).
//!
//! ```text
//!  control --insert, ask_to_leave--> CpuSlots --registers--> guest
//!  control <--Effect::Ejected, is_present-- CpuSlots <--eject-- guest
//! ```
//! The guest selects a CPU, then reads its status or writes what it has done about it. A CPU leaves only after it was asked to,
//! and CPU 0 never does.

mod description;
mod slots;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use device::{Access, Device, Effect, Persist, Region, RestoreError, Space};
use serde::{Deserialize, Serialize};

pub use slots::CpuSlots;

/// Offsets and bits of the registers. What no constant names reads as zero.
mod register {
    /// The CPU that the others are about: 32 bits.
    pub(super) const SELECT: u64 = 0;
    /// Status when read, what was done when written: a byte.
    pub(super) const STATUS: u64 = 4;
    /// Bytes, with a command and its data, which nothing uses.
    pub(super) const LEN: u64 = 12;

    /// Read: there is a CPU.
    pub(super) const ENABLED: u8 = 1;
    /// Read: it has come. Written: the guest knows.
    pub(super) const INSERTING: u8 = 1 << 1;
    /// Read: it is to go. Written: the guest knows.
    pub(super) const REMOVING: u8 = 1 << 2;
    /// Written: the guest has let go of it.
    pub(super) const EJECT: u8 = 1 << 3;
}

/// The entry of a CPU in the MADT, and what its `_MAT` gives (ACPI 6.3 §5.2.12.12). `flags`: bit 0 enabled, bit 1 online capable.
pub fn madt_entry(apic_id: u32, flags: u32, uid: u32) -> [u8; 16] {
    const X2APIC: u8 = 9;
    let mut entry = [0; 16];
    entry[..2].copy_from_slice(&[X2APIC, 16]);
    for (bytes, field) in entry[4..].chunks_exact_mut(4).zip([apic_id, flags, uid]) {
        bytes.copy_from_slice(&field.to_le_bytes());
    }
    entry
}

/// The selected CPU, and every CPU's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    selected: u32,
    slots: Vec<u8>,
}

/// The registers, twelve bytes of MMIO.
pub struct CpuController {
    base: u64,
    apic_ids: Vec<u32>,
    /// The NUMA nodes of those CPUs that are in one, by number.
    nodes: BTreeMap<u32, u8>,
    /// CPUs at power-on.
    present: u32,
    selected: u32,
    slots: CpuSlots,
}

impl CpuController {
    /// The registers at guest-physical `base`. `apic_ids` are those of all possible CPUs; the first `present` are there at power-on.
    pub fn new(base: u64, apic_ids: Vec<u32>, present: u32) -> Self {
        let slots = CpuSlots::new(apic_ids.len(), present);
        Self { base, apic_ids, nodes: BTreeMap::new(), present, selected: 0, slots }
    }

    /// The same with CPUs in NUMA nodes: a CPU's number, and its node's.
    #[must_use]
    pub fn in_nodes(self, nodes: BTreeMap<u32, u8>) -> Self {
        Self { nodes, ..self }
    }

    /// The handle for those who bring CPUs and ask for them.
    pub fn slots(&self) -> CpuSlots {
        self.slots.clone()
    }

    /// What the guest has done about the selected CPU.
    fn obey(&mut self, done: u8) -> Effect {
        self.slots.acknowledge(self.selected, done & (register::INSERTING | register::REMOVING));
        if done & register::EJECT == 0 {
            return Effect::None;
        }
        if self.slots.eject(self.selected) {
            return Effect::Ejected;
        }
        tracing::warn!(target: "guest", "The guest ejects CPU {}, which nobody has asked for", self.selected);
        Effect::None
    }
}

impl Device for CpuController {
    fn regions(&self) -> Vec<Region> {
        vec![Region::new(Space::Mmio, self.base, register::LEN, 0)]
    }

    fn aml(&self) -> Vec<u8> {
        description::aml(self.base, &self.apic_ids, &self.nodes)
    }

    fn read(&mut self, at: Access, data: &mut [u8]) {
        let select = self.selected.to_le_bytes();
        let status = self.slots.status(self.selected);
        for (offset, byte) in (at.offset..).zip(data) {
            *byte = match offset {
                register::SELECT..register::STATUS => select[(offset - register::SELECT) as usize],
                register::STATUS => status,
                _ => 0,
            };
        }
    }

    fn write(&mut self, at: Access, data: &[u8]) -> Effect {
        let mut effect = Effect::None;
        for (offset, byte) in (at.offset..).zip(data) {
            match offset {
                register::SELECT..register::STATUS => {
                    let shift = 8 * (offset - register::SELECT);
                    self.selected = self.selected & !(0xff << shift) | u32::from(*byte) << shift;
                }
                register::STATUS => effect = self.obey(*byte),
                _ => {}
            }
        }
        effect
    }

    fn reset(&mut self) {
        self.selected = 0;
        self.slots.reset(self.present);
    }
}

impl Persist for CpuController {
    type State = State;
    const KIND: &'static str = "acpi-cpus";
    const VERSION: u32 = 1;

    fn save(&self) -> State {
        State { selected: self.selected, slots: self.slots.save() }
    }

    fn restore(&mut self, State { selected, slots }: State) -> Result<(), RestoreError> {
        if !self.slots.restore(slots) {
            return Err(RestoreError::Value { kind: Self::KIND, field: "CPU" });
        }
        self.selected = selected;
        Ok(())
    }
}

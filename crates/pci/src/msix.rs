//! MSI-X (PCI Local Bus 3.0 §6.8): a table of vectors that the guest programs, and what workers fire.
//!
//! The table is shared by the function (which the guest programs, under the bus slot's lock) and by workers (which fire). Firing
//! takes no lock: each vector has one atomic word. Back ends outside this process fire through a descriptor and see no mask, so the
//! hypervisor's vector is told of it and keeps their signals.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use device::{Interrupt, Msi, MsiSource, MsiVector};
use host::EventFd;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// "No interrupt" where a vector number is asked for.
pub const NO_VECTOR: u16 = 0xffff;
/// Capability id.
const CAPABILITY: u8 = 0x11;
/// Bytes per table entry.
const ENTRY: u64 = 16;
/// The most vectors a table can have: its size field has 11 bits.
const MAX_VECTORS: usize = 2048;
/// Message control bits.
const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;

/// The vector is masked in its entry.
const MASKED: u8 = 1;
/// MSI-X is off or masked as a whole.
const BLOCKED: u8 = 2;
/// Fired while it could not be sent.
const PENDING: u8 = 4;

struct Line {
    state: AtomicU8,
    vector: Box<dyn MsiVector>,
}

/// The vectors of one function, as workers see them.
pub struct Vectors(Box<[Line]>);

impl Vectors {
    /// Fires vector `index`; nothing if there is none.
    pub fn fire(&self, index: u16) {
        let Some(line) = self.0.get(usize::from(index)) else { return };
        if line.state.load(Ordering::SeqCst) & (MASKED | BLOCKED) == 0 {
            line.vector.fire();
            return;
        }
        line.state.fetch_or(PENDING, Ordering::SeqCst);
        line.send_pending();
    }

    /// Whether vector `index` was fired while it could not be sent. Called by the function only.
    fn is_pending(&self, index: usize) -> bool {
        self.0.get(index).is_some_and(Line::is_pending)
    }
}

impl Line {
    fn is_silent(&self) -> bool {
        self.state.load(Ordering::SeqCst) & (MASKED | BLOCKED) != 0
    }

    /// Masks or blocks the vector.
    fn silence(&self, bit: u8) {
        if self.state.fetch_or(bit, Ordering::SeqCst) & (MASKED | BLOCKED) == 0 {
            self.vector.mask();
        }
    }

    /// Ends [`Line::silence`]. If nothing else keeps the vector silent, it goes to `msi`.
    fn allow(&self, bit: u8, msi: Msi) {
        // The vector has its destination before anybody sends it.
        if self.state.load(Ordering::SeqCst) & (MASKED | BLOCKED) & !bit == 0 {
            self.vector.unmask(msi);
        }
        self.state.fetch_and(!bit, Ordering::SeqCst);
        self.send_pending();
    }

    fn is_pending(&self) -> bool {
        if self.is_silent() && self.vector.take_pending() {
            self.state.fetch_or(PENDING, Ordering::SeqCst);
        }
        self.state.load(Ordering::SeqCst) & PENDING != 0
    }

    fn send_pending(&self) {
        if self.state.compare_exchange(PENDING, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.vector.fire();
        }
    }

    /// Masked and blocked, and what was fired is forgotten.
    fn reset(&self) {
        self.silence(MASKED | BLOCKED);
        self.vector.take_pending();
        self.state.store(MASKED | BLOCKED, Ordering::SeqCst);
    }
}

/// One vector by number, for whoever fires it. The number may change while it is held.
pub struct Vector {
    vectors: Arc<Vectors>,
    index: AtomicU16,
}

impl Vector {
    /// Vector `index` of `vectors`.
    pub fn new(vectors: &Arc<Vectors>, index: u16) -> Self {
        Self { vectors: vectors.clone(), index: AtomicU16::new(index) }
    }

    /// Fires another vector from now on.
    pub fn set_index(&self, index: u16) {
        self.index.store(index, Ordering::SeqCst);
    }
}

impl Interrupt for Vector {
    fn fire(&self) {
        self.vectors.fire(self.index.load(Ordering::SeqCst));
    }

    fn event_fd(&self) -> Option<EventFd> {
        self.vectors.0.get(usize::from(self.index.load(Ordering::SeqCst)))?.vector.event_fd()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    address: u64,
    data: u32,
    control: u32,
}

const MASK: u32 = 1;
const RESET_ENTRY: Entry = Entry { address: 0, data: 0, control: MASK };

impl Entry {
    fn msi(&self) -> Msi {
        Msi { address: self.address, data: self.data }
    }
}

/// What the guest programmed, as it stands in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixState {
    control: u16,
    entries: Vec<Entry>,
    pending: Vec<bool>,
}

/// The guest's side: message control, table and pending bits.
pub struct Msix {
    control: u16,
    entries: Vec<Entry>,
    vectors: Arc<Vectors>,
}

/// A number of vectors that no table can have.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a PCI function has 1 to {MAX_VECTORS} interrupt vectors, not {0}: give the device fewer queues")]
pub struct VectorCountError(usize);

impl From<VectorCountError> for std::io::Error {
    fn from(error: VectorCountError) -> Self {
        Self::new(std::io::ErrorKind::InvalidInput, error)
    }
}

impl Msix {
    /// A table of `count` (1 to 2048) vectors, all masked, MSI-X off.
    ///
    /// # Errors
    /// [`VectorCountError`].
    pub fn new(count: usize, source: &dyn MsiSource) -> Result<Self, VectorCountError> {
        if !(1..=MAX_VECTORS).contains(&count) {
            return Err(VectorCountError(count));
        }
        let line = |_| Line { state: AtomicU8::new(MASKED | BLOCKED), vector: source.vector() };
        let vectors = Arc::new(Vectors((0..count).map(line).collect()));
        Ok(Self { control: 0, entries: vec![RESET_ENTRY; count], vectors })
    }

    /// What workers fire.
    pub fn vectors(&self) -> &Arc<Vectors> {
        &self.vectors
    }

    /// The capability: id, body behind the header, and the body's writable bits. Table and pending bits lie in the same BAR.
    pub fn capability(&self, bar: u8, table: u32, pending: u32) -> (u8, [u8; 10], [u8; 2]) {
        let mut body = [0; 10];
        body[..2].copy_from_slice(&(self.entries.len() as u16 - 1).to_le_bytes());
        body[2..6].copy_from_slice(&(table | u32::from(bar)).to_le_bytes());
        body[6..].copy_from_slice(&(pending | u32::from(bar)).to_le_bytes());
        (CAPABILITY, body, (ENABLE | FUNCTION_MASK).to_le_bytes())
    }

    /// The guest wrote the message control register.
    pub fn set_control(&mut self, control: u16) {
        let former = std::mem::replace(&mut self.control, control & (ENABLE | FUNCTION_MASK));
        if self.control != former {
            self.apply_control();
        }
    }

    fn apply_control(&self) {
        for (entry, line) in self.entries.iter().zip(&self.vectors.0) {
            if self.control == ENABLE { line.allow(BLOCKED, entry.msi()) } else { line.silence(BLOCKED) }
        }
    }

    /// A read of the table.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let Some(entry) = self.entry_at(offset).and_then(|i| self.entries.get(i)) else { return };
        let bytes = entry_bytes(entry);
        for (byte, value) in data.iter_mut().zip(bytes.iter().skip((offset % ENTRY) as usize)) {
            *byte = *value;
        }
    }

    /// A write to the table: aligned dwords and quadwords only, as the specification allows no other.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len() as u64) {
            return;
        }
        let Some(index) = self.entry_at(offset).filter(|i| *i < self.entries.len()) else { return };
        let mut bytes = entry_bytes(&self.entries[index]);
        for (byte, value) in bytes.iter_mut().skip((offset % ENTRY) as usize).zip(data) {
            *byte = *value;
        }
        self.entries[index] = entry_from(bytes);
        self.apply(index);
    }

    /// A read of the pending bits.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            let first = usize::try_from(offset).unwrap_or(usize::MAX).saturating_add(i).saturating_mul(8);
            *byte =
                (0..8).map(|bit| u8::from(self.vectors.is_pending(first.saturating_add(bit))) << bit).sum();
        }
    }

    fn entry_at(&self, offset: u64) -> Option<usize> {
        usize::try_from(offset / ENTRY).ok()
    }

    fn apply(&self, index: usize) {
        let (entry, line) = (&self.entries[index], &self.vectors.0[index]);
        if entry.control & MASK == 0 { line.allow(MASKED, entry.msi()) } else { line.silence(MASKED) }
    }

    /// All masked, MSI-X off, nothing pending.
    pub fn reset(&mut self) {
        self.control = 0;
        self.entries.fill(RESET_ENTRY);
        self.vectors.0.iter().for_each(Line::reset);
    }

    /// Clones the state out.
    pub fn save(&self) -> MsixState {
        let pending = (0..self.entries.len()).map(|i| self.vectors.is_pending(i)).collect();
        MsixState { control: self.control, entries: self.entries.clone(), pending }
    }

    /// Puts a state in.
    ///
    /// # Errors
    /// The name of the field that is impossible.
    pub fn restore(&mut self, state: MsixState) -> Result<(), &'static str> {
        if state.entries.len() != self.entries.len() || state.pending.len() != self.entries.len() {
            return Err("number of MSI-X vectors");
        }
        if state.control & !(ENABLE | FUNCTION_MASK) != 0 {
            return Err("MSI-X message control");
        }
        if state.entries.iter().any(|entry| entry.control & !MASK != 0) {
            return Err("MSI-X vector control");
        }
        self.reset();
        self.entries = state.entries;
        for (line, pending) in self.vectors.0.iter().zip(state.pending) {
            line.state.fetch_or(if pending { PENDING } else { 0 }, Ordering::SeqCst);
        }
        (0..self.entries.len()).for_each(|index| self.apply(index));
        self.control = state.control;
        self.apply_control();
        Ok(())
    }
}

fn entry_bytes(entry: &Entry) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&entry.address.to_le_bytes());
    bytes[8..12].copy_from_slice(&entry.data.to_le_bytes());
    bytes[12..].copy_from_slice(&entry.control.to_le_bytes());
    bytes
}

fn entry_from(bytes: [u8; 16]) -> Entry {
    let all = u128::from_le_bytes(bytes);
    Entry { address: all as u64, data: (all >> 64) as u32, control: (all >> 96) as u32 & MASK }
}

#[cfg(any(test, feature = "fake-vectors"))]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

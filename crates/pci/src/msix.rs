//! MSI-X (PCI Local Bus 3.0 §6.8): a table of vectors that the guest programs, and what workers fire.
//!
//! The table is shared by the function (which the guest programs, under the bus slot's lock) and by workers (which fire). Firing
//! takes no lock: each vector has one atomic word.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use device::{Interrupt, Msi, MsiSource, MsiVector};
use host::EventFd;
use serde::{Deserialize, Serialize};

/// "No interrupt" where a vector number is asked for.
pub const NO_VECTOR: u16 = 0xffff;
/// Capability id.
const CAPABILITY: u8 = 0x11;
/// Bytes per table entry.
const ENTRY: u64 = 16;
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

    fn is_pending(&self, index: usize) -> bool {
        self.0.get(index).is_some_and(|line| line.state.load(Ordering::SeqCst) & PENDING != 0)
    }
}

impl Line {
    fn set(&self, bit: u8, on: bool) {
        if on {
            self.state.fetch_or(bit, Ordering::SeqCst);
        } else {
            self.state.fetch_and(!bit, Ordering::SeqCst);
            self.send_pending();
        }
    }

    fn send_pending(&self) {
        if self.state.compare_exchange(PENDING, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.vector.fire();
        }
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

impl Msix {
    /// A table of `count` (1 to 2048) vectors, all masked, MSI-X off.
    pub fn new(count: u16, source: &dyn MsiSource) -> Self {
        let line = |_| Line { state: AtomicU8::new(MASKED | BLOCKED), vector: source.vector() };
        let vectors = Arc::new(Vectors((0..count).map(line).collect()));
        Self { control: 0, entries: vec![RESET_ENTRY; count.into()], vectors }
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
        self.control = control & (ENABLE | FUNCTION_MASK);
        let blocked = self.control != ENABLE;
        for line in &self.vectors.0 {
            line.set(BLOCKED, blocked);
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
        let masked = entry.control & MASK != 0;
        if !masked {
            line.vector.route(Msi { address: entry.address, data: entry.data });
        }
        line.set(MASKED, masked);
    }

    /// All masked, MSI-X off, nothing pending.
    pub fn reset(&mut self) {
        self.control = 0;
        self.entries.fill(RESET_ENTRY);
        for line in &self.vectors.0 {
            line.state.store(MASKED | BLOCKED, Ordering::SeqCst);
        }
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
        self.reset();
        self.entries = state.entries;
        for (line, pending) in self.vectors.0.iter().zip(state.pending) {
            line.state.fetch_or(if pending { PENDING } else { 0 }, Ordering::SeqCst);
        }
        (0..self.entries.len()).for_each(|index| self.apply(index));
        self.set_control(state.control);
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

/// Vectors for tests: they remember where they were routed and how often they fired.
#[cfg(any(test, feature = "fake-vectors"))]
pub(crate) mod fake {
    use super::{Interrupt, Msi, MsiSource, MsiVector};
    use std::sync::{Arc, Mutex, PoisonError};

    /// Hands out vectors whose firing it remembers, in order.
    #[derive(Clone, Debug, Default)]
    pub struct FakeSource(Arc<Mutex<Vec<Msi>>>);

    struct FakeVector(Arc<Mutex<Vec<Msi>>>, Mutex<Option<Msi>>);

    impl FakeSource {
        /// What was fired so far.
        pub fn fired(&self) -> Vec<Msi> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
    }

    impl MsiSource for FakeSource {
        fn vector(&self) -> Box<dyn MsiVector> {
            Box::new(FakeVector(self.0.clone(), Mutex::new(None)))
        }
    }

    impl MsiVector for FakeVector {
        fn route(&self, msi: Msi) {
            *self.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(msi);
        }
    }

    impl Interrupt for FakeVector {
        fn fire(&self) {
            if let Some(msi) = *self.1.lock().unwrap_or_else(PoisonError::into_inner) {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).push(msi);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unmask(msix: &mut Msix, index: u64, data: u32) {
        msix.write_table(index * 16, &0xfee0_0000u64.to_le_bytes());
        msix.write_table(index * 16 + 8, &data.to_le_bytes());
        msix.write_table(index * 16 + 12, &0u32.to_le_bytes());
    }

    #[test]
    fn masked_vectors_stay_pending_and_fire_once_when_unmasked() {
        let source = fake::FakeSource::default();
        let mut msix = Msix::new(3, &source);
        let vectors = msix.vectors().clone();
        unmask(&mut msix, 1, 7);
        vectors.fire(1);
        vectors.fire(1);
        let mut pending = [0];
        msix.read_pending(0, &mut pending);
        assert_eq!((pending, source.fired().len()), ([0b10], 0));
        msix.set_control(ENABLE | FUNCTION_MASK);
        assert_eq!(source.fired().len(), 0);
        msix.set_control(ENABLE);
        assert_eq!(source.fired(), [Msi { address: 0xfee0_0000, data: 7 }]);
        vectors.fire(1);
        vectors.fire(2);
        vectors.fire(NO_VECTOR);
        assert_eq!(source.fired().len(), 2);
        unmask(&mut msix, 2, 9);
        assert_eq!(source.fired()[2].data, 9);
    }

    #[test]
    fn states_go_round_and_impossible_ones_are_refused() {
        let source = fake::FakeSource::default();
        let mut msix = Msix::new(2, &source);
        unmask(&mut msix, 0, 1);
        msix.vectors().fire(0);
        let state = msix.save();
        let mut other = Msix::new(2, &source);
        other.restore(state.clone()).unwrap();
        assert_eq!(other.save(), state);
        assert_eq!(Msix::new(3, &source).restore(state), Err("number of MSI-X vectors"));
    }

    #[test]
    fn odd_table_accesses_do_nothing() {
        let source = fake::FakeSource::default();
        let mut msix = Msix::new(1, &source);
        let before = msix.save();
        msix.write_table(12, &[0]);
        msix.write_table(6, &[0; 4]);
        msix.write_table(16, &[0; 4]);
        msix.write_table(12, &[0; 16]);
        let mut beyond = [0xff; 4];
        msix.read_table(1 << 40, &mut beyond);
        assert_eq!((msix.save(), beyond), (before, [0xff; 4]));
    }
}

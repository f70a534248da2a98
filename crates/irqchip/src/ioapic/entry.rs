//! One redirection table entry, and the message it turns into (82093AA §3.2.4, Intel SDM vol. 3 §11.11).

use device::Msi;

const VECTOR: u64 = 0xff;
const LEVEL_TRIGGERED: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const REMOTE_IRR: u64 = 1 << 14;
/// Vector, delivery and destination mode, polarity, trigger, mask, and the destination with its extension in bits 49 to 55.
const WRITABLE: u64 = 0xfffe_0000_0001_afff;

/// Vectors below belong to the processor's exceptions; an entry that names one has not been programmed.
const FIRST_VECTOR: u8 = 16;
const LOCAL_APIC_WINDOW: u64 = 0xfee0_0000;

/// A redirection table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(pub(super) u64);

impl Entry {
    /// What every entry starts as.
    pub(super) const RESET: Self = Self(MASKED);

    /// Whether `bits` can be an entry at all.
    pub(super) fn is_possible(bits: u64) -> bool {
        bits & !(WRITABLE | REMOTE_IRR) == 0
    }

    /// What becomes of the entry when the guest writes `bits`.
    pub(super) fn written(self, bits: u64) -> Self {
        let new = Self(bits & WRITABLE | self.0 & REMOTE_IRR);
        // Version 0x11 has no EOI register: Linux ends a stuck level interrupt by making its pin edge-triggered for a moment.
        if new.is_level() { new } else { new.with_remote_irr(false) }
    }

    pub(super) fn vector(self) -> u8 {
        (self.0 & VECTOR) as u8
    }

    pub(super) fn is_level(self) -> bool {
        self.0 & LEVEL_TRIGGERED != 0
    }

    pub(super) fn is_masked(self) -> bool {
        self.0 & MASKED != 0
    }

    /// A level interrupt was sent and its end has not been reported.
    pub(super) fn remote_irr(self) -> bool {
        self.0 & REMOTE_IRR != 0
    }

    pub(super) fn with_remote_irr(self, set: bool) -> Self {
        Self(if set { self.0 | REMOTE_IRR } else { self.0 & !REMOTE_IRR })
    }

    /// The interrupt as the local APICs take it. Destination bits 8 to 14 go to address bits 5 to 11, where hypervisors that offer
    /// the extended destination id look for them.
    pub(super) fn msi(self) -> Msi {
        let destination = self.0 >> 56 & 0xff;
        let extension = self.0 >> 49 & 0x7f;
        let logical = self.0 >> 11 & 1;
        let delivery_mode = (self.0 >> 8 & 7) as u32;
        // A level message asserts; its deassertion is the end of interrupt.
        let trigger = if self.is_level() { 0b11 << 14 } else { 0 };
        Msi {
            address: LOCAL_APIC_WINDOW | destination << 12 | extension << 5 | logical << 2,
            data: trigger | delivery_mode << 8 | u32::from(self.vector()),
        }
    }

    /// What the pin sends while the guest has programmed it and it is level-triggered. Masking does not undo it: an interrupt masked
    /// while it is served must still report its end.
    pub(super) fn level_message(self) -> Option<Msi> {
        (self.is_level() && self.vector() >= FIRST_VECTOR).then(|| self.msi())
    }
}

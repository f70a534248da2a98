//! Interrupt controllers outside the processor.
//!
//! The IOAPIC stands here for every hypervisor: KVM runs with a split interrupt chip, whose local APICs live in the kernel and whose
//! IOAPIC does not.

mod ioapic;

pub use ioapic::{IoApic, PINS, Pins};

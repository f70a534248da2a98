//! The generic event device: one byte that says why its interrupt came (ACPI 6.4 §5.6.9; `spec/devices.md` §4, GEC and GED).
//!
//! The guest sees three ACPI devices: the event device, whose interrupt runs the controller's scan, which reads the byte and notifies
//! what each bit stands for, such as the power button.

mod description;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use device::{Access, Device, Effect, InterruptLine, Persist, Region, RestoreError, Space};
use serde::{Deserialize, Serialize};

/// What the guest should look at. The device's AML knows the bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// A CPU came or is to go.
    Cpu = 1,
    /// Memory came.
    Memory = 2,
    /// A PCI device came or is to go.
    Pci = 4,
    /// The power button was pressed.
    PowerButton = 8,
    /// The VM generation ID has changed.
    Generation = 16,
}

const ALL_CAUSES: u8 = 0x1f;

/// Tells the guest that something has happened. A leaf object any thread may use; cloning shares it.
#[derive(Clone)]
pub struct Notifier {
    pending: Arc<AtomicU8>,
    line: Arc<dyn InterruptLine>,
}

impl Notifier {
    /// Adds a cause and interrupts the guest.
    pub fn notify(&self, cause: Cause) {
        self.pending.fetch_or(cause as u8, Ordering::SeqCst);
        self.line.pulse();
    }
}

/// The causes not yet read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pending: u8,
}

/// The register, a byte of MMIO that reading clears.
pub struct Ged {
    base: u64,
    notifier: Notifier,
}

impl Ged {
    /// The IOAPIC's pin that its line leads to.
    pub const PIN: u8 = 13;

    /// The register at guest-physical `base`; `line` is its interrupt, edge-triggered.
    pub fn new(base: u64, line: Arc<dyn InterruptLine>) -> Self {
        Self { base, notifier: Notifier { pending: Arc::default(), line } }
    }

    /// The handle for those who have news.
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }
}

impl Device for Ged {
    fn regions(&self) -> Vec<Region> {
        vec![Region::new(Space::Mmio, self.base, 1, 0)]
    }

    fn aml(&self) -> Vec<u8> {
        description::aml(self.base)
    }

    fn read(&mut self, _: Access, data: &mut [u8]) {
        if let Some(first) = data.first_mut() {
            *first = self.notifier.pending.swap(0, Ordering::SeqCst);
        }
    }

    fn write(&mut self, _: Access, _: &[u8]) -> Effect {
        Effect::None
    }

    fn reset(&mut self) {
        self.notifier.pending.store(0, Ordering::SeqCst);
    }
}

impl Persist for Ged {
    type State = State;
    const KIND: &'static str = "acpi-ged";
    const VERSION: u32 = 1;

    fn save(&self) -> State {
        State { pending: self.notifier.pending.load(Ordering::SeqCst) }
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        if state.pending & !ALL_CAUSES != 0 {
            return Err(RestoreError::Value { kind: Self::KIND, field: "cause" });
        }
        self.notifier.pending.store(state.pending, Ordering::SeqCst);
        if state.pending != 0 {
            // The edge may have been on its way when the state was saved; one too many only finds nothing to do.
            self.notifier.line.pulse();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use device::Stateful;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Edges(AtomicUsize);

    impl InterruptLine for Edges {
        fn set_level(&self, level: bool) {
            self.0.fetch_add(usize::from(level), Ordering::SeqCst);
        }
    }

    fn ged() -> (Ged, Arc<Edges>) {
        let edges = Arc::new(Edges::default());
        (Ged::new(0xfff0_0000, edges.clone()), edges)
    }

    fn read(ged: &mut Ged) -> u8 {
        let mut data = [0xff];
        ged.read(Access { region: 0, offset: 0 }, &mut data);
        data[0]
    }

    #[test]
    fn causes_gather_until_they_are_read() {
        let (mut ged, edges) = ged();
        let notifier = ged.notifier();
        assert_eq!(read(&mut ged), 0);
        notifier.notify(Cause::PowerButton);
        notifier.notify(Cause::Cpu);
        assert_eq!(edges.0.load(Ordering::SeqCst), 2);
        assert_eq!([read(&mut ged), read(&mut ged)], [9, 0]);
    }

    #[test]
    fn a_pending_cause_interrupts_again_after_restore() {
        let (old, _) = ged();
        old.notifier().notify(Cause::Memory);
        let (mut new, edges) = ged();
        new.restore_saved(&old.to_saved().unwrap()).unwrap();
        assert_eq!(edges.0.load(Ordering::SeqCst), 1);
        assert_eq!(read(&mut new), 2);
        assert!(Persist::restore(&mut new, State { pending: 0x20 }).is_err());
    }

    #[test]
    fn the_guest_is_told_where_it_is_and_what_it_says() {
        let (ged, _) = ged();
        let aml = ged.aml();
        let contains = |needle: &[u8]| aml.windows(needle.len()).any(|window| window == needle);
        for name in ["PWRB", "GEC_", "GED_", "ESCN"] {
            assert!(contains(name.as_bytes()), "{name}");
        }
        let [Region { space: Space::Mmio, base, len: 1, .. }] = ged.regions()[..] else { panic!() };
        // Region (GDST, SystemMemory, base, 1), and an edge-triggered interrupt.
        assert!(contains(&[b"GDST\0\x0c", &(base as u32).to_le_bytes()[..], &[1]].concat()));
        assert!(contains(&[0x89, 6, 0, 3, 1, Ged::PIN, 0, 0, 0]));
        // If (Local1 == 8) Notify (PWRB, 0x80), and If (Local1 == 1) CSCN ()
        assert!(contains(&[0x93, 0x61, 0x0a, Cause::PowerButton as u8, 0x86]));
        assert!(contains(
            &[&[0x93, 0x61, 0x0a, Cause::Generation as u8, 0x86][..], b"\\._SB_VGEN\x0a\x80"].concat()
        ));
        assert_eq!(Cause::Cpu as u8, 1, "which AML has a byte for");
        assert!(contains(&[&[0x93, 0x61, 1][..], b"\\/\x03_SB_CPUSCSCN"].concat()));
        assert!(contains(&[&[0x93, 0x61, 0x0a, Cause::Memory as u8][..], b"\\/\x03_SB_MHPCMSCN"].concat()));
    }

    #[test]
    fn contract() {
        device::contract::check(&mut ged().0);
    }
}

//! Interrupt routing: which global system interrupt (GSI) is which message.
//!
//! GSIs 0 to 23 mirror the level-triggered pins of the user-space IOAPIC, so that KVM reports the end of their interrupts. From 24 on,
//! each message-signalled vector has one, allocated when the guest first unmasks the vector, and an irqfd that fires it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use device::{Interrupt, Msi, MsiSource, MsiVector};
use host::EventFd;
use hv::IrqChip;
use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_msi, kvm_irq_routing_msi__bindgen_ty_1, kvm_msi,
};
use kvm_ioctls::VmFd;

/// Pins of the IOAPIC, and the first GSI for messages.
pub(crate) const PINS: u32 = 24;

/// An MSI's address as KVM wants it, low and high half: bits 5 to 11 extend the destination to 15 bits, and KVM expects those in the
/// upper half.
fn kvm_address(address: u64) -> (u32, u32) {
    const EXTENDED: u32 = 0xfe0;
    let low = address as u32;
    (low & !EXTENDED, (address >> 32) as u32 | (low & EXTENDED) << 3)
}

struct Shared {
    vm: Arc<VmFd>,
    routes: Mutex<BTreeMap<u32, Msi>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Msi>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes one route and tells KVM if that makes a difference.
    fn set(&self, gsi: u32, msi: Option<Msi>) {
        let mut routes = self.lock();
        let former = match msi {
            Some(msi) => routes.insert(gsi, msi),
            None => routes.remove(&gsi),
        };
        if former != msi {
            self.publish(&routes);
        }
    }

    /// Takes the lowest free GSI.
    fn allocate(&self, msi: Msi) -> u32 {
        let mut routes = self.lock();
        let gsi = (PINS..).find(|gsi| !routes.contains_key(gsi)).unwrap_or(u32::MAX);
        routes.insert(gsi, msi);
        self.publish(&routes);
        gsi
    }

    fn publish(&self, routes: &BTreeMap<u32, Msi>) {
        let entries: Vec<_> = routes.iter().map(|(gsi, msi)| entry(*gsi, *msi)).collect();
        let Ok(table) = KvmIrqRouting::from_entries(&entries) else { return };
        if let Err(e) = self.vm.set_gsi_routing(&table) {
            tracing::error!("KVM refuses {} interrupt routes: {e}", entries.len());
        }
    }
}

fn entry(gsi: u32, msi: Msi) -> kvm_irq_routing_entry {
    let (address_lo, address_hi) = kvm_address(msi.address);
    let message = kvm_irq_routing_msi {
        address_lo,
        address_hi,
        data: msi.data,
        __bindgen_anon_1: kvm_irq_routing_msi__bindgen_ty_1::default(),
    };
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 { msi: message },
        ..kvm_irq_routing_entry::default()
    }
}

/// The kernel's local APICs.
pub(crate) struct KvmIrqChip(Arc<Shared>);

impl KvmIrqChip {
    pub(crate) fn new(vm: Arc<VmFd>) -> Self {
        Self(Arc::new(Shared { vm, routes: Mutex::default() }))
    }
}

impl IrqChip for KvmIrqChip {
    fn send(&self, msi: Msi) {
        let (address_lo, address_hi) = kvm_address(msi.address);
        let message = kvm_msi { address_lo, address_hi, data: msi.data, ..kvm_msi::default() };
        if let Err(e) = self.0.vm.signal_msi(message) {
            tracing::debug!("An interrupt to nowhere ({msi:?}): {e}");
        }
    }

    fn watch_level_pin(&self, pin: u8, msi: Option<Msi>) {
        self.0.set(pin.into(), msi);
    }
}

impl MsiSource for KvmIrqChip {
    fn vector(&self) -> Box<dyn MsiVector> {
        Box::new(KvmVector { chip: self.0.clone(), bound: OnceLock::new() })
    }
}

struct Bound {
    gsi: u32,
    fd: EventFd,
}

struct KvmVector {
    chip: Arc<Shared>,
    /// Set when the guest first unmasks the vector.
    bound: OnceLock<Bound>,
}

impl KvmVector {
    fn bind(&self, msi: Msi) -> std::io::Result<Bound> {
        let fd = host::event_fd()?;
        let gsi = self.chip.allocate(msi);
        self.chip.vm.register_irqfd(&fd, gsi)?;
        Ok(Bound { gsi, fd })
    }
}

impl MsiVector for KvmVector {
    fn route(&self, msi: Msi) {
        if let Some(bound) = self.bound.get() {
            return self.chip.set(bound.gsi, Some(msi));
        }
        match self.bind(msi) {
            // The slot's lock lets one thread in at a time, so nobody else has bound it meanwhile.
            Ok(bound) => drop(self.bound.set(bound)),
            Err(e) => tracing::error!("An interrupt vector cannot be bound: {e}"),
        }
    }
}

impl Interrupt for KvmVector {
    fn fire(&self) {
        if let Some(bound) = self.bound.get() {
            // A full counter means the interrupt is pending already.
            let _ = bound.fd.write(1);
        }
    }

    fn event_fd(&self) -> Option<EventFd> {
        self.bound.get()?.fd.try_clone().ok()
    }
}

impl Drop for KvmVector {
    fn drop(&mut self) {
        if let Some(bound) = self.bound.get() {
            // The VM may be going away as a whole.
            let _ = self.chip.vm.unregister_irqfd(&bound.fd, bound.gsi);
            self.chip.set(bound.gsi, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_destinations_move_to_the_upper_half() {
        assert_eq!(kvm_address(0xfee0_1000), (0xfee0_1000, 0));
        assert_eq!(kvm_address(0xfee0_1020), (0xfee0_1000, 0x100));
    }
}

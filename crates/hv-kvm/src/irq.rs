//! Interrupt routing: which global system interrupt (GSI) is which message.
//!
//! GSIs 0 to 23 mirror the level-triggered pins of the user-space IOAPIC, so that KVM reports the end of their interrupts. From 24 on,
//! each message-signalled vector has one, allocated when the guest first unmasks the vector, and an irqfd that fires it
//! ([`vector`]).

mod vector;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use device::{Msi, MsiSource, MsiVector};
use hv::IrqChip;
use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_msi, kvm_irq_routing_msi__bindgen_ty_1, kvm_msi,
};
use kvm_ioctls::{Cap, VmFd};

use vector::KvmVector;

/// Pins of the IOAPIC, and the first GSI for messages.
pub(crate) const PINS: u32 = 24;

/// An MSI's address as KVM wants it, low and high half: bits 5 to 11 extend the destination to 15 bits, and KVM expects those in the
/// upper half.
fn kvm_address(address: u64) -> (u32, u32) {
    const EXTENDED: u32 = 0xfe0;
    let low = address as u32;
    (low & !EXTENDED, (address >> 32) as u32 | (low & EXTENDED) << 3)
}

/// Which GSI is which message, as KVM knows it too.
struct Routes {
    vm: Arc<VmFd>,
    table: Mutex<BTreeMap<u32, Msi>>,
    /// KVM's number of GSIs.
    limit: u32,
}

impl Routes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Msi>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes one route and tells KVM if that makes a difference. If KVM refuses, the route is what it was.
    fn set(&self, gsi: u32, msi: Option<Msi>) -> io::Result<()> {
        self.change(&mut self.lock(), gsi, msi)
    }

    /// Takes the lowest free GSI.
    fn allocate(&self, msi: Msi) -> io::Result<u32> {
        let mut table = self.lock();
        let free = (PINS..self.limit).find(|gsi| !table.contains_key(gsi));
        let gsi = free.ok_or_else(|| {
            let text =
                format!("all {} interrupt routes of KVM are in use: give devices fewer queues", self.limit);
            io::Error::new(io::ErrorKind::QuotaExceeded, text)
        })?;
        self.change(&mut table, gsi, Some(msi))?;
        Ok(gsi)
    }

    fn change(&self, table: &mut BTreeMap<u32, Msi>, gsi: u32, msi: Option<Msi>) -> io::Result<()> {
        let put = |table: &mut BTreeMap<u32, Msi>, msi| match msi {
            Some(msi) => table.insert(gsi, msi),
            None => table.remove(&gsi),
        };
        let former = put(table, msi);
        if former == msi {
            return Ok(());
        }
        let published = self.publish(table);
        if published.is_err() {
            put(table, former);
        }
        published
    }

    fn publish(&self, table: &BTreeMap<u32, Msi>) -> io::Result<()> {
        let entries: Vec<_> = table.iter().map(|(gsi, msi)| entry(*gsi, *msi)).collect();
        let routing =
            KvmIrqRouting::from_entries(&entries).map_err(|e| io::Error::other(format!("{e:?}")))?;
        Ok(self.vm.set_gsi_routing(&routing)?)
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
pub(crate) struct KvmIrqChip(Arc<Routes>);

impl KvmIrqChip {
    pub(crate) fn new(vm: Arc<VmFd>) -> Self {
        let limit = u32::try_from(vm.check_extension_int(Cap::IrqRouting)).unwrap_or(0);
        Self(Arc::new(Routes { vm, table: Mutex::default(), limit }))
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
        if let Err(e) = self.0.set(pin.into(), msi) {
            tracing::error!(target: "guest", "The end of pin {pin}'s interrupts will not be reported: {e}");
        }
    }
}

impl MsiSource for KvmIrqChip {
    fn vector(&self) -> Box<dyn MsiVector> {
        Box::new(KvmVector::new(self.0.clone()))
    }
}

#[cfg(test)]
mod tests;

//! One KVM virtual machine: its memory slots, doorbells, dirty log and clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use device::{Doorbells, Space};
use host::EventFd;
use hv::{ClockReading, DirtyLog, Error, GuestClock, IrqChip, RegionId, Vcpu, Vm};
use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, KVM_MEM_LOG_DIRTY_PAGES,
    KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK, KVM_X2APIC_API_USE_32BIT_IDS, kvm_clock_data, kvm_enable_cap,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, NoDatamatch, VmFd};
use memory::{GuestMemoryRegion, RamRegion, layout};

use crate::irq::{KvmIrqChip, PINS};
use crate::vcpu::KvmVcpu;

pub(crate) struct KvmVm {
    fd: Arc<VmFd>,
    irqchip: Arc<KvmIrqChip>,
    doorbells: Arc<KvmDoorbells>,
    slots: Mutex<BTreeMap<u32, kvm_userspace_memory_region>>,
    msrs: Arc<[u32]>,
}

impl KvmVm {
    pub(crate) fn new(fd: VmFd, msrs: Arc<[u32]>) -> Result<Self, Error> {
        let capability = |cap, argument: u32| {
            let mut request = kvm_enable_cap { cap, ..kvm_enable_cap::default() };
            request.args[0] = argument.into();
            fd.enable_cap(&request)
        };
        capability(KVM_CAP_SPLIT_IRQCHIP, PINS).map_err(|e| Error::operation("create the local APICs", e))?;
        capability(KVM_CAP_X2APIC_API, KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK)
            .map_err(|e| Error::operation("use 32-bit APIC ids", e))?;
        if fd.check_extension(Cap::SetIdentityMapAddr) {
            fd.set_identity_map_address(layout::KVM_IDENTITY_MAP)
                .map_err(|e| Error::operation("place KVM's identity map", e))?;
        }
        if fd.check_extension(Cap::SetTssAddr) {
            fd.set_tss_address(layout::KVM_TSS as usize)
                .map_err(|e| Error::operation("place KVM's TSS", e))?;
        }
        let fd = Arc::new(fd);
        Ok(Self {
            irqchip: Arc::new(KvmIrqChip::new(fd.clone())),
            doorbells: Arc::new(KvmDoorbells(fd.clone())),
            slots: Mutex::default(),
            fd,
            msrs,
        })
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<u32, kvm_userspace_memory_region>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, region: kvm_userspace_memory_region) -> Result<(), kvm_ioctls::Error> {
        // SAFETY: `Vm::map` obliges the caller to keep the range mapped as long as the slot is there; slots do not overlap, because
        // KVM checks that; a size of zero removes the slot.
        unsafe { self.fd.set_user_memory_region(region) }
    }

    fn set_logging(&self, on: bool) -> Result<(), Error> {
        for region in self.slots().values_mut() {
            region.flags = if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
            self.set(*region).map_err(|e| Error::operation("switch dirty logging", e))?;
        }
        Ok(())
    }
}

impl Vm for KvmVm {
    fn map(&self, region: &RamRegion) -> Result<RegionId, Error> {
        let mut slots = self.slots();
        let slot = (0..).find(|slot| !slots.contains_key(slot)).unwrap_or(u32::MAX);
        let slot_region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        self.set(slot_region).map_err(|e| Error::operation("map guest RAM", e))?;
        slots.insert(slot, slot_region);
        Ok(RegionId(slot))
    }

    fn unmap(&self, id: RegionId) -> Result<(), Error> {
        let mut slots = self.slots();
        let Some(region) = slots.remove(&id.0) else { return Ok(()) };
        self.set(kvm_userspace_memory_region { memory_size: 0, ..region })
            .map_err(|e| Error::operation("unmap guest RAM", e))
    }

    fn create_vcpu(&self, apic_id: u32, cpuid: &[hv::cpuid::Leaf]) -> Result<Box<dyn Vcpu>, Error> {
        let fd = self.fd.create_vcpu(apic_id.into()).map_err(|e| Error::operation("create a vCPU", e))?;
        Ok(Box::new(KvmVcpu::new(fd, cpuid, self.msrs.clone())?))
    }

    fn irqchip(&self) -> Arc<dyn IrqChip> {
        self.irqchip.clone()
    }

    fn doorbells(&self) -> Option<Arc<dyn Doorbells>> {
        Some(self.doorbells.clone())
    }

    fn dirty_log(&self) -> Option<&dyn DirtyLog> {
        Some(self)
    }

    fn clock(&self) -> Option<&dyn GuestClock> {
        self.fd.check_extension(Cap::AdjustClock).then_some(self as &dyn GuestClock)
    }
}

impl DirtyLog for KvmVm {
    fn start(&self) -> Result<(), Error> {
        self.set_logging(true)
    }

    fn stop(&self) -> Result<(), Error> {
        self.set_logging(false)
    }

    fn take(&self, id: RegionId) -> Result<Vec<u64>, Error> {
        let size = self.slots().get(&id.0).map_or(0, |region| region.memory_size);
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        self.fd.get_dirty_log(id.0, size).map_err(|e| Error::operation("read the dirty log", e))
    }
}

impl GuestClock for KvmVm {
    fn read(&self) -> Result<ClockReading, Error> {
        let data = self.fd.get_clock().map_err(|e| Error::operation("read the guest's clock", e))?;
        Ok(ClockReading { nanoseconds: data.clock })
    }

    fn set(&self, reading: ClockReading) -> Result<(), Error> {
        let data = kvm_clock_data { clock: reading.nanoseconds, ..kvm_clock_data::default() };
        self.fd.set_clock(&data).map_err(|e| Error::operation("set the guest's clock", e))
    }
}

struct KvmDoorbells(Arc<VmFd>);

fn io_address(space: Space, address: u64) -> Option<IoEventAddress> {
    match space {
        Space::Mmio => Some(IoEventAddress::Mmio(address)),
        Space::Pio => Some(IoEventAddress::Pio(address)),
        Space::Config => None,
    }
}

impl Doorbells for KvmDoorbells {
    fn bind(&self, space: Space, address: u64, bell: &EventFd) {
        let Some(target) = io_address(space, address) else { return };
        if let Err(e) = self.0.register_ioevent(bell, &target, NoDatamatch) {
            tracing::warn!("The doorbell at {address:#x} is served the slow way: {e}");
        }
    }

    fn unbind(&self, space: Space, address: u64, bell: &EventFd) {
        let Some(target) = io_address(space, address) else { return };
        if let Err(e) = self.0.unregister_ioevent(bell, &target, NoDatamatch) {
            tracing::debug!("The doorbell at {address:#x} was not bound: {e}");
        }
    }
}

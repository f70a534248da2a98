//! One KVM virtual machine: its memory slots, doorbells, dirty log and clock.

use std::io::ErrorKind;
use std::sync::Arc;

use device::{Doorbells, Space};
use host::EventFd;
use hv::{DirtyLog, Error, GuestClock, IrqChip, Mapping, RegionId, Vcpu, Vm};
use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
    KVM_X2APIC_API_USE_32BIT_IDS, kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, NoDatamatch, VmFd};
use memory::layout;

use crate::clock::KvmClock;
use crate::convert::{AreaSize, Common, EventAbilities, msrs};
use crate::debug::DebugState;
use crate::irq::{KvmIrqChip, PINS};
use crate::slots::Slots;
use crate::tsc::Counters;
use crate::vcpu::KvmVcpu;

pub(crate) struct KvmVm {
    pub(crate) fd: Arc<VmFd>,
    irqchip: Arc<KvmIrqChip>,
    doorbells: Arc<KvmDoorbells>,
    clock: Option<KvmClock>,
    pub(crate) common: Arc<Common>,
    slots: Arc<Slots>,
}

impl KvmVm {
    /// `listed` are the MSRs that KVM lists.
    pub(crate) fn new(fd: VmFd, listed: &[u32]) -> Result<Self, Error> {
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
        let common = Common {
            msrs: msrs::all(listed),
            events: EventAbilities::enable(&fd),
            xsave: AreaSize::of(&fd),
            counters: Counters::default(),
        };
        Ok(Self {
            irqchip: Arc::new(KvmIrqChip::new(fd.clone())),
            doorbells: Arc::new(KvmDoorbells(fd.clone())),
            clock: KvmClock::new(&fd),
            common: Arc::new(common),
            slots: Arc::default(),
            fd,
        })
    }

    fn set(&self, region: kvm_userspace_memory_region) -> Result<(), kvm_ioctls::Error> {
        // SAFETY: a region's addresses come from a `HostMemory`, which `Slots` keeps mapped until this call has removed the region, or
        // until this value and all vCPUs are gone and nobody can run the guest; slots do not overlap, because KVM checks that.
        unsafe { self.fd.set_user_memory_region(region) }
    }
}

impl Vm for KvmVm {
    fn map(&self, mapping: Mapping) -> Result<RegionId, Error> {
        self.slots.map(mapping, |region| self.set(region))
    }

    fn unmap(&self, id: RegionId) -> Result<(), Error> {
        self.slots.unmap(id, |region| self.set(region))
    }

    fn create_vcpu(&self, apic_id: u32, cpuid: &[hv::cpuid::Leaf]) -> Result<Box<dyn Vcpu>, Error> {
        let fd = self.fd.create_vcpu(apic_id.into()).map_err(|e| Error::operation("create a vCPU", e))?;
        let debug = DebugState::new(&self.fd);
        Ok(Box::new(KvmVcpu::new(fd, cpuid, self.common.clone(), debug, self.slots.clone())?))
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
        self.clock.as_ref().map(|clock| clock as &dyn GuestClock)
    }
}

impl DirtyLog for KvmVm {
    fn start(&self) -> Result<(), Error> {
        self.slots.set_logging(true, |region| self.set(region))
    }

    fn stop(&self) -> Result<(), Error> {
        self.slots.set_logging(false, |region| self.set(region))
    }

    fn take(&self, id: RegionId) -> Result<Vec<u64>, Error> {
        let size = self.slots.logged_size(id);
        let size = size.ok_or_else(|| Error::operation("read the dirty log", ErrorKind::NotFound))?;
        self.fd.get_dirty_log(id.0, size).map_err(|e| Error::operation("read the dirty log", e))
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
            tracing::warn!(target: "guest", "The doorbell at {address:#x} is served the slow way: {e}");
        }
    }

    fn unbind(&self, space: Space, address: u64, bell: &EventFd) {
        let Some(target) = io_address(space, address) else { return };
        if let Err(e) = self.0.unregister_ioevent(bell, &target, NoDatamatch) {
            tracing::debug!("The doorbell at {address:#x} was not bound: {e}");
        }
    }
}

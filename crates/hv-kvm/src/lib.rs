//! The KVM back end: kernel local APICs, user-space IOAPIC (split irqchip), irqfds, ioeventfds.
//!
//! Of KVM's optional features each is asked for before it is used, and none but those in `REQUIRED` is needed.

// Guest RAM is handed to the kernel by address, and `kvm_run` is shared with it.
#![allow(unsafe_code)]

mod clock;
mod convert;
mod cpuid;
mod debug;
mod irq;
mod slots;
#[cfg(test)]
mod tests;
mod tsc;
mod vcpu;
mod vm;

use std::path::Path;
use std::sync::Arc;

use hv::{Error, Hypervisor, Vm};
use kvm_ioctls::{Cap, Kvm};
use rustix::io::Errno;

const DEVICE: &str = "/dev/kvm";

/// What the machine cannot do without.
const REQUIRED: [(Cap, &str); 6] = [
    (Cap::UserMemory, "user memory"),
    (Cap::SplitIrqchip, "split irqchip"),
    (Cap::IrqRouting, "interrupt routing"),
    (Cap::Irqfd, "irqfd"),
    (Cap::Ioeventfd, "ioeventfd"),
    (Cap::ImmediateExit, "immediate exit"),
];

/// KVM on this host.
#[derive(Debug)]
pub struct KvmHypervisor(Kvm);

impl KvmHypervisor {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] says why KVM cannot be used here and what to do.
    pub fn open() -> Result<Self, Error> {
        if Path::new("/sys/module/kvm_pvm").exists() {
            return unavailable(
                "/dev/kvm is served by kvm_pvm, which cannot run stock kernels: use a host with kvm_intel or kvm_amd, \
                 or `cargo xtask lab` for tests",
            );
        }
        let kvm = Kvm::new().map_err(|e| refusal(e.into()))?;
        host::kick::install().map_err(|e| Error::operation("install the kick signal's handler", e))?;
        if let Some((_, name)) = REQUIRED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
            return unavailable(&format!("This kernel's KVM lacks {name}: use Linux 4.12 or newer"));
        }
        Ok(Self(kvm))
    }
}

fn unavailable<T>(why: &str) -> Result<T, Error> {
    Err(Error::Unavailable(why.into()))
}

fn refusal(error: std::io::Error) -> Error {
    let hint = match error.kind() {
        std::io::ErrorKind::NotFound => {
            "the kernel has no KVM: load kvm_intel or kvm_amd, or enable virtualisation in the firmware"
        }
        std::io::ErrorKind::PermissionDenied => "this user may not use it: join the group kvm",
        _ if matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE)) => {
            "raise the limit of open files"
        }
        _ => "is another hypervisor using the CPU's virtualisation?",
    };
    Error::Unavailable(format!("Cannot open {DEVICE} ({error}): {hint}"))
}

impl Hypervisor for KvmHypervisor {
    fn supported_cpuid(&self) -> Result<Vec<hv::cpuid::Leaf>, Error> {
        let cpuid = self.0.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES);
        let cpuid = cpuid.map_err(|e| Error::operation("read the host's CPUID", e))?;
        Ok(cpuid.as_slice().iter().map(cpuid::leaf).collect())
    }

    fn max_vcpus(&self) -> u32 {
        u32::try_from(self.0.get_max_vcpus()).unwrap_or(u32::MAX)
    }

    fn create_vm(&self) -> Result<Arc<dyn Vm>, Error> {
        let vm = loop {
            match self.0.create_vm() {
                // KVM gives up when a signal arrives while it prepares the machine.
                Err(e) if std::io::Error::from(e).kind() == std::io::ErrorKind::Interrupted => {}
                vm => break vm.map_err(|e| Error::operation("create a VM", e))?,
            }
        };
        let msrs = self.0.get_msr_index_list().map_err(|e| Error::operation("list the CPU's MSRs", e))?;
        Ok(Arc::new(vm::KvmVm::new(vm, msrs.as_slice())?))
    }
}

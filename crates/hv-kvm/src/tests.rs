//! Against the kernel's KVM, as far as it can be asked without running a guest. Any KVM will do; a host without one skips them.

use std::sync::Arc;

use config::plan::Zone;
use hv::{DirtyLog, Mapping, MappingKind, Vm};
use kvm_ioctls::Kvm;
use memory::{GuestRam, HostMemory};

use crate::vm::KvmVm;

const SIZE: usize = 1 << 20;

/// A machine, or `None` where there is no KVM.
pub(crate) fn machine() -> Option<KvmVm> {
    if !std::path::Path::new("/dev/kvm").exists() {
        eprintln!("skipped: this host has no /dev/kvm");
        return None;
    }
    let kvm = Kvm::new().unwrap();
    let msrs = kvm.get_msr_index_list().unwrap();
    Some(KvmVm::new(kvm.create_vm().unwrap(), msrs.as_slice().into()).unwrap())
}

fn memory() -> Arc<dyn HostMemory> {
    GuestRam::allocate(&[Zone::new("z", SIZE as u64)]).unwrap().host_memory().remove(0).1
}

/// Memory of 1 MiB at the `nth` MiB.
pub(crate) fn mapping(nth: u64, kind: MappingKind) -> Mapping {
    Mapping { guest: nth * SIZE as u64, memory: memory(), kind }
}

#[test]
fn every_kind_of_memory_is_mapped_logged_and_taken_away() {
    let Some(vm) = machine() else { return };
    let map = |nth, kind| vm.map(mapping(nth, kind));
    let ram = map(0, MappingKind::Ram).unwrap();
    let rom = map(1, MappingKind::Rom).unwrap();
    let device = map(2, MappingKind::Device).unwrap();
    assert!(map(2, MappingKind::Ram).is_err(), "the guest has memory there already");
    assert!(vm.take(ram).is_err(), "nothing is logged yet");
    vm.start().unwrap();
    assert_eq!(vm.take(ram).unwrap(), [0; SIZE / 4096 / 64]);
    assert!(vm.take(rom).is_err() && vm.take(device).is_err());
    vm.stop().unwrap();
    for id in [ram, rom, device] {
        vm.unmap(id).unwrap();
    }
    map(2, MappingKind::Ram).unwrap();
}

//! Against the kernel's KVM, as far as it can be asked without running a guest. Any KVM will do; a host without one skips them.

use std::sync::Arc;

use config::plan::{Topology, Zone};
use hv::cpuid::Model;
use hv::{CpuState, Debugging, DirtyLog, Hypervisor, Mapping, MappingKind, Registers, RunState, Vcpu, Vm};
use kvm_bindings::kvm_msi;
use kvm_ioctls::{Cap, Kvm};
use memory::{GuestRam, HostMemory};

use crate::KvmHypervisor;
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
    Some(KvmVm::new(kvm.create_vm().unwrap(), msrs.as_slice()).unwrap())
}

fn memory() -> Arc<dyn HostMemory> {
    GuestRam::allocate(&[Zone::new("z", SIZE as u64)]).unwrap().host_memory().remove(0).1
}

/// Memory of 1 MiB at the `nth` MiB.
pub(crate) fn mapping(nth: u64, kind: MappingKind) -> Mapping {
    Mapping { guest: nth * SIZE as u64, memory: memory(), kind }
}

/// What a vCPU has, but for what goes on by itself: its time stamp counter, and Hyper-V's run time and reference counter.
fn still(vcpu: &mut dyn Vcpu) -> CpuState {
    const GO_ON: [u32; 3] = [0x10, 0x4000_0010, 0x4000_0020];
    let mut state = vcpu.state().unwrap();
    state.tsc = None;
    state.msr.retain(|number, _| !GO_ON.contains(number));
    state
}

#[test]
fn a_reset_vcpu_is_as_it_was_created() {
    const SYSENTER_CS: u32 = 0x174;
    let Some(vm) = machine() else { return };
    let leaves = KvmHypervisor(Kvm::new().unwrap()).supported_cpuid().unwrap();
    let _first = vm.create_vcpu(0, &leaves).unwrap();
    let mut vcpu = vm.create_vcpu(1, &leaves).unwrap();
    let fresh = still(vcpu.as_mut());
    assert_eq!(fresh.run_state, RunState::Uninitialized);
    vcpu.reset().unwrap();
    assert!(still(vcpu.as_mut()) == fresh, "there was nothing to do");

    let mut used = fresh.clone();
    used.registers.rip = 0x1234;
    used.registers.rax = 7;
    used.system.cr0 |= 1;
    // The local APIC in its other mode, where its id stands elsewhere.
    used.system.apic_base |= 1 << 10;
    used.lapic[0x20..0x24].copy_from_slice(&1u32.to_le_bytes());
    used.debug.dr7 |= 1;
    used.xsave[32] ^= 1;
    used.msr = [(SYSENTER_CS, 0x10)].into();
    used.run_state = RunState::Halted;
    used.events.nmi_pending = 1;
    vcpu.set_state(&used).unwrap();
    vcpu.inject_nmi().unwrap();
    let changed = still(vcpu.as_mut());
    assert_eq!((changed.run_state, changed.msr[&SYSENTER_CS]), (RunState::Halted, 0x10));
    vcpu.reset().unwrap();
    let now = still(vcpu.as_mut());
    assert_eq!((now.registers, now.system, &now.msr), (fresh.registers, fresh.system, &fresh.msr));
    assert!(now == fresh, "{:?} {:?} {:?}", now.debug, now.events, now.run_state);
}

#[test]
fn a_vcpu_hears_of_the_others_as_soon_as_it_is_there() {
    const INIT: u32 = 5 << 8;
    let Some(vm) = machine() else { return };
    let leaves = KvmHypervisor(Kvm::new().unwrap()).supported_cpuid().unwrap();
    let mut first = vm.create_vcpu(0, &leaves).unwrap();
    // As if the machine had run: KVM has looked at all the APICs that there are.
    let state = first.state().unwrap();
    first.set_state(&state).unwrap();
    let mut later = vm.create_vcpu(1, &leaves).unwrap();
    // To APIC id 1, physically.
    let message = kvm_msi { address_lo: 0xfee0_1000, data: INIT, ..kvm_msi::default() };
    assert_eq!(vm.fd.signal_msi(message).unwrap(), 1, "it found its vCPU");
    assert_eq!(later.state().unwrap().run_state, RunState::InitReceived);
}

#[test]
fn a_state_goes_to_another_machine() {
    const MTRR_BASE0: u32 = 0x200;
    const MTRR_MASK0: u32 = 0x201;
    const MC0_CTL: u32 = 0x400;
    const POLL_CONTROL: u32 = 0x4b56_4d05;
    let (Some(old), Some(new)) = (machine(), machine()) else { return };
    let leaves = KvmHypervisor(Kvm::new().unwrap()).supported_cpuid().unwrap();
    let mut vcpu = old.create_vcpu(0, &leaves).unwrap();
    let memory_type = [(MTRR_BASE0, 0x8000_0006), (MTRR_MASK0, 0xc000_0800)];
    vcpu.set_msrs(&memory_type).unwrap();
    vcpu.set_msrs(&[(MC0_CTL, u64::MAX), (POLL_CONTROL, 0)]).unwrap();
    let mut used = still(vcpu.as_mut());
    used.registers.rbx = 0x5555;
    used.system.cr2 = 0xdead_b000;
    used.debug.db[1] = 0x1000;
    used.xsave[32] ^= 0x55;
    used.run_state = RunState::Halted;
    vcpu.set_state(&used).unwrap();
    let saved = still(vcpu.as_mut());
    assert_eq!((saved.registers, saved.system, saved.debug), (used.registers, used.system, used.debug));
    assert_eq!([MTRR_BASE0, MTRR_MASK0].map(|msr| (msr, saved.msr[&msr])), memory_type);
    assert_eq!((saved.msr[&MC0_CTL], saved.msr[&POLL_CONTROL]), (u64::MAX, 0));
    let mut other = new.create_vcpu(0, &leaves).unwrap();
    other.set_state(&saved).unwrap();
    let restored = still(other.as_mut());
    let differ = |(msr, value): &(&u32, &u64)| restored.msr.get(*msr) != Some(*value);
    assert_eq!(saved.msr.iter().filter(differ).collect::<Vec<_>>(), []);
    assert!(restored == saved, "{:?} {:?} {:?}", restored.registers, restored.events, restored.run_state);
}

#[test]
fn a_state_with_parts_of_a_wrong_size_is_refused() {
    let Some(vm) = machine() else { return };
    let leaves = KvmHypervisor(Kvm::new().unwrap()).supported_cpuid().unwrap();
    let mut vcpu = vm.create_vcpu(0, &leaves).unwrap();
    let good = vcpu.state().unwrap();
    let changes: [fn(&mut CpuState); 4] = [
        |state| state.lapic.truncate(100),
        |state| state.xcr.extend((0..17).map(|number| (number, 1))),
        |state| state.xsave.extend([1; 64 << 10]),
        |state| state.nested = Some(vec![0; 7]),
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(vcpu.set_state(&bad).is_err(), "{n}");
    }
    vcpu.set_state(&good).unwrap();
}

#[test]
fn a_vcpu_with_hyper_v_has_its_interrupt_controller() {
    const SCONTROL: u32 = 0x4000_0080;
    let Some(vm) = machine() else { return };
    let hypervisor = KvmHypervisor(Kvm::new().unwrap());
    if !hypervisor.0.check_extension(Cap::HypervSynic) {
        eprintln!("skipped: this kernel has no Hyper-V");
        return;
    }
    let topology = Topology { threads_per_core: 1, cores_per_die: 1, dies_per_package: 1, packages: 1 };
    let model = Model { topology, phys_bits: 46, nested: true, hyperv: true, tsc_khz: None };
    let leaves = hv::cpuid::build(&hypervisor.supported_cpuid().unwrap(), &model);
    let mut vcpu = vm.create_vcpu(0, &leaves).unwrap();
    let mut control = |change: fn(&mut dyn Vcpu)| {
        change(vcpu.as_mut());
        vcpu.state().unwrap().msr.get(&SCONTROL).copied()
    };
    assert_eq!(control(|_| {}), Some(1), "KVM begins with it switched on");
    assert_eq!(control(|vcpu| vcpu.set_msrs(&[(SCONTROL, 0)]).unwrap()), Some(0));
    assert_eq!(control(|vcpu| vcpu.reset().unwrap()), Some(1));
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

#[test]
fn breakpoints_and_registers_are_taken_and_given_back() {
    let Some(vm) = machine() else { return };
    let leaves = KvmHypervisor(Kvm::new().unwrap()).supported_cpuid().unwrap();
    let mut vcpu = vm.create_vcpu(0, &leaves).unwrap();
    let before = still(vcpu.as_mut());
    let wanted = Debugging { hardware: [Some(0x1000), None, None, Some(0x2000)], ..Debugging::default() };
    let debug = vcpu.debug().unwrap();
    debug.set(Some(&wanted)).unwrap();
    debug.set(Some(&Debugging { step: true, software: Arc::new([0x3000]), ..wanted })).unwrap();
    debug.set_registers(&Registers { rip: 0x1234, rax: 7, ..before.registers }).unwrap();
    let state = still(vcpu.as_mut());
    assert_eq!((state.registers.rip, state.registers.rax), (0x1234, 7));
    assert_eq!(
        (state.debug, state.registers.rflags),
        (before.debug, before.registers.rflags),
        "the guest sees none of it"
    );
    vcpu.debug().unwrap().set(None).unwrap();
    assert_eq!(still(vcpu.as_mut()).system, before.system);
}

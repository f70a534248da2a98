use super::*;
use crate::KvmHypervisor;
use crate::tests::machine;
use crate::vm::KvmVm;
use config::plan::Topology;
use hv::cpuid::{Leaf, Model};
use hv::{CpuState, Hypervisor, Vcpu, Vm};
use kvm_ioctls::Kvm;

const HOUR_NS: u64 = 3_600_000_000_000;
/// IA32_TSC_DEADLINE.
const DEADLINE: u32 = 0x6e0;

/// What a machine shows its guest.
fn leaves() -> Vec<Leaf> {
    let supported = KvmHypervisor(Kvm::new().unwrap()).supported_cpuid().unwrap();
    let topology = Topology { threads_per_core: 1, cores_per_die: 1, dies_per_package: 1, packages: 1 };
    let model = Model { topology, phys_bits: 46, nested: true, hyperv: false, tsc_khz: None };
    hv::cpuid::build(&supported, &model)
}

/// Machines of this host's KVM, if it can move a guest's counter: there is one that takes any value and does nothing.
fn machines() -> Option<(KvmVm, KvmVm)> {
    const AT: u64 = 1 << 60;
    let (one, other) = (machine()?, machine()?);
    let probe = machine()?.fd.create_vcpu(0).unwrap();
    msrs::write(&probe, [(MSR, AT)]).unwrap();
    if msrs::read_one(&probe, MSR).unwrap() < AT {
        eprintln!("skipped: this host's KVM cannot move a guest's time stamp counter");
        return None;
    }
    Some((one, other))
}

fn vcpus(vm: &KvmVm, count: u32) -> Vec<Box<dyn Vcpu>> {
    (0..count).map(|id| vm.create_vcpu(id, &leaves()).unwrap()).collect()
}

fn tsc(vcpu: &mut dyn Vcpu) -> TscReading {
    vcpu.state().unwrap().tsc.expect("KVM tells a counter's rate")
}

/// The state of a vCPU as if it had been read an hour ago.
fn an_hour_old(vcpu: &mut dyn Vcpu) -> (CpuState, TscReading) {
    let state = vcpu.state().unwrap();
    let read = state.tsc.unwrap();
    let old = TscReading { host_ns: read.host_ns - HOUR_NS, ..read };
    (CpuState { tsc: Some(old), ..state }, old)
}

/// Whether the host tells offsets; says so if not.
fn tells_offsets(reading: &TscReading) -> bool {
    if reading.offset.is_none() {
        eprintln!("skipped: this KVM does not tell the offset of a time stamp counter");
    }
    reading.offset.is_some()
}

/// Milliseconds by which a counter is ahead of where it should be.
fn error_ms(now: &TscReading, saved: &TscReading) -> i64 {
    now.ticks.wrapping_sub(saved.at(now.host_ns)).cast_signed() / i64::from(now.khz)
}

#[test]
fn a_counter_is_set_forward_by_the_real_time_that_passed() {
    for knows_offset in [true, false] {
        let Some((old, new)) = machines() else { return };
        let (mut state, mut saved) = an_hour_old(vcpus(&old, 1)[0].as_mut());
        if !knows_offset {
            saved.offset = None;
            state.tsc = Some(saved);
        }
        let mut vcpu = vcpus(&new, 1).remove(0);
        vcpu.set_state(&state).unwrap();
        let now = tsc(vcpu.as_mut());
        assert_eq!(error_ms(&now, &saved), 0, "{saved:?} {now:?}");
        assert!(now.ticks - saved.ticks >= 3_600_000 * u64::from(now.khz));
    }
}

#[test]
fn counters_keep_their_distances() {
    const AHEAD: u64 = 12_345_678;
    let Some((old, new)) = machines() else { return };
    let mut before = vcpus(&old, 3);
    let mut states: Vec<_> = before.iter_mut().map(|vcpu| an_hour_old(vcpu.as_mut()).0).collect();
    if !tells_offsets(&states[0].tsc.unwrap()) {
        return;
    }
    // The last one's guest has written to its counter.
    let mut apart = states[2].tsc.unwrap();
    (apart.ticks, apart.offset) =
        (apart.ticks + AHEAD, apart.offset.map(|offset| offset.wrapping_add(AHEAD)));
    states[2].tsc = Some(apart);
    let mut after = vcpus(&new, 3);
    let offsets: Vec<_> = (after.iter_mut().zip(&states))
        .map(|(vcpu, state)| {
            vcpu.set_state(state).unwrap();
            tsc(vcpu.as_mut()).offset.unwrap()
        })
        .collect();
    assert_eq!([1, 2].map(|n| offsets[n].wrapping_sub(offsets[0])), [0, AHEAD]);
}

#[test]
fn a_state_of_another_time_is_not_held_against_the_last_one() {
    let Some((old, new)) = machines() else { return };
    let (state, saved) = an_hour_old(vcpus(&old, 1)[0].as_mut());
    let mut vcpu = vcpus(&new, 1).remove(0);
    for hours in [0, 1, 5] {
        let saved = TscReading { host_ns: saved.host_ns - hours * HOUR_NS, ..saved };
        vcpu.set_state(&CpuState { tsc: Some(saved), ..state.clone() }).unwrap();
        assert_eq!(error_ms(&tsc(vcpu.as_mut()), &saved), 0, "{hours}");
    }
}

#[test]
fn vcpus_that_come_or_start_anew_go_with_the_others() {
    let Some((old, new)) = machines() else { return };
    let (state, saved) = an_hour_old(vcpus(&old, 1)[0].as_mut());
    if !tells_offsets(&saved) {
        return;
    }
    let mut both = vcpus(&new, 2);
    both[0].set_state(&state).unwrap();
    both[1].reset().unwrap();
    both.push(new.create_vcpu(2, &leaves()).unwrap());
    let all: Vec<_> = both.iter_mut().map(|vcpu| tsc(vcpu.as_mut())).collect();
    assert!(all.iter().all(|one| (one.offset, one.khz) == (all[0].offset, saved.khz)), "{all:?}");
}

#[test]
fn a_timer_waits_for_its_count() {
    const LVT_TIMER: usize = 0x320;
    const BY_COUNT: u32 = 2 << 17 | 0xec;
    let Some((old, new)) = machines() else { return };
    let (mut state, saved) = an_hour_old(vcpus(&old, 1)[0].as_mut());
    state.lapic[LVT_TIMER..LVT_TIMER + 4].copy_from_slice(&BY_COUNT.to_le_bytes());
    // A day after it was saved: the fresh counter of a machine would take it for later still.
    let due = saved.at(saved.host_ns + 24 * HOUR_NS);
    state.msr.insert(DEADLINE, due);
    let mut vcpu = vcpus(&new, 1).remove(0);
    vcpu.set_state(&state).unwrap();
    assert_eq!(vcpu.state().unwrap().msr[&DEADLINE], due);
}

/// Steps of counters, in ticks at 1 MHz, and what is made of them.
#[test]
fn measurements_a_second_apart_are_of_other_moments() {
    const KHZ: u32 = 1000;
    const SECOND: u64 = 1_000_000;
    let counters = Counters::default();
    let agree = |saved: u64, measured: u64| counters.agree(saved, measured, KHZ);
    assert_eq!(agree(100, 5_000_100), 5_000_100);
    assert_eq!(agree(100, 5_000_100 + SECOND - 1), 5_000_100);
    assert_eq!(agree(70, 5_000_070 - SECOND + 1), 5_000_070);
    assert_eq!(agree(u64::MAX, 5_000_123), 4_999_999);
    assert_eq!(agree(100, 5_000_100 + SECOND), 5_000_100 + SECOND);
    assert_eq!(agree(0, 7), 7);
}

use super::*;
use crate::tests::machine;
use kvm_ioctls::VcpuFd;
use std::time::{Duration, Instant};

#[test]
fn extended_destinations_move_to_the_upper_half() {
    assert_eq!(kvm_address(0xfee0_1000), (0xfee0_1000, 0));
    assert_eq!(kvm_address(0xfee0_1020), (0xfee0_1000, 0x100));
}

/// Local APIC registers: spurious interrupt vector, and the first of those with requested interrupts.
const SPURIOUS: usize = 0xf0;
const REQUESTED: usize = 0x200;

/// A machine's interrupt chip with GSIs up to `limit`, and a CPU whose local APIC takes interrupts.
fn chip(limit: u32) -> Option<(KvmIrqChip, VcpuFd)> {
    let vm = machine()?.fd;
    let vcpu = vm.create_vcpu(0).unwrap();
    let mut lapic = vcpu.get_lapic().unwrap();
    lapic.regs[SPURIOUS + 1] |= 1;
    vcpu.set_lapic(&lapic).unwrap();
    let mut routes = Arc::into_inner(KvmIrqChip::new(vm).0).unwrap();
    routes.limit = limit.min(routes.limit);
    Some((KvmIrqChip(Arc::new(routes)), vcpu))
}

fn msi(vector: u8) -> Msi {
    Msi { address: 0xfee0_0000, data: vector.into() }
}

fn is_requested(vcpu: &VcpuFd, vector: u8) -> bool {
    let byte = REQUESTED + usize::from(vector / 32) * 16 + usize::from(vector % 32 / 8);
    vcpu.get_lapic().unwrap().regs[byte] & 1 << (vector % 8) != 0
}

/// Interrupts travel through the kernel's work queues.
fn await_request(vcpu: &VcpuFd, vector: u8) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_requested(vcpu, vector) {
        assert!(Instant::now() < deadline, "vector {vector:#x} does not arrive");
        std::thread::yield_now();
    }
}

fn routed(chip: &KvmIrqChip) -> Vec<u32> {
    chip.0.lock().keys().copied().collect()
}

#[test]
fn a_vector_costs_a_route_from_its_unmasking_until_it_is_dropped() {
    let Some((chip, vcpu)) = chip(u32::MAX) else { return };
    let (first, second) = (chip.vector(), chip.vector());
    first.fire();
    first.mask();
    assert!(routed(&chip).is_empty());
    first.unmask(msi(0x40));
    second.unmask(msi(0x41));
    assert_eq!(routed(&chip), [24, 25]);
    assert!(!is_requested(&vcpu, 0x40), "fired before there was a destination");
    first.fire();
    await_request(&vcpu, 0x40);
    // Another destination, the same route.
    first.unmask(msi(0x42));
    first.fire();
    await_request(&vcpu, 0x42);
    drop(first);
    assert_eq!(routed(&chip), [25]);
}

#[test]
fn a_back_end_s_signals_wait_for_the_mask_to_go() {
    let Some((chip, vcpu)) = chip(u32::MAX) else { return };
    let vector = chip.vector();
    let outside = vector.event_fd().unwrap();
    assert!(routed(&chip).is_empty(), "a descriptor alone needs no route");
    outside.write(1).unwrap();
    vector.unmask(msi(0x40));
    await_request(&vcpu, 0x40);
    vector.mask();
    assert!(!vector.take_pending());
    vector.unmask(msi(0x41));
    outside.write(1).unwrap();
    await_request(&vcpu, 0x41);

    vector.mask();
    outside.write(1).unwrap();
    vector.unmask(msi(0x42));
    await_request(&vcpu, 0x42);

    vector.mask();
    outside.write(1).unwrap();
    assert!(vector.take_pending());
    assert!(!vector.take_pending(), "taken once");
}

#[test]
fn a_descriptor_given_away_while_masked_is_not_listened_to() {
    let Some((chip, vcpu)) = chip(u32::MAX) else { return };
    let vector = chip.vector();
    vector.unmask(msi(0x40));
    vector.mask();
    let outside = vector.event_fd().unwrap();
    outside.write(1).unwrap();
    assert!(vector.take_pending());
    assert!(!is_requested(&vcpu, 0x40));
}

#[test]
fn a_refused_irqfd_leaves_no_route_behind() {
    let Some((chip, vcpu)) = chip(u32::MAX) else { return };
    let vector = chip.vector();
    let call = vector.event_fd().unwrap();
    // KVM takes a descriptor once only.
    chip.0.vm.register_irqfd(&call, 5).unwrap();
    vector.unmask(msi(0x40));
    assert!(routed(&chip).is_empty());
    chip.0.vm.unregister_irqfd(&call, 5).unwrap();
    vector.unmask(msi(0x40));
    assert_eq!(routed(&chip), [24]);
    call.write(1).unwrap();
    await_request(&vcpu, 0x40);
}

#[test]
fn vectors_beyond_the_last_route_are_an_error_until_one_is_free() {
    let Some((chip, vcpu)) = chip(26) else { return };
    let vectors = [chip.vector(), chip.vector(), chip.vector()];
    vectors.iter().for_each(|vector| vector.unmask(msi(0x40)));
    assert_eq!(routed(&chip), [24, 25]);
    assert_eq!(chip.0.allocate(msi(0x40)).unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
    let [first, _second, third] = vectors;
    drop(first);
    third.unmask(msi(0x43));
    assert_eq!(routed(&chip), [24, 25]);
    third.fire();
    await_request(&vcpu, 0x43);
}

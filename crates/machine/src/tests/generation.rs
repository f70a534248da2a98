//! Who is told that it is another generation.

use super::*;
use memory::{Bytes, GuestAddress, layout};

/// What a guest finds in its RAM.
fn in_ram(machine: &Machine) -> [u8; GenerationId::SIZE] {
    let mut bytes = [0; GenerationId::SIZE];
    machine.ram.guest().map().read_slice(&mut bytes, GuestAddress(layout::GENERATION)).unwrap();
    bytes
}

#[test]
fn a_boot_begins_a_generation_and_a_reboot_does_not() {
    let rig = Rig::new();
    let plan = rig.plan("");
    let first = rig.boot(&plan);
    let generation = first.generation();
    assert_eq!(in_ram(&first), generation.bytes());
    drop(first);
    let rebooted = rig.build(&plan, Start::Boot { generation: Some(generation) }).unwrap();
    assert_eq!((rebooted.generation(), &in_ram(&rebooted)[..]), (generation, generation.bytes()));
    drop(rebooted);
    assert_ne!(rig.boot(&plan).generation(), generation);
}

#[test]
fn a_restored_guest_is_told_unless_it_only_moved() {
    const VECTOR: u32 = 0x42;
    let rig = Rig::new();
    let plan = rig.plan("");
    let mut machine = rig.boot(&plan);
    machine.pause().unwrap();
    unmask_event_device(&machine, VECTOR);
    let (tree, saved) = (machine.save().unwrap(), machine.generation());
    drop(machine);
    let ram = memory::test_ram(&[(0, 128 << 20)]);
    ram.map().write_slice(saved.bytes(), GuestAddress(layout::GENERATION)).unwrap();
    let restore = |generation| {
        rig.hypervisor.interrupts.lock().unwrap().clear();
        let ram = ram.clone();
        let machine = rig.build(&plan, Start::Restore { tree: &tree, ram, generation }).unwrap();
        let interrupts = rig.hypervisor.interrupts.lock().unwrap();
        let was_told = interrupts.iter().any(|msi| msi.data & 0xff == VECTOR);
        assert_eq!(in_ram(&machine), machine.generation().bytes());
        (machine.generation(), was_told)
    };
    assert_eq!(restore(Generation::Same), (saved, false));
    let (new, was_told) = restore(Generation::New);
    assert!(new != saved && was_told);
    assert_ne!(restore(Generation::New).0, new);
}

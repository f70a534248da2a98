//! vCPUs that come and go. The test plays the guest's part in the controller's registers.

use config::VmResize;
use device::{Effect, Space};
use memory::layout;

use super::*;

/// The controller's registers, for a guest with 46 address bits.
fn registers() -> u64 {
    layout::device_area(128 << 20, 46).unwrap().platform + layout::PLATFORM_SIZE - 2 * 4096
}

/// What the guest reads and writes.
const ENABLED: u8 = 1;
const INSERTING: u8 = 2;
const REMOVING: u8 = 4;
const EJECT: u8 = 8;

fn status(machine: &Machine, cpu: u32) -> u8 {
    let _ = machine.nodes.spaces().write(Space::Mmio, registers(), &cpu.to_le_bytes());
    let mut data = [0xff];
    machine.nodes.spaces().read(Space::Mmio, registers() + 4, &mut data);
    data[0]
}

fn tell(machine: &Machine, cpu: u32, done: u8) -> Effect {
    let _ = machine.nodes.spaces().write(Space::Mmio, registers(), &cpu.to_le_bytes());
    machine.nodes.spaces().write(Space::Mmio, registers() + 4, &[done])
}

/// The numbers of the vCPUs in use.
fn in_use(machine: &Machine) -> Vec<u32> {
    machine.vcpus.save().unwrap().into_keys().collect()
}

const CPUS: &str = r#","cpus":{"boot_vcpus":1,"max_vcpus":4}"#;

#[test]
fn vcpus_come_at_once_and_go_when_the_guest_lets_them() {
    let rig = Rig::new();
    let mut machine = rig.boot(&rig.plan(CPUS));
    machine.start();
    machine.resize_vcpus(1).unwrap();
    assert_eq!(status(&machine, 0), ENABLED);
    machine.resize_vcpus(4).unwrap();
    assert_eq!(in_use(&machine), [0, 1, 2, 3]);
    assert_eq!([1, 2, 3].map(|cpu| status(&machine, cpu)), [ENABLED | INSERTING; 3]);
    (1..4).for_each(|cpu| assert_eq!(tell(&machine, cpu, INSERTING), Effect::None));

    machine.resize_vcpus(2).unwrap();
    (2..4).for_each(|cpu| assert_eq!(tell(&machine, cpu, REMOVING), Effect::None));
    assert_eq!(in_use(&machine), [0, 1, 2, 3], "the guest has them still");
    assert!(matches!(machine.resize_vcpus(3), Err(ResizeError::Pending(2))));
    assert_eq!(status(&machine, 3), ENABLED);
    machine.resize_vcpus(2).unwrap();
    assert_eq!(status(&machine, 3), ENABLED | REMOVING, "the guest is reminded");
    assert_eq!(tell(&machine, 2, EJECT), Effect::Ejected);
    assert_eq!(machine.take_ejected(), []);
    assert_eq!(in_use(&machine), [0, 1, 3]);
    assert!(matches!(machine.resize_vcpus(4), Err(ResizeError::Pending(2))));
    // Nobody has heard of this one when the next request comes.
    assert_eq!(tell(&machine, 3, EJECT), Effect::Ejected);
    machine.resize_vcpus(2).unwrap();
    assert_eq!(in_use(&machine), [0, 1]);

    // The same vCPUs come back: this hypervisor makes none twice.
    machine.resize_vcpus(4).unwrap();
    assert_eq!((in_use(&machine).len(), machine.vcpus.count()), (4, 4));
    assert_eq!(machine.readings().vcpus.len(), 4);
}

#[test]
fn the_guest_is_interrupted_for_each_request() {
    let rig = Rig::new();
    let mut machine = rig.boot(&rig.plan(CPUS));
    unmask_event_device(&machine, 0x41);
    let count = || rig.hypervisor.interrupts.lock().unwrap().len();
    for (wanted, interrupts) in [(1, 0), (3, 1), (3, 1), (2, 2), (2, 3)] {
        machine.resize_vcpus(wanted).unwrap();
        assert_eq!(count(), interrupts, "{wanted} vCPUs");
    }
}

#[test]
fn a_paused_machine_changes_and_stays_paused() {
    let rig = Rig::new();
    let mut machine = rig.boot(&rig.plan(CPUS));
    machine.start();
    machine.pause().unwrap();
    machine.resize_vcpus(3).unwrap();
    assert!(machine.is_paused());
    machine.resize_vcpus(2).unwrap();
    assert_eq!(tell(&machine, 2, EJECT), Effect::Ejected);
    assert_eq!(machine.take_ejected(), []);
    assert_eq!(in_use(&machine), [0, 1]);
    machine.resume();
    machine.nmi().unwrap();
    machine.pause().unwrap();
}

#[test]
fn what_cannot_be_made_changes_nothing() {
    let rig = Rig::new();
    let mut machine = rig.boot(&rig.plan(CPUS));
    rig.hypervisor.vcpus_left.set(1);
    assert!(matches!(machine.resize_vcpus(3), Err(ResizeError::Hypervisor(_))));
    assert_eq!((in_use(&machine), status(&machine, 1)), (vec![0], 0));
    rig.hypervisor.vcpus_left.set(-1);
    machine.resize_vcpus(2).unwrap();
    assert_eq!(in_use(&machine), [0, 1]);
}

#[test]
fn a_state_with_gaps_goes_round() {
    let rig = Rig::new();
    let plan = rig.plan(CPUS);
    let mut machine = rig.boot(&plan);
    machine.start();
    machine.resize_vcpus(4).unwrap();
    machine.resize_vcpus(2).unwrap();
    assert_eq!(tell(&machine, 2, EJECT), Effect::Ejected);
    assert_eq!(machine.take_ejected(), []);
    machine.pause().unwrap();
    let tree = machine.save().unwrap();
    assert_eq!(tree.vcpus.keys().copied().collect::<Vec<_>>(), [0, 1, 3]);
    drop(machine);

    let resized = plan.check_resized(&VmResize { desired_vcpus: Some(2), ..VmResize::default() }).unwrap();
    let ram = || memory::test_ram(&[(0, 128 << 20)]);
    let mut restored = rig
        .build(&resized, Start::Restore { tree: &tree, ram: ram(), generation: Generation::Same })
        .unwrap();
    assert_eq!(restored.save().unwrap().vcpus, tree.vcpus);
    assert_eq!(status(&restored, 3), ENABLED | INSERTING | REMOVING);
    assert_eq!(tell(&restored, 3, EJECT), Effect::Ejected);
    restored.resize_vcpus(4).unwrap();
    assert_eq!(in_use(&restored), [0, 1, 2, 3]);
    drop(restored);

    let refuse = |change: fn(&mut Tree)| {
        let mut tree = tree.clone();
        change(&mut tree);
        let refused = rig
            .build(&resized, Start::Restore { tree: &tree, ram: ram(), generation: Generation::Same })
            .err()
            .unwrap();
        assert!(matches!(refused, BuildError::State(StateError::Vcpus { .. })), "{refused}");
    };
    refuse(|tree| drop(tree.vcpus.remove(&3)));
    refuse(|tree| drop(tree.vcpus.insert(4, Default::default())));
    refuse(|tree| drop(tree.vcpus.insert(u32::MAX, Default::default())));
}

#[test]
fn the_host_must_have_room_for_all_there_may_be() {
    let rig = Rig::new();
    let plan = rig.plan(r#","cpus":{"boot_vcpus":1,"max_vcpus":5}"#);
    let refused = rig.build(&plan, Start::Boot { generation: None }).err().unwrap();
    assert!(matches!(refused, BuildError::TooManyVcpus { wanted: 5, limit: 4 }), "{refused}");
}

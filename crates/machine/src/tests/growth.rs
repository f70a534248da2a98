//! RAM that comes through ACPI, and the NUMA nodes that it is in. The test plays the guest's part in the controller's registers.

use boot::acpi::NodeMemory;
use config::VmResize;
use device::Space;
use memory::layout::{self, ABOVE_4G, BLOCK};

use super::*;

/// RAM at boot.
const BOOT: u64 = 128 << 20;

/// A plan of a machine that has this section `memory`, and `more` sections.
fn plan_with(rig: &Rig, memory: &str, more: &str) -> Plan {
    let mut config = rig.plan(more).config().clone();
    config.memory = config::from_json(memory.as_bytes()).unwrap().0;
    config::check(config).unwrap()
}

/// One with room for eight blocks of RAM beyond those 128 MiB.
fn plan(rig: &Rig) -> Plan {
    plan_with(rig, r#"{"size":134217728,"hotplug_size":1073741824}"#, "")
}

/// The plan with so many blocks more than at boot.
fn grown(plan: &Plan, blocks: u64) -> Plan {
    with_ram(plan, BOOT + blocks * BLOCK)
}

fn with_ram(plan: &Plan, bytes: u64) -> Plan {
    plan.check_resized_running(&VmResize { desired_ram: Some(bytes), ..VmResize::default() }).unwrap()
}

/// What the guest reads of a slot: base, length and status.
fn shown(machine: &Machine, slot: u32) -> (u64, u64, u8) {
    let spaces = machine.nodes.spaces();
    let registers = layout::device_area(0, 46).unwrap().platform + layout::PLATFORM_SIZE - 4 * 4096;
    let _ = spaces.write(Space::Mmio, registers, &slot.to_le_bytes());
    let mut data = [0xff; 24];
    for (offset, part) in (registers..).step_by(4).zip(data.chunks_exact_mut(4)) {
        spaces.read(Space::Mmio, offset, part);
    }
    let number = |at: usize| u64::from_le_bytes(data[at..at + 8].try_into().unwrap());
    (number(0), number(8), data[20])
}

#[test]
fn ram_is_there_at_once_and_stays_until_the_next_boot() {
    let rig = Rig::new();
    let plan = plan(&rig);
    let mut machine = rig.boot(&plan);
    machine.start();
    assert_eq!((machine.ram_size(), shown(&machine, 0)), (BOOT, (0, 0, 0)));
    machine.resize_ram(&grown(&plan, 3)).unwrap();
    assert_eq!((machine.ram_size(), shown(&machine, 0)), (BOOT + 3 * BLOCK, (ABOVE_4G, 3 * BLOCK, 3)));
    machine.resize_ram(&grown(&plan, 3)).unwrap();
    machine.pause().unwrap();
    machine.resize_ram(&grown(&plan, 4)).unwrap();
    assert!(machine.is_paused());
    machine.resume();
    assert_eq!(shown(&machine, 1), (ABOVE_4G + 3 * BLOCK, BLOCK, 3));
    assert_eq!(rig.hypervisor.memory.mapped(), [0, ABOVE_4G, ABOVE_4G + 3 * BLOCK]);
    // Less is for the next boot, which may have more again.
    let less = with_ram(&plan, BOOT / 2);
    machine.resize_ram(&less).unwrap();
    assert_eq!((machine.ram_size(), shown(&machine, 2)), (BOOT + 4 * BLOCK, (0, 0, 0)));
    drop(machine);
    let mut machine = rig.boot(&less);
    assert_eq!(machine.ram_size(), BOOT / 2);
    machine.resize_ram(&with_ram(&less, BOOT / 2 + 8 * BLOCK)).unwrap();
    assert_eq!(machine.ram_size(), BOOT / 2 + 8 * BLOCK);
}

#[test]
fn the_guest_is_interrupted_when_ram_has_come() {
    let rig = Rig::new();
    let plan = plan(&rig);
    let mut machine = rig.boot(&plan);
    unmask_event_device(&machine, 0x41);
    let count = || rig.hypervisor.interrupts.lock().unwrap().len();
    for (blocks, interrupts) in [(0, 0), (1, 1), (1, 1), (0, 1), (3, 2)] {
        machine.resize_ram(&grown(&plan, blocks)).unwrap();
        assert_eq!(count(), interrupts, "{blocks} blocks");
    }
}

#[test]
fn what_cannot_come_changes_nothing() {
    let rig = Rig::new();
    let plan = plan(&rig);
    let mut machine = rig.boot(&plan);
    let refuse = |machine: &mut Machine, plan: &Plan| {
        let before = machine.ram_size();
        let refused = machine.resize_ram(plan).unwrap_err();
        assert_eq!(machine.ram_size(), before);
        refused
    };
    let text = |refused: GrowError| {
        assert!(matches!(refused, GrowError::Refused(_)), "{refused}");
        refused.to_string()
    };
    assert!(text(refuse(&mut machine, &with_ram(&plan, BOOT + 4096))).contains("not a valid size"));
    assert!(text(refuse(&mut machine, &grown(&plan, 9))).contains("Not enough space"));
    let other = plan_with(&rig, r#"{"size":134217728}"#, "");
    assert!(text(refuse(&mut machine, &grown(&other, 9))).contains("memory.hotplug_size"));
    rig.hypervisor.memory.refuse(true);
    assert!(matches!(refuse(&mut machine, &grown(&plan, 1)), GrowError::Plug(PlugError::Hypervisor(_))));
    assert_eq!(shown(&machine, 0), (0, 0, 0));
    rig.hypervisor.memory.refuse(false);
    for blocks in 1..=8 {
        machine.resize_ram(&grown(&plan, blocks)).unwrap();
    }
    assert_eq!(shown(&machine, 7), (ABOVE_4G + 7 * BLOCK, BLOCK, 3));
}

#[test]
fn growth_leaves_addresses_for_the_next_boot() {
    let rig = Rig::new();
    let cpus = r#","cpus":{"boot_vcpus":1,"max_vcpus":1,"max_phys_bits":33}"#;
    let plan = plan_with(&rig, r#"{"size":134217728,"hotplug_size":536870912}"#, cpus);
    let refused = rig.build(&plan, Start::Boot { generation: None }).err().unwrap();
    assert!(matches!(refused, BuildError::AddressSpace { phys_bits: 33, .. }), "{refused}");
    let cpus = cpus.replace("33", "34");
    let plan = plan_with(&rig, r#"{"size":134217728,"hotplug_size":8053063680}"#, &cpus);
    let mut machine = rig.boot(&plan);
    machine.resize_ram(&grown(&plan, 20)).unwrap();
    let refused = machine.resize_ram(&grown(&plan, 40)).unwrap_err();
    assert!(matches!(refused, GrowError::NextBoot(_)), "{refused}");
    assert_eq!(machine.ram_size(), BOOT + 20 * BLOCK);
}

#[test]
fn a_grown_machine_goes_round() {
    let rig = Rig::new();
    let plan = plan(&rig);
    let mut machine = rig.boot(&plan);
    machine.resize_ram(&grown(&plan, 2)).unwrap();
    machine.pause().unwrap();
    let tree = machine.save().unwrap();
    drop(machine);
    // The configuration that is saved has the new size.
    let grown = grown(&plan, 2);
    let ram = |plugged: u64| memory::test_ram(&[(0, BOOT as usize), (ABOVE_4G, plugged as usize)]);
    let mut restored = rig
        .build(&grown, Start::Restore { tree: &tree, ram: ram(2 * BLOCK), generation: Generation::Same })
        .unwrap();
    assert_eq!((restored.ram_size(), shown(&restored, 0)), (BOOT + 2 * BLOCK, (ABOVE_4G, 2 * BLOCK, 3)));
    restored.resize_ram(&with_ram(&grown, BOOT + 3 * BLOCK)).unwrap();
    assert_eq!(shown(&restored, 1), (ABOVE_4G + 2 * BLOCK, BLOCK, 3));
    drop(restored);
    let refused = rig
        .build(&grown, Start::Restore { tree: &tree, ram: ram(BLOCK), generation: Generation::Same })
        .err()
        .unwrap();
    assert!(matches!(refused, BuildError::State(StateError::Ram(ABOVE_4G))), "{refused}");
}

#[test]
fn nodes_have_the_memory_of_their_zones() {
    let rig = Rig::new();
    let zones = r#"{"size":0,"zones":[{"id":"a","size":3087007744},{"id":"b","size":268435456}]}"#;
    let more = r#","cpus":{"boot_vcpus":2,"max_vcpus":4,"topology":
            {"threads_per_core":1,"cores_per_die":1,"dies_per_package":2,"packages":2}},
        "platform":{"num_pci_segments":2}"#;
    let mut config = plan_with(&rig, zones, more).config().clone();
    let numa = r#"[{"guest_numa_id":4,"cpus":[1,3],"memory_zones":["b"],"pci_segments":[1]},
        {"guest_numa_id":2,"device_id":"d"},{"guest_numa_id":1,"device_id":"nobody"},
        {"guest_numa_id":0,"cpus":[0,2],"memory_zones":["a"],"distances":[{"destination":4,"distance":30}]}]"#;
    config.numa = Some(config::from_json(numa.as_bytes()).unwrap().0);
    let plan = config::check(config).unwrap();
    let machine = rig.boot(&plan);
    let nodes = numa::nodes(&plan, machine.growth.later, machine.ram.guest(), &machine.nodes);
    let memory = |base, len| NodeMemory { range: (base, len), comes_later: false };
    let (low, high) = (3_087_007_744, 134_217_728);
    assert_eq!(nodes.iter().map(|node| node.id).collect::<Vec<_>>(), [0, 1, 2, 4]);
    assert_eq!(nodes[0].memory, [memory(0, low)]);
    assert_eq!(nodes[3].memory, [memory(low, high), memory(ABOVE_4G, high)], "around the hole");
    assert_eq!((&nodes[0].cpus[..], &nodes[3].cpus[..]), (&[0, 2][..], &[1, 3][..]));
    assert_eq!([&nodes[1], &nodes[2]].map(|node| node.initiator), [None, Some((0, 2))]);
    assert_eq!(nodes[0].distances, [(4, 30)]);
    assert_eq!([0, 1].map(|segment| numa::node_of_segment(&plan, segment)), [0, 4]);
    assert_eq!(numa::nodes_of_cpus(&plan), [(0, 0), (1, 4), (2, 0), (3, 4)].into());
}

#[test]
fn memory_that_may_come_is_in_the_node_of_its_zone() {
    let rig = Rig::new();
    let numa = r#","numa":[{"guest_numa_id":1,"memory_zones":["mem0"]}]"#;
    let later = NodeMemory { range: (ABOVE_4G, 1 << 30), comes_later: true };
    for method in ["Acpi", "VirtioMem"] {
        let memory = format!(r#"{{"size":134217728,"hotplug_method":"{method}","hotplug_size":1073741824}}"#);
        let plan = plan_with(&rig, &memory, numa);
        let machine = rig.boot(&plan);
        let nodes = numa::nodes(&plan, machine.growth.later, machine.ram.guest(), &machine.nodes);
        assert_eq!(nodes[0].memory[1..], [later], "{method}");
    }
}

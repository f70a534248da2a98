//! Devices that bring memory of their own.

use api::{MmioAddressRange, Resource};
use config::plan::Extra;

use super::*;
use crate::own_memory::MemoryPlace;

const SIZE: u64 = 4 << 20;

/// A machine's configuration with persistent memory, one device for each id, and the files behind.
struct Memories {
    rig: Rig,
    plan: Plan,
    _files: Vec<tempfile::NamedTempFile>,
}

impl Memories {
    fn new(ids: &[&str]) -> Self {
        let rig = Rig::new();
        let (mut plan, mut files) = (rig.plan(""), Vec::new());
        for id in ids {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(SIZE).unwrap();
            let section = format!(r#"{{"file":{:?},"id":{id:?}}}"#, file.path());
            let section = config::from_json(section.as_bytes()).unwrap().0;
            (plan, _) = plan.check_more(Extra::Pmem(section)).unwrap();
            files.push(file);
        }
        Self { rig, plan, _files: files }
    }

    fn device(&self, id: &str) -> &config::plan::Device {
        self.plan.devices.iter().find(|device| device.id == id).unwrap()
    }
}

fn base_of(machine: &Machine, id: &str) -> u64 {
    match machine.device_tree()[id].resources.as_slice() {
        [Resource::MmioAddressRange(MmioAddressRange { base, size: SIZE })] => *base,
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_lies_beside_ram_and_goes_with_its_device() {
    let memories = Memories::new(&["p"]);
    let mut machine = memories.rig.boot(&memories.plan);
    let base = base_of(&machine, "p");
    assert!(base.is_multiple_of(2 << 20) && base > 4 << 30, "{base:#x}");
    assert_eq!(memories.rig.hypervisor.memory.mapped(), [0, base]);
    assert_eq!((machine.ram_size(), machine.nodes.memory_places().len()), (128 << 20, 1));
    assert!(detach(&mut machine, "p"));
    assert_eq!(memories.rig.hypervisor.memory.mapped(), [0]);
    assert_eq!(machine.add(memories.device("p"), &[]).unwrap().bdf, "0000:00:04.0", "its slot is free again");
    assert_eq!(base_of(&machine, "p"), base, "its addresses are, too");
    drop(machine);
    assert_eq!(memories.rig.hypervisor.memory.mapped(), [0], "RAM is nobody's to unmap");
}

#[test]
fn memory_that_the_guest_does_not_get_leaves_nothing_behind() {
    let memories = Memories::new(&["p"]);
    let mut machine = memories.rig.boot(&memories.plan);
    let base = base_of(&machine, "p");
    assert!(detach(&mut machine, "p"));
    memories.rig.hypervisor.memory.refuse(true);
    let error = machine.add(memories.device("p"), &[]).unwrap_err();
    assert!(matches!(&error, DeviceError::Memory { id, .. } if id == "p"), "{error}");
    memories.rig.hypervisor.memory.refuse(false);
    machine.add(memories.device("p"), &[]).unwrap();
    assert_eq!(base_of(&machine, "p"), base);
}

#[test]
fn addresses_at_which_the_guest_has_memory_still_are_given_to_nobody() {
    let memories = Memories::new(&["p"]);
    let mut machine = memories.rig.boot(&memories.plan);
    let base = base_of(&machine, "p");
    memories.rig.hypervisor.memory.refuse(true);
    assert!(detach(&mut machine, "p"));
    memories.rig.hypervisor.memory.refuse(false);
    machine.add(memories.device("p"), &[]).unwrap();
    let other = base_of(&machine, "p");
    assert!(other.abs_diff(base) >= SIZE, "{base:#x}, {other:#x}");
    assert_eq!(memories.rig.hypervisor.memory.mapped(), [0, base.min(other), base.max(other)]);
}

#[test]
fn a_restored_machine_has_it_where_it_was() {
    let memories = Memories::new(&["p", "q"]);
    let mut machine = memories.rig.boot(&memories.plan);
    let base = base_of(&machine, "q");
    assert!(detach(&mut machine, "p"));
    machine.pause().unwrap();
    let tree = machine.save().unwrap();
    drop(machine);
    assert_eq!(tree.memory, [("q".to_owned(), MemoryPlace { base, size: SIZE })].into());
    let tree: Tree = serde_json::from_str(&serde_json::to_string(&tree).unwrap()).unwrap();
    let less = memories.plan.check_less("p").unwrap().unwrap();
    let restore = |tree: &Tree| {
        let ram = memory::test_ram(&[(0, 128 << 20)]);
        memories.rig.build(&less, Start::Restore { tree, ram, generation: Generation::Same })
    };
    assert_eq!(base_of(&restore(&tree).unwrap(), "q"), base, "and not in the place of what is gone");
    // Without its place, or with another, the driver would look for it in vain.
    for (place, reason) in [
        (None, "cannot be restored"),
        (Some(MemoryPlace { base, size: 2 * SIZE }), "cannot be restored"),
        (Some(MemoryPlace { base: base - SIZE, size: SIZE }), "cannot be restored"),
        (Some(MemoryPlace { base: 0, size: SIZE }), "Cannot place"),
        (Some(MemoryPlace { base, size: 0 }), "Cannot place"),
    ] {
        let memory = place.map(|place| ("q".to_owned(), place)).into_iter().collect();
        let error = restore(&Tree { memory, ..tree.clone() }).err().unwrap();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("'q'") && source.contains(reason), "{place:?}: {source}");
    }
}

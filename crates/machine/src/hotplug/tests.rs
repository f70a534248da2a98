use std::time::{Duration, Instant};

use device::{Effect, Space};

use super::*;
use crate::tests::Rig;

/// Plays the guest's ACPI code.
fn eject(machine: &Machine, slot: u32) -> Effect {
    let spaces = machine.nodes.spaces();
    let base = machine.nodes.regions("__pci_hotplug")[0].base;
    let segment = spaces.write(Space::Mmio, base + 12, &0u32.to_le_bytes());
    assert_eq!(segment, Effect::None);
    spaces.write(Space::Mmio, base + 8, &(1u32 << slot).to_le_bytes())
}

fn removal(machine: &Machine, id: &str) -> Option<api::Removal> {
    machine.device_tree()[&format!("_virtio-pci-{id}")].removal
}

#[test]
fn a_device_goes_when_the_guest_ejects_it_and_can_come_again() {
    let rig = Rig::new();
    let plan = rig.plan("");
    let mut machine = rig.boot(&plan);
    assert_eq!(eject(&machine, 2), Effect::None, "nobody asked");
    assert_eq!(removal(&machine, "d"), None);
    machine.ask_back("d").unwrap();
    assert_eq!(removal(&machine, "d"), Some(api::Removal::Pending));
    assert_eq!(machine.ask_back("d"), Err(RemoveError::Pending("d".into())));
    assert_eq!(machine.take_ejected(), []);
    assert_eq!(eject(&machine, 2), Effect::Ejected);
    let gone = PciDeviceInfo { id: "d".into(), bdf: "0000:00:02.0".into() };
    assert_eq!(machine.take_ejected(), std::slice::from_ref(&gone));
    assert_eq!((machine.removals(), machine.next_overdue()), (Vec::new(), None));
    let disk = plan.devices.iter().find(|device| device.id == "d").unwrap();
    assert_eq!(machine.add(disk, &[]).unwrap(), gone);
    assert!(matches!(machine.add(disk, &[]), Err(DeviceError::Exists { .. })));
}

#[test]
fn a_guest_that_does_not_let_go_is_told_of_once_and_can_be_asked_again() {
    let rig = Rig::new();
    let mut machine = rig.boot(&rig.plan(""));
    assert_eq!(machine.next_overdue(), None);
    machine.ask_back("d").unwrap();
    let overdue = machine.next_overdue().unwrap();
    assert!(overdue > Instant::now());
    assert_eq!(machine.take_overdue(overdue - Duration::from_nanos(1)), []);
    assert_eq!(machine.ask_again("d"), Err(RemoveError::Pending("d".into())));
    assert_eq!(machine.take_overdue(overdue).len(), 1);
    assert_eq!((machine.take_overdue(overdue), machine.next_overdue()), (Vec::new(), None));
    assert_eq!(removal(&machine, "d"), Some(api::Removal::Overdue));
    machine.ask_again("d").unwrap();
    assert_eq!(removal(&machine, "d"), Some(api::Removal::Pending));
    assert_eq!(eject(&machine, 2), Effect::Ejected);
}

#[test]
fn what_belongs_to_the_machine_stays() {
    let rig = Rig::new();
    let mut machine = rig.boot(&rig.plan(""));
    assert_eq!(machine.ask_again("__rng"), Err(RemoveError::Kept("__rng".into())));
    for id in ["e", "__ged", "_virtio-pci-d"] {
        assert_eq!(machine.ask_again(id), Err(RemoveError::Unknown(id.into())));
    }
}

#[test]
fn a_full_segment_takes_no_more_and_a_refused_device_leaves_nothing_behind() {
    let rig = Rig::new();
    let plan = rig.plan(r#","platform":{"num_pci_segments":96}"#);
    let mut machine = rig.boot(&plan);
    let rng = plan.devices.iter().find(|device| device.id == "__rng").unwrap();
    let more = |id: &str| plan::Device { id: id.into(), ..rng.clone() };
    // Slot 0 is the host bridge's, five are taken.
    for number in 6..32 {
        let added = machine.add(&more(&format!("rng{number}")), &[]).unwrap();
        assert_eq!(added.bdf, format!("0000:00:{number:02x}.0"));
    }
    let names = host_threads();
    let error = machine.add(&more("late"), &[]).unwrap_err();
    assert!(matches!(&error, DeviceError::Place { source: pci::PlaceError::NoSlot(0), .. }), "{error}");
    assert!(machine.nodes.address("late").is_none() && host_threads() == names);
    // In the last segment there is room from slot 0 on.
    let place = plan::Place { segment: 95, ..rng.place };
    assert_eq!(machine.add(&plan::Device { place, ..more("far") }, &[]).unwrap().bdf, "005f:00:00.0");
    let place = plan::Place { segment: 96, ..rng.place };
    assert!(matches!(
        machine.add(&plan::Device { place, ..more("farther") }, &[]),
        Err(DeviceError::Place { source: pci::PlaceError::NoSegment(96), .. })
    ));
}

/// How many threads of this process are a late device's.
fn host_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.trim() == "late").count()
}

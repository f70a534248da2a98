use std::sync::atomic::{AtomicUsize, Ordering};

use device::{InterruptLine, Stateful};

use super::*;
use crate::acpi::Ged;

#[derive(Default)]
struct Edges(AtomicUsize);

impl InterruptLine for Edges {
    fn set_level(&self, level: bool) {
        self.0.fetch_add(usize::from(level), Ordering::SeqCst);
    }
}

fn hotplug() -> (PciHotplug, Arc<Edges>) {
    let edges = Arc::new(Edges::default());
    let ged = Ged::new(0xfff0_0000, edges.clone());
    (PciHotplug::new(0xffe0_0000, 2, ged.notifier()), edges)
}

fn read(device: &mut PciHotplug, offset: u64) -> u32 {
    let mut data = [0xff; 4];
    device.read(Access { region: 0, offset }, &mut data);
    u32::from_le_bytes(data)
}

fn write(device: &mut PciHotplug, offset: u64, value: u32) -> Effect {
    device.write(Access { region: 0, offset }, &value.to_le_bytes())
}

const SLOT_5: Address = Address { segment: 1, slot: 5 };

#[test]
fn a_device_comes() {
    let (mut device, edges) = hotplug();
    device.slots().insert(SLOT_5);
    assert_eq!(edges.0.load(Ordering::SeqCst), 1);
    assert_eq!(read(&mut device, UP), 0, "another segment");
    assert_eq!(write(&mut device, SEGMENT, 1), Effect::None);
    assert_eq!([UP, UP, DOWN, EJECT, SEGMENT].map(|offset| read(&mut device, offset)), [1 << 5, 0, 0, 0, 1]);
}

#[test]
fn a_device_goes_once_it_was_asked_for() {
    let (mut device, edges) = hotplug();
    let slots = device.slots();
    let _ = write(&mut device, SEGMENT, 1);
    assert_eq!(write(&mut device, EJECT, 1 << 5), Effect::None, "nobody asked");
    slots.ask_back(SLOT_5);
    slots.ask_back(SLOT_5);
    assert_eq!(edges.0.load(Ordering::SeqCst), 2);
    assert_eq!([DOWN, DOWN].map(|offset| read(&mut device, offset)), [1 << 5, 0]);
    assert_eq!(write(&mut device, EJECT, u32::MAX), Effect::Ejected);
    assert_eq!(write(&mut device, EJECT, 1 << 5), Effect::None, "it has gone");
    assert_eq!(slots.take_ejected(), [SLOT_5]);
    assert_eq!(slots.take_ejected(), []);
}

#[test]
fn a_slot_that_is_used_again_is_not_asked_for() {
    let (mut device, _) = hotplug();
    let (slots, at) = (device.slots(), Address { segment: 0, slot: 31 });
    slots.ask_back(at);
    slots.insert(at);
    assert_eq!(write(&mut device, EJECT, 1 << 31), Effect::None);
    assert_eq!([UP, DOWN].map(|offset| read(&mut device, offset)), [1 << 31, 0]);
}

/// The guest may eject a device once more that control has asked for again a moment too late.
#[test]
fn an_ejection_does_not_concern_the_next_device() {
    let (mut device, _) = hotplug();
    let (slots, at) = (device.slots(), Address { segment: 0, slot: 31 });
    slots.ask_back(at);
    assert_eq!(write(&mut device, EJECT, 1 << 31), Effect::Ejected);
    slots.insert(at);
    assert_eq!(slots.take_ejected(), []);
}

#[test]
fn nonsense_is_ignored() {
    let (mut device, _) = hotplug();
    let slots = device.slots();
    slots.ask_back(SLOT_5);
    for segment in [0, 2, u32::MAX] {
        let _ = write(&mut device, SEGMENT, segment);
        assert_eq!(write(&mut device, EJECT, u32::MAX), Effect::None);
        assert_eq!([UP, DOWN].map(|offset| read(&mut device, offset)), [0, 0]);
    }
    let _ = write(&mut device, SEGMENT, 1);
    let mut byte = [0xff];
    device.read(Access { region: 0, offset: DOWN }, &mut byte);
    assert_eq!(byte, [0xff], "a part of a register is not served");
    assert_eq!(read(&mut device, DOWN), 1 << 5);
    assert_eq!(slots.take_ejected(), []);
}

#[test]
fn what_is_under_way_is_saved() {
    let (old, _) = hotplug();
    old.slots().ask_back(SLOT_5);
    let (mut new, _) = hotplug();
    new.restore_saved(&old.to_saved().unwrap()).unwrap();
    let _ = write(&mut new, SEGMENT, 1);
    assert_eq!(write(&mut new, EJECT, 1 << 5), Effect::Ejected);
    assert!(Persist::restore(&mut new, State { segment: 0, slots: Vec::new() }).is_err());
}

#[test]
fn the_guest_is_told_of_every_slot() {
    let (device, _) = hotplug();
    let aml = device.aml();
    let count = |needle: &[u8]| aml.windows(needle.len()).filter(|window| *window == needle).count();
    assert_eq!((count(b"_EJ0"), count(b"_SUN\x0a"), count(b"PSCN")), (64, 60, 1));
    assert_eq!((count(b"PC00"), count(b"PC01"), count(b"PC02")), (2, 2, 0));
    // 96 segments' worth must leave room in the tables.
    assert!(PciHotplug::new(0, 96, device.slots.notifier.clone()).aml().len() < 256 << 10);
}

#[test]
fn contract() {
    device::contract::check(&mut hotplug().0);
}

//! What the guest's ACPI code is told of PCI hot-plug.
//!
//! Every slot of every segment is a device with `_EJ0`, because that is what makes Linux look after the slot. `PSCN`, which the generic
//! event device calls, has each segment read its bits and notify its slots.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, Field, FieldAccessType, FieldEntry, FieldLockRule,
    FieldUpdateRule, If, Method, MethodCall, Mutex, Name, Notify, ONE, OpRegion, OpRegionSpace, Path,
    ResourceTemplate, Return, Scope, ShiftLeft, Store, ZERO,
};
use device::aml::{Raw, device, encode, hid, name};

use super::LEN;
use crate::acpi::code::{DEVICE_CHECK, EJECT_REQUEST, locked};

/// Slots of a segment.
const SLOTS: u32 = 32;
/// Held from the selection of a segment to the end of what is done about it.
const LOCK: &str = "\\_SB_.PHPR.BLCK";

/// The registers are at guest-physical `base`; there are this many segments.
pub(super) fn aml(base: u64, segments: usize) -> Vec<u8> {
    let mut aml = controller(base, segments);
    (0..segments).for_each(|segment| aml.extend(slots(segment)));
    aml
}

/// The path of a segment's root bridge.
fn bridge(segment: usize) -> String {
    format!("\\_SB_.PC{segment:02X}")
}

fn controller(base: u64, segments: usize) -> Vec<u8> {
    const UNCACHED: AddressSpaceCacheable = AddressSpaceCacheable::NotCacheable;
    let memory = AddressSpace::new_memory(UNCACHED, true, base, base + LEN - 1, None::<u64>);
    let resources = ResourceTemplate::new(vec![&memory]);
    let region = OpRegion::new(Path::new("PCST"), OpRegionSpace::SystemMemory, &base, &LEN);
    let registers = [*b"PCIU", *b"PCID", *b"B0EJ", *b"PSEG"].map(|register| FieldEntry::Named(register, 32));
    let field = Field::new(
        Path::new("PCST"),
        FieldAccessType::DWord,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        registers.into(),
    );
    let scans: Vec<_> = (0..segments).map(|n| format!("{}.PCNT", bridge(n))).collect();
    let scans: Vec<_> = scans.iter().map(|path| MethodCall::new(Path::new(path), Vec::new())).collect();
    let scan = Method::new(Path::new("PSCN"), 0, true, scans.iter().map(|scan| scan as &dyn Aml).collect());
    device(
        "_SB_.PHPR",
        vec![
            &hid("PNP0A06"),
            &name("_UID", &"PCI Hotplug Controller"),
            &name("_CRS", &resources),
            &region,
            &field,
            &Mutex::new(Path::new("BLCK"), 0),
            &Raw(eject()),
            &scan,
        ],
    )
}

/// `PCEJ (slot, segment)`.
fn eject() -> Vec<u8> {
    let (segment, register) = (Path::new("PSEG"), Path::new("B0EJ"));
    let (slot, wanted_segment) = (Arg(0), Arg(1));
    let select = Store::new(&segment, &wanted_segment);
    let write = ShiftLeft::new(&register, &ONE, &slot);
    locked(LOCK, "PCEJ", 2, vec![&select, &write], Some(&Return::new(&ZERO)))
}

/// The slots of a segment, below its root bridge, and the method that looks at its bits.
fn slots(segment: usize) -> Vec<u8> {
    let devices: Vec<_> = (0..SLOTS).map(|slot| Raw(slot_device(slot))).collect();
    let (notify, scan) = (Raw(notify()), Raw(scan()));
    let mut children: Vec<&dyn Aml> = devices.iter().map(|device| device as &dyn Aml).collect();
    children.extend([&notify as &dyn Aml, &scan]);
    encode(&Scope::new(Path::new(&bridge(segment)), children))
}

fn slot_name(slot: u32) -> String {
    format!("S{slot:03}")
}

fn slot_device(slot: u32) -> Vec<u8> {
    let (own, segment) = (Path::new("_SUN"), Path::new("_SEG"));
    let call = MethodCall::new(Path::new("\\_SB_.PHPR.PCEJ"), vec![&own, &segment]);
    let eject = Method::new(Path::new("_EJ0"), 1, true, vec![&call]);
    let address: Name = name("_ADR", &(slot << 16));
    device(&slot_name(slot), vec![&name("_SUN", &slot), &address, &eject])
}

/// `DVNT (slots, notification)`: notifies each slot whose bit is set.
fn notify() -> Vec<u8> {
    let (slots, notification) = (Arg(0), Arg(1));
    let body: Vec<Raw> = (0..SLOTS)
        .map(|slot| {
            let (bit, own) = (1u32 << slot, Path::new(&slot_name(slot)));
            let (is_set, notify) = (And::new(&ZERO, &slots, &bit), Notify::new(&own, &notification));
            Raw(encode(&If::new(&is_set, vec![&notify])))
        })
        .collect();
    encode(&Method::new(Path::new("DVNT"), 2, true, body.iter().map(|part| part as &dyn Aml).collect()))
}

/// `PCNT`: what has come, and what is to go, in this segment. A read clears the bits.
fn scan() -> Vec<u8> {
    let (select, own) = (Path::new("\\_SB_.PHPR.PSEG"), Path::new("_SEG"));
    let (up, down) = (Path::new("\\_SB_.PHPR.PCIU"), Path::new("\\_SB_.PHPR.PCID"));
    let select = Store::new(&select, &own);
    let come = MethodCall::new(Path::new("DVNT"), vec![&up, &DEVICE_CHECK]);
    let go = MethodCall::new(Path::new("DVNT"), vec![&down, &EJECT_REQUEST]);
    locked(LOCK, "PCNT", 0, vec![&select, &come, &go], None)
}

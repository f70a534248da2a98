//! The DSDT: the devices that the guest cannot discover by itself, in AML.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Device, EISAName, Equal, Field, FieldAccessType, FieldEntry,
    FieldLockRule, FieldUpdateRule, IO, If, Interrupt, Local, Memory32Fixed, Method, MethodCall, Name,
    Notify, ONE, OpRegion, OpRegionSpace, Package, Path, ResourceTemplate, Store, ZERO,
};
use acpi_tables::{Aml, AmlSink};
use memory::layout;

use super::fixed::ecam;
use super::{AcpiError, PciSegment, Tables, encode, pci, table};

/// The generic event device's interrupt.
const GED_GSI: u32 = 13;
const COM1_GSI: u32 = 4;

/// AML that is already bytes.
pub(super) struct Raw(pub(super) Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

pub(super) fn build(tables: &Tables) -> Result<Vec<u8>, AcpiError> {
    let mut body = Vec::new();
    for segment in &tables.segments {
        body.extend(pci::root(segment)?);
    }
    body.extend(motherboard(&tables.segments));
    if tables.serial {
        body.extend(com1());
    }
    body.extend(sleep_state());
    body.extend(power_button());
    body.extend(event_controller(tables.ged));
    body.extend(event_device());
    Ok(table(*b"DSDT", 6, *b"CHDSDT  ", &body))
}

/// `Name (path, value)`.
pub(super) fn name(path: &str, value: &dyn Aml) -> Name {
    Name::new(Path::new(path), value)
}

fn device(path: &str, body: Vec<&dyn Aml>) -> Vec<u8> {
    encode(&Device::new(Path::new(path), body))
}

fn hid(id: &str) -> Name {
    name("_HID", &EISAName::new(id))
}

/// Keeps the guest from placing anything over PCI configuration space.
fn motherboard(segments: &[PciSegment]) -> Vec<u8> {
    let size = layout::ECAM_SEGMENT as u32;
    let ranges: Vec<_> = segments.iter().map(|s| Memory32Fixed::new(true, ecam(s) as u32, size)).collect();
    let resources = ResourceTemplate::new(ranges.iter().map(|range| range as &dyn Aml).collect());
    device("_SB_.MBRD", vec![&hid("PNP0C02"), &name("_UID", &ZERO), &name("_CRS", &resources)])
}

fn com1() -> Vec<u8> {
    let interrupt = Interrupt::new(true, true, false, false, COM1_GSI);
    let ports = IO::new(0x3f8, 0x3f8, 0, 8);
    let resources = ResourceTemplate::new(vec![&interrupt, &ports]);
    device(
        "_SB_.COM1",
        vec![&hid("PNP0501"), &name("_UID", &ZERO), &name("_DDN", &"COM1"), &name("_CRS", &resources)],
    )
}

/// S5, soft off: the value written to the sleep control register is 5.
fn sleep_state() -> Vec<u8> {
    const SOFT_OFF: u8 = 5;
    encode(&name("_S5_", &Package::new(vec![&SOFT_OFF, &SOFT_OFF, &ZERO, &ZERO])))
}

fn power_button() -> Vec<u8> {
    device("_SB_.PWRB", vec![&hid("PNP0C0C"), &name("_UID", &ZERO)])
}

/// The register that says what happened, and the method that reads and dispatches it. A read clears it.
fn event_controller(address: u64) -> Vec<u8> {
    const POWER_BUTTON: u8 = 1 << 3;
    const PRESSED: u8 = 0x80;
    let memory =
        AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, address, address, None::<u64>);
    let resources = ResourceTemplate::new(vec![&memory]);
    let region = OpRegion::new(Path::new("GDST"), OpRegionSpace::SystemMemory, &address, &ONE);
    let field = Field::new(
        Path::new("GDST"),
        FieldAccessType::Byte,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        vec![FieldEntry::Named(*b"GDAT", 8)],
    );
    let (events, event) = (Local(0), Local(1));
    let (register, button) = (Path::new("GDAT"), Path::new("\\_SB_.PWRB"));
    let read = Store::new(&events, &register);
    let select = And::new(&event, &events, &POWER_BUTTON);
    let set = Equal::new(&event, &POWER_BUTTON);
    let notify = Notify::new(&button, &PRESSED);
    let dispatch = If::new(&set, vec![&notify]);
    let scan = Method::new(Path::new("ESCN"), 0, true, vec![&read, &select, &dispatch]);
    device(
        "_SB_.GEC_",
        vec![
            &hid("PNP0A06"),
            &name("_UID", &"Generic Event Controller"),
            &name("_CRS", &resources),
            &region,
            &field,
            &scan,
        ],
    )
}

/// The generic event device (ACPI 6.3, 5.6.9): its interrupt runs the controller's scan.
fn event_device() -> Vec<u8> {
    let interrupt = Interrupt::new(true, true, false, false, GED_GSI);
    let resources = ResourceTemplate::new(vec![&interrupt]);
    let scan = MethodCall::new(Path::new("\\_SB_.GEC_.ESCN"), vec![]);
    let handle = Method::new(Path::new("_EVT"), 1, true, vec![&scan]);
    device(
        "_SB_.GED_",
        vec![&name("_HID", &"ACPI0013"), &name("_UID", &ZERO), &name("_CRS", &resources), &handle],
    )
}

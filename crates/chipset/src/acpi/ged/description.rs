//! What the guest's ACPI code is told of the generic event device.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Equal, Field, FieldAccessType, FieldEntry, FieldLockRule,
    FieldUpdateRule, If, Interrupt, Local, Method, MethodCall, Notify, ONE, OpRegion, OpRegionSpace, Path,
    ResourceTemplate, Store, ZERO,
};
use device::aml::{Raw, device, encode, hid, name};

use super::{Cause, Ged};
use crate::acpi::generation;

/// The register is at guest-physical `base`.
pub(super) fn aml(base: u64) -> Vec<u8> {
    [power_button(), controller(base), event_device()].concat()
}

fn power_button() -> Vec<u8> {
    device("_SB_.PWRB", vec![&hid("PNP0C0C"), &name("_UID", &ZERO)])
}

/// For a button (ACPI 6.4 §5.6.6): it was pressed.
const PRESSED: u8 = 0x80;
/// For the VM generation ID: it has changed.
const CHANGED: u8 = 0x80;

/// The register that says what happened, and the method that reads and dispatches it. A read clears it.
fn controller(base: u64) -> Vec<u8> {
    let memory = AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, base, base, None::<u64>);
    let resources = ResourceTemplate::new(vec![&memory]);
    let region = OpRegion::new(Path::new("GDST"), OpRegionSpace::SystemMemory, &base, &ONE);
    let field = Field::new(
        Path::new("GDST"),
        FieldAccessType::Byte,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        vec![FieldEntry::Named(*b"GDAT", 8)],
    );
    let (register, button) = (Path::new("GDAT"), Path::new("\\_SB_.PWRB"));
    let read = Store::new(&EVENTS, &register);
    let cpus = on(Cause::Cpu, &MethodCall::new(Path::new("\\_SB_.CPUS.CSCN"), vec![]));
    let memory = on(Cause::Memory, &MethodCall::new(Path::new("\\_SB_.MHPC.MSCN"), vec![]));
    let slots = on(Cause::Pci, &MethodCall::new(Path::new("\\_SB_.PHPR.PSCN"), vec![]));
    let pressed = on(Cause::PowerButton, &Notify::new(&button, &PRESSED));
    let generation = Path::new(&format!("\\{}", generation::PATH));
    let changed = on(Cause::Generation, &Notify::new(&generation, &CHANGED));
    let steps: Vec<&dyn Aml> = vec![&read, &cpus, &memory, &slots, &pressed, &changed];
    let scan = Method::new(Path::new("ESCN"), 0, true, steps);
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

/// What the scan has read.
const EVENTS: Local = Local(0);

/// Does something if a cause is among the events.
fn on(cause: Cause, action: &dyn Aml) -> Raw {
    let (event, cause) = (Local(1), cause as u8);
    let select = And::new(&event, &EVENTS, &cause);
    let is_set = Equal::new(&event, &cause);
    Raw([encode(&select), encode(&If::new(&is_set, vec![action]))].concat())
}

fn event_device() -> Vec<u8> {
    let interrupt = Interrupt::new(true, true, false, false, Ged::PIN.into());
    let resources = ResourceTemplate::new(vec![&interrupt]);
    let scan = MethodCall::new(Path::new("\\_SB_.GEC_.ESCN"), vec![]);
    let handle = Method::new(Path::new("_EVT"), 1, true, vec![&scan]);
    device(
        "_SB_.GED_",
        vec![&name("_HID", &"ACPI0013"), &name("_UID", &ZERO), &name("_CRS", &resources), &handle],
    )
}

//! What the guest's ACPI code is told of the memory controller: its registers, a memory device for each slot, and the methods that go
//! between the two.

use acpi_tables::Aml;
use acpi_tables::aml::{
    Add, AddressSpace, AddressSpaceCacheable, Arg, CreateQWordField, Equal, Field, FieldAccessType,
    FieldEntry, FieldLockRule, FieldUpdateRule, If, LessThan, Local, Method, MethodCall, Mutex, Notify, ONE,
    OpRegion, OpRegionSpace, Or, Path, ResourceTemplate, Return, ShiftLeft, Store, Subtract, While, ZERO,
};
use device::aml::{Raw, device, encode, hid, name};

use super::register;
use super::slots::SLOTS;
use crate::acpi::code::{DEVICE_CHECK, locked};

const CONTROLLER: &str = "_SB_.MHPC";
/// Held from the selection of a slot to the end of what is done about it.
const LOCK: &str = "MLCK";
const SELECT: &str = "MSEL";
const ENABLED: &str = "MEN_";
const INSERTING: &str = "MINS";

/// The controller of a machine to which no RAM comes: the method that the generic event device calls, and nothing in it.
pub(super) fn nothing() -> Vec<u8> {
    device(CONTROLLER, vec![&hid("PNP0A06"), &uid(), &Method::new(Path::new("MSCN"), 0, true, vec![])])
}

fn uid() -> acpi_tables::aml::Name {
    name("_UID", &"Memory Hotplug Controller")
}

/// The registers are at guest-physical `base`.
pub(super) fn aml(base: u64) -> Vec<u8> {
    const UNCACHED: AddressSpaceCacheable = AddressSpaceCacheable::NotCacheable;
    let last = base + register::LEN - 1;
    let memory = AddressSpace::new_memory(UNCACHED, true, base, last, None::<u64>);
    let resources = ResourceTemplate::new(vec![&memory]);
    let region = OpRegion::new(Path::new("MHPR"), OpRegionSpace::SystemMemory, &base, &register::LEN);
    let (id, uid, resources) = (hid("PNP0A06"), uid(), name("_CRS", &resources));
    let lock = Mutex::new(Path::new(LOCK), 0);
    let fields = fields();
    let methods = [status(), notify(), resources_of(), scan()].map(Raw);
    let slots: Vec<Raw> = (0..SLOTS).map(|slot| Raw(memory_device(slot as u32))).collect();
    let mut body: Vec<&dyn Aml> = vec![&id, &uid, &resources, &lock, &region];
    body.extend(fields.iter().map(|field| field as &dyn Aml));
    body.extend(methods.iter().chain(&slots).map(|part| part as &dyn Aml));
    device(CONTROLLER, body)
}

/// What is read, what has bits to read and to write, and what is written.
fn fields() -> [Field; 3] {
    let bits = |offset: u64| FieldEntry::Reserved(8 * offset as usize);
    let word = |name: &[u8; 4]| FieldEntry::Named(*name, 32);
    let bit = |name: &[u8; 4]| FieldEntry::Named(*name, 1);
    let field = |access, entries| {
        Field::new(
            Path::new("MHPR"),
            access,
            FieldLockRule::NoLock,
            // The other bits of a register do something by themselves when they are written.
            FieldUpdateRule::WriteAsZeroes,
            entries,
        )
    };
    let read = vec![
        bits(register::BASE),
        word(b"MHBL"),
        word(b"MHBH"),
        word(b"MHLL"),
        word(b"MHLH"),
        FieldEntry::Reserved(8 * (register::PROXIMITY - register::LENGTH - 8) as usize),
        word(b"MHPX"),
    ];
    let status = vec![bits(register::STATUS), bit(b"MEN_"), bit(b"MINS"), bit(b"MRMV"), bit(b"MEJ0")];
    let written = vec![
        bits(register::SELECT),
        word(b"MSEL"),
        bits(register::OUTCOME_EVENT - register::SELECT - 4),
        word(b"MOEV"),
        bits(register::OUTCOME - register::OUTCOME_EVENT - 4),
        word(b"MOSC"),
    ];
    [
        field(FieldAccessType::DWord, read),
        field(FieldAccessType::Byte, status),
        field(FieldAccessType::DWord, written),
    ]
}

fn slot_name(slot: u32) -> String {
    format!("M{slot:03}")
}

/// A slot as the guest's operating system knows memory.
fn memory_device(slot: u32) -> Vec<u8> {
    let method = |path: &str, asks: &str| {
        let call = MethodCall::new(Path::new(asks), vec![&slot]);
        Raw(encode(&Method::new(Path::new(path), 0, true, vec![&Return::new(&call)])))
    };
    let (status, resources) = (method("_STA", "MSTA"), method("_CRS", "MCRS"));
    device(&slot_name(slot), vec![&hid("PNP0C80"), &name("_UID", &slot), &status, &resources])
}

/// `MSTA (slot)`: its `_STA`.
fn status() -> Vec<u8> {
    const WORKING: u8 = 0xf;
    let (select, enabled) = (Path::new(SELECT), Path::new(ENABLED));
    let (slot, answer) = (Arg(0), Local(0));
    let choose = Store::new(&select, &slot);
    let absent = Store::new(&answer, &ZERO);
    let is_enabled = Equal::new(&enabled, &ONE);
    let present = Store::new(&answer, &WORKING);
    let decide = If::new(&is_enabled, vec![&present]);
    locked(LOCK, "MSTA", 1, vec![&choose, &absent, &decide], Some(&Return::new(&answer)))
}

/// `MTFY (slot, event)`: notifies the slot's own object.
fn notify() -> Vec<u8> {
    let (slot, event) = (Arg(0), Arg(1));
    let one = |number: usize| {
        let object = Path::new(&slot_name(number as u32));
        let (is_it, notify) = (Equal::new(&slot, &number), Notify::new(&object, &event));
        Raw(encode(&If::new(&is_it, vec![&notify])))
    };
    let all: Vec<Raw> = (0..SLOTS).map(one).collect();
    encode(&Method::new(Path::new("MTFY"), 2, true, all.iter().map(|one| one as &dyn Aml).collect()))
}

/// `MCRS (slot)`: its `_CRS`, one range of memory.
fn resources_of() -> Vec<u8> {
    /// Where a QWord address space descriptor has its fields (ACPI 6.3 §6.4.3.5.1).
    const MINIMUM: u8 = 14;
    const MAXIMUM: u8 = 22;
    const LENGTH: u8 = 38;
    const CACHED: AddressSpaceCacheable = AddressSpaceCacheable::Cacheable;
    let (select, slot) = (Path::new(SELECT), Arg(0));
    let choose = Store::new(&select, &slot);
    let memory = AddressSpace::new_memory(CACHED, true, 0u64, 0, None);
    let (answer, answered) = (name("MR64", &ResourceTemplate::new(vec![&memory])), Path::new("MR64"));
    let (base, last, length) = (Path::new("MINQ"), Path::new("MAXQ"), Path::new("LENQ"));
    let fields = [
        CreateQWordField::new(&base, &answered, &MINIMUM),
        CreateQWordField::new(&last, &answered, &MAXIMUM),
        CreateQWordField::new(&length, &answered, &LENGTH),
    ];
    let [read_base, read_length] =
        [("MHBH", "MHBL", &base), ("MHLH", "MHLL", &length)].map(|(high, low, target)| {
            let (high, low, half) = (Path::new(high), Path::new(low), Local(0));
            let raise = ShiftLeft::new(&half, &high, &32u8);
            Raw([encode(&raise), encode(&Or::new(target, &half, &low))].concat())
        });
    let end = Local(0);
    let (add, less) = (Add::new(&end, &base, &length), Subtract::new(&last, &end, &ONE));
    let mut steps: Vec<&dyn Aml> = vec![&choose, &answer];
    steps.extend(fields.iter().map(|field| field as &dyn Aml));
    steps.extend([&read_base as &dyn Aml, &read_length, &add, &less]);
    locked(LOCK, "MCRS", 1, steps, Some(&Return::new(&answered)))
}

/// `MSCN ()`: looks at every slot, notifies those whose RAM has come, and tells the controller so.
fn scan() -> Vec<u8> {
    let (slot, select, inserting) = (Local(0), Path::new(SELECT), Path::new(INSERTING));
    let (first, choose) = (Store::new(&slot, &ZERO), Store::new(&select, &slot));
    let has_come = Equal::new(&inserting, &ONE);
    let notify = MethodCall::new(Path::new("MTFY"), vec![&slot, &DEVICE_CHECK]);
    let acknowledge = Store::new(&inserting, &ONE);
    let answer = If::new(&has_come, vec![&notify, &acknowledge]);
    let next = Add::new(&slot, &slot, &ONE);
    let more = LessThan::new(&slot, &SLOTS);
    let each = While::new(&more, vec![&choose, &answer, &next]);
    locked(LOCK, "MSCN", 0, vec![&first, &each], None)
}

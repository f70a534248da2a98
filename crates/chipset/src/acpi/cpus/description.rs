//! What the guest's ACPI code is told of the CPU controller: its registers (PRES), the CPUs (CPUS), and methods that go between the two.

use std::collections::BTreeMap;
use std::ops::Range;

use acpi_tables::Aml;
use acpi_tables::aml::{
    Add, AddressSpace, AddressSpaceCacheable, Arg, BufferData, EISAName, Else, Equal, Field, FieldAccessType,
    FieldEntry, FieldLockRule, FieldUpdateRule, If, LessThan, Local, Method, MethodCall, Mutex, Notify, ONE,
    OpRegion, OpRegionSpace, Path, ResourceTemplate, Return, Store, While, ZERO,
};
use device::aml::{Raw, device, encode, hid, name};

use super::{madt_entry, register};
use crate::acpi::code::{DEVICE_CHECK, EJECT_REQUEST, locked};

/// Held from the selection of a CPU to the end of what is done about it.
const LOCK: &str = "\\_SB_.PRES.CPLK";
const SELECT: &str = "\\_SB_.PRES.CSEL";
const ENABLED: &str = "\\_SB_.PRES.CPEN";
const INSERTING: &str = "\\_SB_.PRES.CINS";
const REMOVING: &str = "\\_SB_.PRES.CRMV";
const EJECT: &str = "\\_SB_.PRES.CEJ0";

/// The registers are at guest-physical `base`; `nodes` are the NUMA nodes of CPUs, by the CPU's number.
pub(super) fn aml(base: u64, apic_ids: &[u32], nodes: &BTreeMap<u32, u8>) -> Vec<u8> {
    [registers(base), container(apic_ids, nodes)].concat()
}

fn registers(base: u64) -> Vec<u8> {
    let last = base + register::LEN - 1;
    let memory = AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, base, last, None::<u64>);
    let resources = ResourceTemplate::new(vec![&memory]);
    let region = OpRegion::new(Path::new("PRST"), OpRegionSpace::SystemMemory, &base, &register::LEN);
    let bits = |offset: u64| FieldEntry::Reserved(8 * offset as usize);
    let status = vec![
        bits(register::STATUS),
        FieldEntry::Named(*b"CPEN", 1),
        FieldEntry::Named(*b"CINS", 1),
        FieldEntry::Named(*b"CRMV", 1),
        FieldEntry::Named(*b"CEJ0", 1),
        FieldEntry::Reserved(4),
        FieldEntry::Named(*b"CCMD", 8),
    ];
    let words =
        vec![FieldEntry::Named(*b"CSEL", 32), FieldEntry::Reserved(32), FieldEntry::Named(*b"CDAT", 32)];
    let field = |access, update, entries| {
        Field::new(Path::new("PRST"), access, FieldLockRule::NoLock, update, entries)
    };
    // Each bit of the status does something by itself when it is written: the others are written as zeros.
    let status = field(FieldAccessType::Byte, FieldUpdateRule::WriteAsZeroes, status);
    let words = field(FieldAccessType::DWord, FieldUpdateRule::Preserve, words);
    device(
        "_SB_.PRES",
        vec![
            &hid("PNP0A06"),
            &name("_UID", &"CPU Hotplug Controller"),
            &name("_CRS", &resources),
            &Mutex::new(Path::new("CPLK"), 0),
            &region,
            &status,
            &words,
        ],
    )
}

fn container(apic_ids: &[u32], nodes: &BTreeMap<u32, u8>) -> Vec<u8> {
    let cpu = |(uid, apic_id): (u32, &u32)| Raw(cpu(uid, *apic_id, nodes.get(&uid)));
    let cpus: Vec<Raw> = (0u32..).zip(apic_ids).map(cpu).collect();
    let (id, compatible) = (name("_HID", &"ACPI0010"), name("_CID", &EISAName::new("PNP0A05")));
    let count = apic_ids.len() as u32;
    let methods = [status(), notify(count), eject(), scan(count)].map(Raw);
    let mut body: Vec<&dyn Aml> = vec![&id, &compatible];
    body.extend(methods.iter().map(|method| method as &dyn Aml));
    body.extend(cpus.iter().map(|cpu| cpu as &dyn Aml));
    device("_SB_.CPUS", body)
}

/// `C000` to `CFFF`, then on to `DFFF`.
fn cpu_name(uid: u32) -> String {
    format!("{:04X}", 0xc000 + uid)
}

fn cpu(uid: u32, apic_id: u32, node: Option<&u8>) -> Vec<u8> {
    const PRESENT: u32 = 1;
    let entry = BufferData::new(madt_entry(apic_id, PRESENT, uid).to_vec());
    let (id, number, entry) = (name("_HID", &"ACPI0007"), name("_UID", &uid), name("_MAT", &entry));
    let ask = MethodCall::new(Path::new("CSTA"), vec![&uid]);
    let answer = Return::new(&ask);
    let status = Method::new(Path::new("_STA"), 0, false, vec![&answer]);
    let call = MethodCall::new(Path::new("CEJ0"), vec![&uid]);
    let eject = Method::new(Path::new("_EJ0"), 1, false, vec![&call]);
    let node = node.map(|node| name("_PXM", node));
    let mut body: Vec<&dyn Aml> = vec![&id, &number, &status, &entry];
    body.extend(node.iter().map(|node| node as &dyn Aml));
    // The first CPU never leaves.
    if uid != 0 {
        body.push(&eject);
    }
    device(&cpu_name(uid), body)
}

/// `CSTA (cpu)`: its `_STA`.
fn status() -> Vec<u8> {
    const WORKING: u8 = 0xf;
    let (select, enabled) = (Path::new(SELECT), Path::new(ENABLED));
    let (cpu, answer) = (Arg(0), Local(0));
    let choose = Store::new(&select, &cpu);
    let absent = Store::new(&answer, &ZERO);
    let is_enabled = Equal::new(&enabled, &ONE);
    let present = Store::new(&answer, &WORKING);
    let decide = If::new(&is_enabled, vec![&present]);
    locked(LOCK, "CSTA", 1, vec![&choose, &absent, &decide], Some(&Return::new(&answer)))
}

/// `CTFY (cpu, event)`: notifies the CPU's own object.
fn notify(count: u32) -> Vec<u8> {
    let body = Raw(notify_one_of(0..count));
    encode(&Method::new(Path::new("CTFY"), 2, true, vec![&body]))
}

/// Notifies that one of these CPUs which the method was called for. They are told apart by halves: a scan of many CPUs would have to
/// ask very many questions one after the other, and Linux gives up a loop after 30 s.
fn notify_one_of(cpus: Range<u32>) -> Vec<u8> {
    let (cpu, event) = (Arg(0), Arg(1));
    let middle = cpus.start.midpoint(cpus.end);
    if middle == cpus.start {
        return encode(&Notify::new(&Path::new(&cpu_name(cpus.start)), &event));
    }
    let [lower, upper] = [cpus.start..middle, middle..cpus.end].map(|half| Raw(notify_one_of(half)));
    let is_lower = LessThan::new(&cpu, &middle);
    [encode(&If::new(&is_lower, vec![&lower])), encode(&Else::new(vec![&upper]))].concat()
}

/// `CEJ0 (cpu)`: tells the controller that the guest has let go of it.
fn eject() -> Vec<u8> {
    let (select, eject) = (Path::new(SELECT), Path::new(EJECT));
    let cpu = Arg(0);
    locked(LOCK, "CEJ0", 1, vec![&Store::new(&select, &cpu), &Store::new(&eject, &ONE)], None)
}

/// `CSCN ()`: looks at every CPU, notifies those that come or are to go, and tells the controller so.
fn scan(count: u32) -> Vec<u8> {
    let cpu = Local(0);
    let select = Path::new(SELECT);
    let answer = |flag: &str, event: u8| {
        let flag = Path::new(flag);
        let is_set = Equal::new(&flag, &ONE);
        let notify = MethodCall::new(Path::new("CTFY"), vec![&cpu, &event]);
        Raw(encode(&If::new(&is_set, vec![&notify, &Store::new(&flag, &ONE)])))
    };
    let (first, choose) = (Store::new(&cpu, &ZERO), Store::new(&select, &cpu));
    let (comes, goes) = (answer(INSERTING, DEVICE_CHECK), answer(REMOVING, EJECT_REQUEST));
    let next = Add::new(&cpu, &cpu, &ONE);
    let more = LessThan::new(&cpu, &count);
    let each = While::new(&more, vec![&choose, &comes, &goes, &next]);
    locked(LOCK, "CSCN", 0, vec![&first, &each], None)
}

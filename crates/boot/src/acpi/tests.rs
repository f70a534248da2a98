//! The tables as a guest finds them in RAM.

use std::time::Duration;

use chipset::acpi::{CpuController, PmTimer, SleepControl};
use device::{Access, Device, Effect, Power, Region, Space};
use memory::{Bytes, GuestAddress, test_ram};

use super::{AcpiError, Cpu, NodeMemory, NumaNode, PciSegment, Tables, write};

const RSDP: usize = 0xa_0000;

fn tables(cpus: u32, segments: u8) -> Tables {
    let window64 = |n: u64| (n + 2) << 32..=((n + 3) << 32) - 1;
    Tables {
        cpus: (0..cpus).map(|n| Cpu { apic_id: 2 * n, enabled: n < 2 }).collect(),
        segments: (0..segments)
            .map(|number| PciSegment {
                number,
                node: number,
                window32: 0xc000_0000..=0xc7ff_ffff,
                window64: window64(number.into()),
            })
            .collect(),
        nodes: Vec::new(),
        pm1_ports: false,
        devices: b"devices' own".to_vec(),
    }
}

/// Low memory after the tables were written.
fn written(tables: &Tables) -> Vec<u8> {
    let ram = test_ram(&[(0, 2 << 20)]);
    write(&ram, tables).unwrap();
    let mut bytes = vec![0; 2 << 20];
    ram.map().read_slice(&mut bytes, GuestAddress(0)).unwrap();
    bytes
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn u64_at(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// Signature, address and bytes of each table after the RSDP, in order.
fn walk(memory: &[u8]) -> Vec<(String, usize, &[u8])> {
    let mut found = Vec::new();
    let mut at = RSDP + 36;
    while memory[at] != 0 {
        let table = &memory[at..at + u32_at(memory, at + 4)];
        found.push((String::from_utf8(table[..4].to_vec()).unwrap(), at, table));
        at += table.len();
    }
    found
}

fn table<'a>(memory: &'a [u8], signature: &str) -> &'a [u8] {
    walk(memory).iter().find(|(name, ..)| name == signature).unwrap().2
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn the_tables_follow_each_other_and_add_up() {
    let memory = written(&tables(4, 2));
    let rsdp = &memory[RSDP..RSDP + 36];
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!((&rsdp[9..15], rsdp[15]), (&b"CLOUDH"[..], 2));
    assert_eq!((sum(&rsdp[..20]), sum(rsdp)), (0, 0));
    let found = walk(&memory);
    let names: Vec<_> = found.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["DSDT", "FACP", "APIC", "MCFG", "XSDT"]);
    for (name, _, table) in &found {
        assert_eq!(sum(table), 0, "{name}");
        assert_eq!(&table[10..16], b"CLOUDH", "{name}");
    }
    assert_eq!(u64_at(rsdp, 24), found[4].1);
    let listed: Vec<_> = found[4].2[36..].chunks(8).map(|entry| u64_at(entry, 0)).collect();
    assert_eq!(listed, [found[1].1, found[2].1, found[3].1]);
    assert_eq!(u64_at(found[1].2, 140), RSDP + 36, "the FADT points to the DSDT");
}

#[test]
fn the_fadt_is_that_of_a_reduced_machine() {
    let memory = written(&tables(1, 1));
    let facp = table(&memory, "FACP");
    assert_eq!((facp.len(), facp[8], facp[131]), (276, 6, 3));
    assert_eq!(u32_at(facp, 112), 1 << 20 | 1 << 10 | 1 << 8);
    let byte_port = [1, 8, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0];
    assert_eq!((&facp[116..128], facp[128]), (&byte_port[..], 1), "reset register and value");
    assert_eq!((&facp[244..256], &facp[256..268]), (&byte_port[..], &byte_port[..]), "sleep registers");
    assert_eq!(facp[208..220], [1, 32, 0, 3, 8, 6, 0, 0, 0, 0, 0, 0], "PM timer");
    assert_eq!(&facp[268..], b"CLOUDHYP");
}

#[test]
fn the_fadt_names_ports_that_devices_have() {
    let memory = written(&tables(1, 1));
    let facp = table(&memory, "FACP");
    let named = |at: usize| (u64_at(facp, at + 4) as u64, u64::from(facp[at + 1] / 8));
    let ports = |device: &dyn Device| {
        let [Region { space: Space::Pio, base, len, .. }] = device.regions()[..] else { panic!() };
        (base, len)
    };
    for (register, at) in [("reset", 116), ("sleep control", 244), ("sleep status", 256)] {
        assert_eq!(named(at), ports(&SleepControl), "{register}");
    }
    let at = Access { region: 0, offset: 0 };
    assert_eq!(SleepControl.write(at, &facp[128..129]), Effect::Power(Power::Reset));
    let timer = PmTimer::new(Box::new(|| Duration::ZERO), Box::new(|| Duration::ZERO));
    assert_eq!(named(208), ports(&timer));
    assert_eq!((u32_at(facp, 76) as u64, facp[91].into()), ports(&timer), "the same in the old fields");
}

#[test]
fn the_fadt_names_free_ports_if_asked_to() {
    let without = written(&tables(1, 1));
    let with = written(&Tables { pm1_ports: true, ..tables(1, 1) });
    let ports = |memory: &[u8]| {
        let facp = table(memory, "FACP");
        let lengths = (facp[88], facp[89]);
        (u32_at(facp, 56), u32_at(facp, 64), lengths, u64_at(facp, 152), u64_at(facp, 176))
    };
    assert_eq!(ports(&without), (0, 0, (0, 0), 0, 0));
    assert_eq!(ports(&with), (0x60c, 0x610, (4, 2), 0x60c, 0x610));
}

#[test]
fn the_madt_lists_all_possible_cpus() {
    let memory = written(&tables(3, 1));
    let madt = table(&memory, "APIC");
    assert_eq!(u32_at(madt, 36), 0xfee0_0000);
    let cpu = |apic_id: u8, flags: u8, uid: u8| [9, 16, 0, 0, apic_id, 0, 0, 0, flags, 0, 0, 0, uid, 0, 0, 0];
    assert_eq!(madt[44..92], [cpu(0, 1, 0), cpu(2, 1, 1), cpu(4, 2, 2)].concat());
    assert_eq!(madt[92..104], [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    assert_eq!(madt[104..], [2, 10, 0, 4, 4, 0, 0, 0, 0, 0]);
}

#[test]
fn the_mcfg_has_one_bus_per_segment() {
    let memory = written(&tables(1, 2));
    let mcfg = table(&memory, "MCFG");
    let second = [0, 0, 0x10, 0xe8, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!((mcfg.len(), &mcfg[60..]), (76, &second[..]));
}

/// Node 0 with two pieces of memory and two CPUs, node 2 with one CPU and room for memory, node 3 a device.
fn with_nodes() -> Tables {
    let memory = |base, len, comes_later| NodeMemory { range: (base, len), comes_later };
    let nodes = vec![
        NumaNode {
            memory: vec![memory(0, 3 << 30, false), memory(4 << 30, 1 << 30, false)],
            cpus: vec![0, 2],
            distances: vec![(2, 15)],
            ..NumaNode::default()
        },
        NumaNode {
            id: 2,
            memory: vec![memory(5 << 30, 1 << 30, true)],
            cpus: vec![4],
            distances: vec![(0, 17), (3, 200)],
            ..NumaNode::default()
        },
        NumaNode { id: 3, initiator: Some((1, 5)), ..NumaNode::default() },
    ];
    Tables { nodes, ..tables(3, 2) }
}

#[test]
fn the_srat_has_the_parts_of_each_node() {
    let memory = written(&with_nodes());
    let srat = table(&memory, "SRAT");
    assert_eq!((srat[8], sum(srat)), (3, 0));
    assert_eq!(srat[36..48], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut entries = Vec::new();
    let mut at = 48;
    while at < srat.len() {
        let entry = &srat[at..at + usize::from(srat[at + 1])];
        entries.push(entry);
        at += entry.len();
    }
    let kinds: Vec<_> = entries.iter().map(|entry| (entry[0], entry.len())).collect();
    assert_eq!(kinds, [(1, 40), (1, 40), (2, 24), (2, 24), (1, 40), (2, 24), (5, 32)]);
    let ranges: Vec<_> = [0, 1, 4]
        .map(|n| {
            let entry = entries[n];
            (u32_at(entry, 2), u64_at(entry, 8), u64_at(entry, 16), u32_at(entry, 28))
        })
        .into();
    assert_eq!(ranges, [(0, 0, 3 << 30, 1), (0, 4 << 30, 1 << 30, 1), (2, 5 << 30, 1 << 30, 3)]);
    let cpus = [2, 3, 5].map(|n| (u32_at(entries[n], 4), u32_at(entries[n], 8), u32_at(entries[n], 12)));
    assert_eq!(cpus, [(0, 0, 1), (0, 2, 1), (2, 4, 1)]);
    let initiator = [5, 32, 0, 1, 3, 0, 0, 0, 1, 0, 0, 5 << 3];
    assert_eq!((&entries[6][..12], u32_at(entries[6], 24)), (&initiator[..], 1));
    assert!(entries[6][12..24].iter().chain(&entries[6][28..]).all(|byte| *byte == 0));
}

#[test]
fn the_slit_has_each_pair_s_distance() {
    let memory = written(&with_nodes());
    let slit = table(&memory, "SLIT");
    assert_eq!((slit.len(), slit[8], u64_at(slit, 36)), (60, 1, 4));
    // There is no node 1, and node 3 says nothing of its distance to node 2.
    let rows = [[10, 20, 15, 20], [20, 10, 20, 20], [17, 20, 10, 200], [20, 20, 200, 10]];
    assert_eq!(slit[44..], rows.concat());
    let names: Vec<_> = walk(&memory).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["DSDT", "FACP", "APIC", "MCFG", "SRAT", "SLIT", "XSDT"]);
    assert_eq!(table(&memory, "XSDT").len(), 36 + 5 * 8);
    // Name (_PXM, 0) and Name (_PXM, 1), for the segments.
    let dsdt = table(&memory, "DSDT");
    assert!(contains(dsdt, b"\x08_PXM\x00") && contains(dsdt, b"\x08_PXM\x01"));
}

#[test]
fn the_dsdt_names_what_is_there() {
    let memory = written(&tables(1, 2));
    let dsdt = table(&memory, "DSDT");
    for name in ["PC00", "PC01", "MBRD", "devices' own"] {
        assert!(contains(dsdt, name.as_bytes()), "{name}");
    }
    assert!(!contains(dsdt, b"PC02"));
}

/// With what the CPU controller says of each CPU: some hundred bytes together. KVM itself has room for 1024 by default.
#[test]
fn a_large_machine_fits() {
    const CPUS: u32 = 2048;
    let mut tables = tables(CPUS, 96);
    let controller = CpuController::new(0xfff0_0000_0000, (0..CPUS).collect(), 1);
    tables.devices.extend(controller.aml());
    let memory = written(&tables);
    assert_eq!(walk(&memory).len(), 5);
    assert!(
        memory[0xe_f010..].iter().all(|byte| *byte == 0),
        "the places of generation and SMBIOS stay free"
    );
}

#[test]
fn impossible_machines_are_refused() {
    let ram = test_ram(&[(0, 2 << 20)]);
    assert!(matches!(write(&ram, &tables(0x8000, 1)), Err(AcpiError::TooLarge(_))));
    let mut endless = tables(1, 1);
    endless.segments[0].window64 = 0..=u64::MAX;
    assert!(matches!(write(&ram, &endless), Err(AcpiError::Window(0))));
    let small = test_ram(&[(0, 0xa_0000)]);
    assert!(matches!(write(&small, &tables(1, 1)), Err(AcpiError::Ram(_))));
}

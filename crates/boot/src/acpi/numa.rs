//! NUMA nodes: which processors, memory and devices are near to each other (SRAT), and how far nodes are (SLIT). ACPI 6.3 §5.2.16, §5.2.17;
//! `spec/devices2.md` §11.

use memory::layout::Range;

use super::table;

/// The distance of a node to itself.
const SELF: u8 = 10;
/// The distance of nodes that nobody has given.
const OTHER: u8 = 20;
/// What each entry here says: it counts.
const ENABLED: u32 = 1;

/// A NUMA node, which ACPI calls a proximity domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumaNode {
    /// Its number.
    pub id: u8,
    /// Memory in it.
    pub memory: Vec<NodeMemory>,
    /// Local APIC ids of the CPUs in it, whether they are there at boot or come later.
    pub cpus: Vec<u32>,
    /// The PCI device in it that starts memory traffic: segment, and slot on that segment's only bus.
    pub initiator: Option<(u16, u8)>,
    /// How far other nodes are, by their numbers: 10 is as near as itself, 255 out of reach.
    pub distances: Vec<(u8, u8)>,
}

/// A stretch of addresses in a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeMemory {
    /// The first address, and bytes.
    pub range: Range,
    /// Memory may come there while the guest runs; there is none at boot.
    pub comes_later: bool,
}

/// The SRAT of nodes in ascending order.
pub(super) fn srat(nodes: &[NumaNode]) -> Vec<u8> {
    // Reserved, and 1 for the sake of old readers.
    let mut body = [&1u32.to_le_bytes()[..], &[0; 8]].concat();
    for node in nodes {
        node.memory.iter().for_each(|memory| body.extend(memory_entry(node.id, *memory)));
        node.cpus.iter().for_each(|apic_id| body.extend(cpu_entry(node.id, *apic_id)));
        body.extend(node.initiator.iter().flat_map(|device| initiator_entry(node.id, *device)));
    }
    table(*b"SRAT", 3, *b"CHSRAT  ", &body)
}

fn memory_entry(node: u8, memory: NodeMemory) -> [u8; 40] {
    const MEMORY: u8 = 1;
    const HOT_PLUGGABLE: u32 = 2;
    let (base, len) = memory.range;
    let flags = if memory.comes_later { ENABLED | HOT_PLUGGABLE } else { ENABLED };
    let mut entry = [0; 40];
    entry[..3].copy_from_slice(&[MEMORY, 40, node]);
    entry[8..16].copy_from_slice(&base.to_le_bytes());
    entry[16..24].copy_from_slice(&len.to_le_bytes());
    entry[28..32].copy_from_slice(&flags.to_le_bytes());
    entry
}

fn cpu_entry(node: u8, apic_id: u32) -> [u8; 24] {
    const X2APIC: u8 = 2;
    let mut entry = [0; 24];
    entry[..2].copy_from_slice(&[X2APIC, 24]);
    entry[4] = node;
    entry[8..12].copy_from_slice(&apic_id.to_le_bytes());
    entry[12..16].copy_from_slice(&ENABLED.to_le_bytes());
    entry
}

fn initiator_entry(node: u8, (segment, slot): (u16, u8)) -> [u8; 32] {
    const INITIATOR: u8 = 5;
    const PCI: u8 = 1;
    let mut entry = [0; 32];
    entry[..5].copy_from_slice(&[INITIATOR, 32, 0, PCI, node]);
    entry[8..10].copy_from_slice(&segment.to_le_bytes());
    // Bus 0, then slot and function in one byte.
    entry[11] = slot << 3;
    entry[24..28].copy_from_slice(&ENABLED.to_le_bytes());
    entry
}

/// The SLIT. Rows and columns are the numbers of nodes, so that those which do not exist have one, too.
pub(super) fn slit(nodes: &[NumaNode]) -> Vec<u8> {
    let count = nodes.iter().map(|node| u16::from(node.id) + 1).max().unwrap_or(0);
    let mut body = u64::from(count).to_le_bytes().to_vec();
    for from in 0..count {
        body.extend((0..count).map(|to| distance(nodes, from, to)));
    }
    table(*b"SLIT", 1, *b"CHSLIT  ", &body)
}

/// What `from` says of its distance to `to`, or `to` of that to `from`.
fn distance(nodes: &[NumaNode], from: u16, to: u16) -> u8 {
    let given = |from: u16, to: u16| {
        let node = nodes.iter().find(|node| u16::from(node.id) == from)?;
        node.distances.iter().find(|(other, _)| u16::from(*other) == to).map(|(_, distance)| *distance)
    };
    match from == to {
        true => SELF,
        false => given(from, to).or_else(|| given(to, from)).unwrap_or(OTHER),
    }
}

//! Which CPUs, memory and devices the guest is told to be near to each other (`spec/devices2.md` §11).

use std::collections::BTreeMap;

use boot::acpi::{NodeMemory, NumaNode};
use config::Plan;
use config::plan;
use memory::GuestRam;
use memory::layout::{self, Range};

use crate::nodes::Nodes;

/// The nodes of CPUs, by the CPU's number; of those that are in one.
pub(crate) fn nodes_of_cpus(plan: &Plan) -> BTreeMap<u32, u8> {
    plan.numa.iter().flat_map(|node| node.cpus.iter().map(|cpu| (*cpu, node.id))).collect()
}

/// The node that a PCI segment is in.
pub(crate) fn node_of_segment(plan: &Plan, segment: u16) -> u8 {
    plan.numa.iter().find(|node| node.segments.contains(&segment)).map_or(0, |node| node.id)
}

/// The plan's nodes, for the firmware tables. RAM comes through ACPI to the addresses `later`, and belongs to the only zone.
pub(crate) fn nodes(plan: &Plan, later: Range, ram: &GuestRam, nodes: &Nodes) -> Vec<NumaNode> {
    let memory = memory_of_zones(plan, later, ram);
    let described = |node: &plan::NumaNode| NumaNode {
        id: node.id,
        memory: node.zones.iter().filter_map(|zone| memory.get(zone.as_str())).flatten().copied().collect(),
        cpus: node.cpus.iter().map(|cpu| plan.cpus.topology.apic_id(*cpu)).collect(),
        initiator: node.device.as_ref().and_then(|device| {
            let address = nodes.address(device)?;
            Some((address.segment, address.slot))
        }),
        distances: node.distances.clone(),
    };
    plan.numa.iter().map(described).collect()
}

/// The addresses of each zone, by its id: what it has at boot, and what may come.
fn memory_of_zones<'p>(plan: &'p Plan, later: Range, ram: &GuestRam) -> BTreeMap<&'p str, Vec<NodeMemory>> {
    let (dma, mut offset) = (ram.dma(), 0);
    let zones = plan.memory.zones.iter().map(|zone| {
        let own = layout::place(offset, zone.size);
        offset += zone.size;
        let room = dma.room(&zone.id).or(Some(later)).filter(|(_, len)| *len > 0);
        let memory = |comes_later| move |range| NodeMemory { range, comes_later };
        let all = own.into_iter().map(memory(false)).chain(room.map(memory(true)));
        (zone.id.as_str(), all.collect())
    });
    zones.collect()
}

//! NUMA nodes of the guest, as the machine is built from them.

use crate::numa::NumaConfig;

/// A NUMA node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumaNode {
    /// Its number.
    pub id: u8,
    /// vCPUs in it, in ascending order; in no other node.
    pub cpus: Vec<u32>,
    /// Ids of the memory zones in it, each in no other node.
    pub zones: Vec<String>,
    /// How far other nodes are: their numbers, and from 10 to 255.
    pub distances: Vec<(u8, u8)>,
    /// PCI segments in it.
    pub segments: Vec<u16>,
    /// Id of the only device in it, which need not exist.
    pub device: Option<String>,
}

/// The nodes in ascending order of their numbers, which the check has seen to be no higher than a byte holds.
pub(super) fn nodes(config: &[NumaConfig]) -> Vec<NumaNode> {
    let mut nodes: Vec<NumaNode> = config.iter().filter_map(node).collect();
    nodes.sort_by_key(|node| node.id);
    nodes
}

fn node(config: &NumaConfig) -> Option<NumaNode> {
    let id = u8::try_from(config.guest_numa_id).ok()?;
    let others =
        config.distances.iter().flatten().filter(|distance| distance.destination != config.guest_numa_id);
    let distance =
        |other: &crate::NumaDistance| Some((u8::try_from(other.destination).ok()?, other.distance));
    Some(NumaNode {
        id,
        cpus: once(config.cpus.as_deref()),
        zones: once(config.memory_zones.as_deref()),
        distances: others.filter_map(distance).collect(),
        segments: once(config.pci_segments.as_deref()),
        device: config.device_id.clone(),
    })
}

/// Each of the values once, in ascending order.
fn once<T: Ord + Clone>(values: Option<&[T]>) -> Vec<T> {
    let mut values = values.unwrap_or_default().to_vec();
    values.sort();
    values.dedup();
    values
}

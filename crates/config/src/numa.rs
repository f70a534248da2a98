//! `numa` and `--numa` (`spec/config.md` §10).

use std::collections::HashMap;

use keyval::Syntax;
use serde::{Deserialize, Serialize};

use crate::check::Scope;
use crate::flag::{self, FlagError};

/// A node: CPUs and memory, or one device that starts memory traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NumaConfig {
    /// Number of the node.
    pub guest_numa_id: u32,
    /// vCPUs in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Vec<u32>>,
    /// How far other nodes are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distances: Option<Vec<NumaDistance>>,
    /// Ids of the memory zones in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_zones: Option<Vec<String>>,
    /// PCI segments in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_segments: Option<Vec<u16>>,
    /// Id of the device in it (generic initiator).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
}

/// Distance to another node; 10 is that to oneself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct NumaDistance {
    /// The other node.
    pub destination: u32,
    /// How far.
    pub distance: u8,
}

impl NumaConfig {
    /// Options of `--numa`.
    pub const SYNTAX: Syntax = Syntax::new(
        "guest_numa_id=<node_id>,cpus=<list of vcpus>,distances=<list of node@distance>,memory_zones=<list of ids>,\
         pci_segments=<list of segments>,device_id=<device_id>",
    );

    /// Reads one `--numa`.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        flag::read("--numa", &Self::SYNTAX, text)
    }

    fn check_kind(&self, at: &mut Scope<'_, '_>) {
        let mut refuse = |field: &str, rule: &str| {
            at.invalid(field, format!("Invalid NUMA configuration: {rule}"), "see --numa in the manual");
        };
        let has_resources = self.cpus.is_some() || self.memory_zones.is_some();
        match (&self.device_id, has_resources) {
            (Some(_), true) => refuse("device_id", "device_id excludes cpus and memory_zones"),
            (None, false) => refuse("", "numa config must specify either device_id or cpus/memory_zones"),
            _ => {}
        }
        if self.device_id.as_ref().is_some_and(String::is_empty) {
            refuse("device_id", "device_id must not be empty");
        }
        if self.cpus.as_ref().is_some_and(Vec::is_empty) {
            refuse("cpus", "cpus must not be empty");
        }
        if self.memory_zones.as_ref().is_some_and(Vec::is_empty) {
            refuse("memory_zones", "memory_zones must not be empty");
        }
    }
}

/// The rules of each node and of all together.
pub(crate) fn check(nodes: &[NumaConfig], at: &mut Scope<'_, '_>) {
    let mut zone_owners = HashMap::new();
    let mut segment_owners = HashMap::new();
    for (i, node) in nodes.iter().enumerate() {
        let at = &mut at.within(format!("numa[{i}]"));
        let id = node.guest_numa_id;
        node.check_kind(at);
        for zone in node.memory_zones.iter().flatten() {
            let first = *zone_owners.entry(zone).or_insert(id);
            if first != id {
                let text = format!("Memory zone: {zone} belongs to multiple NUMA nodes: {first} and {id}");
                at.invalid("memory_zones", text, "list each zone in one node");
            }
        }
        for segment in node.pci_segments.iter().flatten() {
            at.segment("pci_segments", *segment);
            if *segment == 0 && id != 0 {
                let text = format!("Default PCI segment assigned to non-zero NUMA node {id}");
                at.invalid("pci_segments", text, "leave segment 0 to node 0");
            }
            let first = *segment_owners.entry(*segment).or_insert(id);
            if first != id {
                let text = format!("PCI segment: {segment} belongs to multiple NUMA nodes {first} and {id}");
                at.invalid("pci_segments", text, "list each segment in one node");
            }
        }
    }
}

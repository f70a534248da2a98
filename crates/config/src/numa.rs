//! `numa` and `--numa` (`spec/config.md` §10).

use std::collections::{HashMap, HashSet};

use keyval::Syntax;
use serde::{Deserialize, Serialize};

use crate::check::Scope;
use crate::devices;
use crate::flag::{self, FlagError};
use crate::vm::VmConfig;

/// The highest number of a node: each table of distances has a row for each number.
pub(crate) const LAST_NODE: u32 = 255;
/// The distance of a node to itself; none is less.
const NEAREST: u8 = 10;

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

/// What the reference finds only while it builds the machine: what nodes name must be there, and once.
pub(crate) fn check_references(nodes: &[NumaConfig], at: &mut Scope<'_, '_>) {
    let ids: HashSet<u32> = nodes.iter().map(|node| node.guest_numa_id).collect();
    let mut seen = HashSet::new();
    let mut cpu_owners = HashMap::new();
    for (i, node) in nodes.iter().enumerate() {
        let at = &mut at.within(format!("numa[{i}]"));
        let id = node.guest_numa_id;
        if !seen.insert(id) {
            refuse(at, "guest_numa_id", format!("node {id} is defined twice"), "number each node once");
        }
        if id > LAST_NODE {
            let text = format!("node {id} is above {LAST_NODE}");
            refuse(at, "guest_numa_id", text, "number the nodes from 0 on");
        }
        check_zones(node, at);
        check_cpus(node, &mut cpu_owners, at);
        check_distances(node, &ids, at);
    }
}

fn check_zones(node: &NumaConfig, at: &mut Scope<'_, '_>) {
    let memory = &at.vm.memory;
    for zone in
        node.memory_zones.iter().flatten().filter(|zone| memory.zone_ids().all(|id| id != zone.as_str()))
    {
        let hint = "name one of memory.zones, or mem0 if there are none";
        refuse(at, "memory_zones", format!("there is no memory zone {zone}"), hint);
    }
}

fn check_cpus(node: &NumaConfig, owners: &mut HashMap<u32, u32>, at: &mut Scope<'_, '_>) {
    let (id, max) = (node.guest_numa_id, at.vm.cpus.max_vcpus);
    for cpu in node.cpus.iter().flatten() {
        if *cpu >= max {
            refuse(at, "cpus", format!("there is no vCPU {cpu}"), "use numbers below cpus.max_vcpus");
        }
        let first = *owners.entry(*cpu).or_insert(id);
        if first != id {
            let text = format!("vCPU {cpu} belongs to multiple NUMA nodes: {first} and {id}");
            refuse(at, "cpus", text, "list each vCPU in one node");
        }
    }
}

fn check_distances(node: &NumaConfig, ids: &HashSet<u32>, at: &mut Scope<'_, '_>) {
    let mut seen = HashSet::new();
    for NumaDistance { destination, distance } in node.distances.iter().flatten() {
        if !ids.contains(destination) {
            let text = format!("a distance leads to node {destination}, which is not defined");
            refuse(at, "distances", text, "define the node, or leave the distance out");
        }
        if !seen.insert(destination) {
            let text = format!("two distances lead to node {destination}");
            refuse(at, "distances", text, "give each distance once");
        }
        if *distance < NEAREST && *destination != node.guest_numa_id {
            let text = format!("the distance to node {destination} is {distance}");
            refuse(at, "distances", text, "use a number from 10, which is as near as itself, to 255");
        }
    }
}

fn refuse(at: &mut Scope<'_, '_>, field: &str, rule: String, hint: &str) {
    at.invalid(field, format!("Invalid NUMA configuration: {rule}"), hint);
}

/// What nodes say in vain, and what they leave out.
pub(crate) fn warnings(vm: &VmConfig) -> Vec<String> {
    let nodes = vm.numa.as_deref().unwrap_or_default();
    let mut warnings = Vec::new();
    for node in nodes {
        let id = node.guest_numa_id;
        let own = node.distances.iter().flatten().filter(|distance| distance.destination == id);
        if own.into_iter().any(|own| own.distance != NEAREST) {
            warnings
                .push(format!("the distance of NUMA node {id} to itself is {NEAREST}, whatever is given"));
        }
        let device = node.device_id.as_deref().filter(|device| !devices::ids(vm).contains(*device));
        if let Some(device) = device {
            warnings.push(format!("NUMA node {id} is left empty: there is no device '{device}'"));
        }
    }
    let is_in_node =
        |zone: &str| nodes.iter().any(|node| node.memory_zones.iter().flatten().any(|own| own == zone));
    if !nodes.is_empty() {
        let without = vm.memory.zone_ids().filter(|zone| !is_in_node(zone));
        let text =
            |zone| format!("memory zone '{zone}' is in no NUMA node: guests may ignore all of them then");
        warnings.extend(without.map(text));
    }
    warnings
}

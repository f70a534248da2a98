//! NUMA nodes: what they name, and the plan that comes of them.

use super::{assert_first_problems, plan};
use crate::plan::NumaNode;

#[test]
fn what_nodes_name_is_there_and_named_once() {
    let rows = [
        (
            r#"{"guest_numa_id":0,"cpus":[0]},{"guest_numa_id":0,"memory_zones":["mem0"]}"#,
            "numa[1].guest_numa_id",
            "node 0 is defined twice",
        ),
        (r#"{"guest_numa_id":256,"cpus":[0]}"#, "numa[0].guest_numa_id", "node 256 is above 255"),
        (r#"{"guest_numa_id":0,"memory_zones":["z"]}"#, "numa[0].memory_zones", "there is no memory zone z"),
        (r#"{"guest_numa_id":0,"cpus":[0,1]}"#, "numa[0].cpus", "there is no vCPU 1"),
        (
            r#"{"guest_numa_id":0,"cpus":[0]},{"guest_numa_id":1,"cpus":[0]}"#,
            "numa[1].cpus",
            "vCPU 0 belongs to multiple NUMA nodes: 0 and 1",
        ),
        (
            r#"{"guest_numa_id":0,"cpus":[0],"distances":[{"destination":1,"distance":20}]}"#,
            "numa[0].distances",
            "a distance leads to node 1, which is not defined",
        ),
        (
            r#"{"guest_numa_id":0,"cpus":[0]},{"guest_numa_id":1,"memory_zones":["mem0"],
                "distances":[{"destination":0,"distance":20},{"destination":0,"distance":30}]}"#,
            "numa[1].distances",
            "two distances lead to node 0",
        ),
        (
            r#"{"guest_numa_id":0,"cpus":[0],"distances":[{"destination":1,"distance":9}]},
                {"guest_numa_id":1,"memory_zones":["mem0"]}"#,
            "numa[0].distances",
            "the distance to node 1 is 9",
        ),
    ];
    for (nodes, path, text) in rows {
        let text = format!("Invalid NUMA configuration: {text}");
        assert_first_problems(&[(&format!(r#""numa":[{nodes}]"#), path, &text)]);
    }
    let zones = r#""memory":{"size":0,"zones":[{"id":"z","size":134217728}]}"#;
    let text = "Invalid NUMA configuration: there is no memory zone mem0";
    let named = format!(r#"{zones},"numa":[{{"guest_numa_id":0,"memory_zones":["mem0"]}}]"#);
    assert_first_problems(&[(&named, "numa[0].memory_zones", text)]);
}

#[test]
fn nodes_are_planned_in_the_order_of_their_numbers() {
    let plan = plan(
        r#""cpus":{"boot_vcpus":2,"max_vcpus":4},"platform":{"num_pci_segments":2},
        "memory":{"size":0,"zones":[{"id":"a","size":134217728},{"id":"b","size":134217728}]},
        "disks":[{"path":"/d","id":"d"}],"numa":[
            {"guest_numa_id":3,"cpus":[3,1,3],"memory_zones":["b"],"pci_segments":[1],
                "distances":[{"destination":0,"distance":12},{"destination":3,"distance":10}]},
            {"guest_numa_id":1,"device_id":"d"},
            {"guest_numa_id":0,"cpus":[0,2],"memory_zones":["a"]}]"#,
    );
    let empty = |id| NumaNode {
        id,
        cpus: Vec::new(),
        zones: Vec::new(),
        distances: Vec::new(),
        segments: Vec::new(),
        device: None,
    };
    let first = NumaNode { cpus: vec![0, 2], zones: vec!["a".into()], ..empty(0) };
    let second = NumaNode { device: Some("d".into()), ..empty(1) };
    let (cpus, zones, distances) = (vec![1, 3], vec!["b".into()], vec![(0, 12)]);
    let third = NumaNode { cpus, zones, distances, segments: vec![1], ..empty(3) };
    assert_eq!(plan.numa, [first, second, third]);
    assert!(plan.unbuilt().is_empty() && plan.warnings().is_empty(), "{:?}", plan.warnings());
}

#[test]
fn what_nodes_leave_out_or_say_in_vain_is_told() {
    let plan = plan(
        r#""memory":{"size":0,"zones":[{"id":"a","size":134217728},{"id":"b","size":134217728}]},"numa":[
            {"guest_numa_id":0,"memory_zones":["a"],"distances":[{"destination":0,"distance":11}]},
            {"guest_numa_id":1,"device_id":"nobody"}]"#,
    );
    let parts = ["node 0 to itself is 10", "no device 'nobody'", "zone 'b' is in no NUMA node"];
    assert_eq!(plan.warnings().len(), parts.len());
    for (warning, part) in plan.warnings().iter().zip(parts) {
        assert!(warning.contains(part), "{warning}");
    }
    assert!(plan.numa[0].distances.is_empty());
}

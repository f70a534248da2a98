//! Validation: payload, CPUs, memory, consoles, platform, NUMA, and the order of all.

use super::{assert_first_problems, config, plan, problems};
use crate::*;

#[test]
fn payload() {
    assert_first_problems(&[
        (r#""payload":null"#, "payload", "No bootitem provided: neither firmware nor kernel"),
        (r#""payload":{"cmdline":"x"}"#, "payload", "No bootitem provided: neither firmware nor kernel"),
        (
            r#""payload":{"firmware":"/f","kernel":"/k"}"#,
            "payload.kernel",
            "Specifying a kernel is not supported when a firmware is provided",
        ),
        (
            r#""payload":{"firmware":"/f","fw_cfg_config":{}}"#,
            "payload.fw_cfg_config.kernel",
            "Error --fw-cfg-config: missing --kernel",
        ),
        (
            r#""payload":{"kernel":"/k","fw_cfg_config":{"initramfs":false}}"#,
            "payload.fw_cfg_config.cmdline",
            "Error --fw-cfg-config: missing --cmdline",
        ),
        (
            r#""payload":{"kernel":"/k","cmdline":"","fw_cfg_config":{}}"#,
            "payload.fw_cfg_config.initramfs",
            "Error --fw-cfg-config: missing --initramfs",
        ),
        (
            r#""payload":{"kernel":"/k","fw_cfg_config":{"cmdline":false,"initramfs":false,
                "items":{"item_list":[{"name":"n"}]}}}"#,
            "payload.fw_cfg_config.items",
            "Error --fw-cfg-config: invalid item 'n' (exactly one of 'file' or 'string' is required)",
        ),
    ]);
    let problems = problems(r#""payload":{}"#);
    let chain: Vec<&str> = problems.iter().next().unwrap().chain().collect();
    let want = ["Payload configuration is not bootable", "No bootitem provided: neither firmware nor kernel"];
    assert_eq!(chain, want);
}

#[test]
fn cpus() {
    let topology = |t: [u16; 4]| {
        let [a, b, c, d] = t;
        let parts = format!(
            r#"{{"threads_per_core":{a},"cores_per_die":{b},"dies_per_package":{c},"packages":{d}}}"#
        );
        format!(r#""cpus":{{"boot_vcpus":4,"max_vcpus":4,"topology":{parts}}}"#)
    };
    assert_first_problems(&[
        (
            r#""cpus":{"boot_vcpus":4,"max_vcpus":2}"#,
            "cpus.max_vcpus",
            "Max CPUs (2) lower than boot CPUs (4)",
        ),
        (
            r#""cpus":{"boot_vcpus":1,"max_vcpus":8193}"#,
            "cpus.max_vcpus",
            "Too many CPUs: specified 8193 but 8192 is the limit",
        ),
        (r#""cpus":{"boot_vcpus":0,"max_vcpus":1}"#, "cpus.boot_vcpus", "Boot CPUs must be at least 1"),
        (&topology([0, 4, 1, 1]), "cpus.topology", "No part of the CPU topology can be zero"),
        (
            &topology([4, 1, 1, 1]),
            "cpus.topology.threads_per_core",
            "CPU topology supports at most 2 threads per core",
        ),
        (
            &topology([2, 1, 1, 1]),
            "cpus.topology",
            "Product of CPU topology parts does not match maximum vCPU",
        ),
        (
            &topology([2, 65535, 65535, 65535]),
            "cpus.topology",
            "Product of CPU topology parts does not match maximum vCPU",
        ),
    ]);
    assert_eq!(plan(&topology([2, 2, 1, 1])).cpus.topology.threads_per_core, 2);
    plan(r#""cpus":{"boot_vcpus":8192,"max_vcpus":8192}"#);
}

#[test]
fn memory() {
    let both = "Invalid to set both 'mergeable' and 'shared' for memory";
    let zone = |fields: &str| format!(r#""memory":{{"size":0,"zones":[{{"id":"z","size":4096{fields}}}]}}"#);
    let memory = |fields: &str| format!(r#""memory":{{"size":4096{fields}}}"#);
    assert_first_problems(&[
        (
            &memory(r#","hugepage_size":2097152"#),
            "memory.hugepage_size",
            "Huge page size specified but huge pages not enabled",
        ),
        (
            &memory(r#","hugepages":true,"hugepage_size":3"#),
            "memory.hugepage_size",
            "Huge page size is not power of 2: 3",
        ),
        (
            &memory(r#","hugepages":true,"hugepage_size":0"#),
            "memory.hugepage_size",
            "Huge page size is not power of 2: 0",
        ),
        (&memory(r#","shared":true,"mergeable":true"#), "memory.mergeable", both),
        (
            &zone(r#","hugepage_size":2097152"#),
            "memory.zones[0].hugepage_size",
            "Huge page size specified but huge pages not enabled",
        ),
        (&zone(r#","shared":true,"mergeable":true"#), "memory.zones[0].mergeable", both),
        (
            r#""memory":{"size":0,"zones":[{"id":"z","size":4096},{"id":"z","size":4096}]}"#,
            "memory.zones[1].id",
            "Identifier z is not unique",
        ),
    ]);
    plan(&memory(r#","hugepages":true,"hugepage_size":4096"#));
    plan(&zone(""));
}

#[test]
fn memory_layout() {
    let zone = |fields: &str| format!(r#""memory":{{"size":0,"zones":[{{"id":"z",{fields}}}]}}"#);
    let rows = [
        (r#""memory":{"size":0}"#.to_owned(), "memory.size"),
        (r#""memory":{"size":4096,"zones":[{"id":"z","size":4096}]}"#.into(), "memory.size"),
        (r#""memory":{"size":4097}"#.into(), "memory.size"),
        (r#""memory":{"size":4096,"hugepages":true,"hugepage_size":2097152}"#.into(), "memory.size"),
        (zone(r#""size":0"#), "memory.zones[0].size"),
        (zone(r#""size":1"#), "memory.zones[0].size"),
        (
            zone(r#""size":4096,"shared":true,"file":"/f","host_numa_node":0"#),
            "memory.zones[0].host_numa_node",
        ),
        (zone(r#""size":4096,"hotplug_size":4096"#), "memory.zones[0].hotplug_size"),
        (r#""memory":{"size":4096,"hotplugged_size":4096}"#.into(), "memory.hotplugged_size"),
        (
            r#""memory":{"size":4096,"hotplug_size":4096,"hotplugged_size":4096}"#.into(),
            "memory.hotplugged_size",
        ),
        (
            r#""memory":{"size":4096,"hotplug_method":"VirtioMem","hotplug_size":134217728,
                "hotplugged_size":134217729}"#
                .into(),
            "memory.hotplugged_size",
        ),
        (
            r#""memory":{"size":4096,"hotplug_method":"VirtioMem","hotplug_size":4096}"#.into(),
            "memory.hotplug_size",
        ),
        (
            r#""memory":{"size":4096,"hotplug_method":"VirtioMem","hotplug_size":0}"#.into(),
            "memory.hotplug_size",
        ),
        (
            r#""memory":{"size":4096,"hotplug_method":"VirtioMem","hotplug_size":134217728,"hotplugged_size":1}"#
                .into(),
            "memory.hotplugged_size",
        ),
        (
            r#""memory":{"size":1073741824,"hugepages":true,"hugepage_size":1073741824,"hotplug_method":"VirtioMem",
                "hotplug_size":134217728}"#
                .into(),
            "memory.hotplug_size",
        ),
        (
            r#""memory":{"size":4096,"hotplug_method":"VirtioMem","hotplug_size":134217728},
                "disks":[{"id":"mem0","path":"/a"}]"#
                .into(),
            "memory.id",
        ),
        (r#""memory":{"size":4096,"hotplug_size":18446744073709551615}"#.into(), "memory.size"),
    ];
    for (fields, path) in rows {
        assert_eq!(problems(&fields).iter().next().unwrap().path, path, "{fields}");
    }
    plan(
        r#""memory":{"size":4096,"hotplug_method":"VirtioMem","hotplug_size":134217728,"hotplugged_size":2097152}"#,
    );
}

#[test]
fn consoles() {
    let file = "Path missing when using file console mode";
    assert_first_problems(&[
        (r#""console":{"mode":"File"}"#, "console.file", file),
        (r#""serial":{"mode":"File"}"#, "serial.file", file),
        (r#""serial":{"mode":"Socket"}"#, "serial.socket", "Path missing when using socket console mode"),
        (
            r#""console":{"mode":"Socket","socket":"/s"}"#,
            "console.mode",
            "No socket option support for console device",
        ),
    ]);
}

#[test]
fn platform_and_segments() {
    assert_first_problems(&[
        (
            r#""platform":{"num_pci_segments":97}"#,
            "platform.num_pci_segments",
            "Number of PCI segments (97) not in range of 1 to 96",
        ),
        (
            r#""platform":{"num_pci_segments":2,"iommu_segments":[1,2]}"#,
            "platform.iommu_segments",
            "Invalid PCI segment id: 2",
        ),
        (
            r#""platform":{"iommu_address_width_bits":65}"#,
            "platform.iommu_address_width_bits",
            "IOMMU address width in bits (65) should be less than or equal to 64",
        ),
        (
            r#""platform":{"iommufd_fd":5}"#,
            "platform.iommufd_fd",
            "Platform `iommufd_fd=<fd>` requires `iommufd=on`",
        ),
        (r#""pci_segments":[{"pci_segment":1}]"#, "pci_segments[0].pci_segment", "Invalid PCI segment id: 1"),
        (
            r#""pci_segments":[{"mmio64_aperture_weight":0}]"#,
            "pci_segments[0].mmio64_aperture_weight",
            "Invalid PCI segment aperture weight: 0",
        ),
        (
            r#""landlock_rules":[{"path":"/no/such/path","access":"r"}]"#,
            "landlock_rules[0].path",
            "Path \"/no/such/path\" provided in landlock-rules does not exist",
        ),
        (
            r#""landlock_rules":[{"path":"/","access":"rx"}]"#,
            "landlock_rules[0].access",
            "Invalid landlock access: rx",
        ),
        (
            r#""landlock_rules":[{"path":"/","access":""}]"#,
            "landlock_rules[0].access",
            "Invalid landlock access: ",
        ),
    ]);
    let none = problems(r#""platform":{"num_pci_segments":0}"#);
    let last = none.iter().last().unwrap();
    assert_eq!(last.text, "Number of PCI segments (0) not in range of 1 to 96");
}

#[test]
fn numa() {
    let kind = "Invalid NUMA configuration: numa config must specify either device_id or cpus/memory_zones";
    assert_first_problems(&[
        (r#""numa":[{"guest_numa_id":0}]"#, "numa[0]", kind),
        (
            r#""numa":[{"guest_numa_id":0,"device_id":"v","cpus":[0]}]"#,
            "numa[0].device_id",
            "Invalid NUMA configuration: device_id excludes cpus and memory_zones",
        ),
        (
            r#""numa":[{"guest_numa_id":0,"cpus":[]}]"#,
            "numa[0].cpus",
            "Invalid NUMA configuration: cpus must not be empty",
        ),
        (
            r#""numa":[{"guest_numa_id":0,"memory_zones":[]}]"#,
            "numa[0].memory_zones",
            "Invalid NUMA configuration: memory_zones must not be empty",
        ),
        (
            r#""numa":[{"guest_numa_id":0,"device_id":""}]"#,
            "numa[0].device_id",
            "Invalid NUMA configuration: device_id must not be empty",
        ),
        (
            r#""numa":[{"guest_numa_id":0,"memory_zones":["z"]},{"guest_numa_id":1,"memory_zones":["z"]}]"#,
            "numa[1].memory_zones",
            "Memory zone: z belongs to multiple NUMA nodes: 0 and 1",
        ),
        (
            r#""numa":[{"guest_numa_id":0,"cpus":[0],"pci_segments":[3]}]"#,
            "numa[0].pci_segments",
            "Invalid PCI segment id: 3",
        ),
        (
            r#""numa":[{"guest_numa_id":2,"cpus":[0],"pci_segments":[0]}]"#,
            "numa[0].pci_segments",
            "Default PCI segment assigned to non-zero NUMA node 2",
        ),
        (
            r#""platform":{"num_pci_segments":2},"numa":[{"guest_numa_id":0,"cpus":[0],"pci_segments":[1]},
                {"guest_numa_id":1,"cpus":[0],"pci_segments":[1]}]"#,
            "numa[1].pci_segments",
            "PCI segment: 1 belongs to multiple NUMA nodes 0 and 1",
        ),
    ]);
}

#[test]
fn all_problems_are_found_in_the_order_of_the_reference() {
    let found = problems(
        r#""payload":{},"console":{"mode":"File"},"serial":{"mode":"File"},"cpus":{"boot_vcpus":3,"max_vcpus":2,
            "topology":{"threads_per_core":1,"cores_per_die":1,"dies_per_package":1,"packages":1}},
        "rate_limit_groups":[{"id":"","rate_limiter_config":{}}],"disks":[{"path":"/d","queue_size":3}],
        "net":[{"mtu":1}],"fs":[{"tag":"t","socket":"/s","queue_size":3}],
        "generic_vhost_user":[{"socket":"/s","queue_sizes":[3],"device_type":1}],
        "pmem":[{"file":"/f","pci_segment":1}],"rng":{"src":"/r","pci_segment":1},"rtc":{"pci_segment":1},
        "memory":{"size":4097,"hugepage_size":2097152},"user_devices":[{"socket":"/s"}],
        "vdpa":[{"path":"/p","pci_segment":1}],"vsock":{"cid":1,"socket":"/s","pci_segment":1},
        "balloon":{"size":5000},"devices":[{"path":"/p"},{"path":"/p"},{}],"numa":[{"guest_numa_id":0}],
        "pci_segments":[{"pci_segment":1}],"platform":{"iommu_address_width_bits":65},
        "landlock_rules":[{"path":"/","access":""}],"ivshmem":{"path":"/no/such/file","size":4096}"#,
    );
    let paths: Vec<&str> = found.iter().map(|problem| problem.path.as_str()).collect();
    let want = [
        "payload",
        "console.file",
        "serial.file",
        "cpus.max_vcpus",
        "rate_limit_groups[0].id",
        "disks[0].queue_size",
        "net[0].mtu",
        "fs[0]",
        "fs[0].queue_size",
        "generic_vhost_user[0]",
        "generic_vhost_user[0].queue_sizes[0]",
        "pmem[0].pci_segment",
        "rng.pci_segment",
        "rtc.pci_segment",
        "cpus.topology",
        "memory.hugepage_size",
        "user_devices[0]",
        "vdpa[0].pci_segment",
        "vsock.cid",
        "balloon.size",
        "devices[1].path",
        "devices[2]",
        "vsock.pci_segment",
        "numa[0]",
        "pci_segments[0].pci_segment",
        "platform.iommu_address_width_bits",
        "landlock_rules[0].access",
        "ivshmem.path",
        "memory.size",
    ];
    assert_eq!(paths, want);
    assert_eq!(found.kind(), ProblemKind::Invalid);
    assert!(check(config("")).is_ok());
}

/// Every place of a path, in the words of JSON; `PATH` stands for what is put there.
const PATHS: [(&str, &str); 24] = [
    (r#""payload":{"kernel":PATH}"#, "payload.kernel"),
    (r#""payload":{"firmware":PATH}"#, "payload.firmware"),
    (r#""payload":{"kernel":"/k","initramfs":PATH}"#, "payload.initramfs"),
    (
        r#""payload":{"kernel":"/k","fw_cfg_config":{"cmdline":false,"initramfs":false,
            "items":{"item_list":[{"name":"n","string":"s"},{"name":"m","file":PATH}]}}}"#,
        "payload.fw_cfg_config.items[1].file",
    ),
    (r#""memory":{"size":0,"zones":[{"id":"a","size":134217728,"file":PATH}]}"#, "memory.zones[0].file"),
    (r#""disks":[{"path":"/d"},{"path":PATH}]"#, "disks[1].path"),
    (
        r#""memory":{"size":134217728,"shared":true},"disks":[{"vhost_user":true,"vhost_socket":PATH}]"#,
        "disks[0].vhost_socket",
    ),
    (
        r#""memory":{"size":134217728,"shared":true},"net":[{"vhost_user":true,"vhost_socket":PATH}]"#,
        "net[0].vhost_socket",
    ),
    (r#""rng":{"src":PATH}"#, "rng.src"),
    (r#""memory":{"size":134217728,"shared":true},"fs":[{"tag":"t","socket":PATH}]"#, "fs[0].socket"),
    (
        r#""memory":{"size":134217728,"shared":true},"generic_vhost_user":[{"socket":PATH,"device_type":26,
            "queue_sizes":[64]}]"#,
        "generic_vhost_user[0].socket",
    ),
    (r#""pmem":[{"file":PATH}]"#, "pmem[0].file"),
    (r#""serial":{"mode":"File","file":PATH}"#, "serial.file"),
    (r#""serial":{"mode":"Socket","socket":PATH}"#, "serial.socket"),
    (r#""console":{"mode":"File","file":PATH}"#, "console.file"),
    (r#""console":{"mode":"Socket","socket":PATH}"#, "console.socket"),
    (r#""debug_console":{"mode":"File","file":PATH}"#, "debug_console.file"),
    (r#""devices":[{"path":PATH}]"#, "devices[0].path"),
    (r#""user_devices":[{"socket":PATH}]"#, "user_devices[0].socket"),
    (r#""vdpa":[{"path":PATH,"num_queues":1}]"#, "vdpa[0].path"),
    (r#""vsock":{"cid":3,"socket":PATH}"#, "vsock.socket"),
    (r#""tpm":{"socket":PATH}"#, "tpm.socket"),
    (r#""landlock_rules":[{"path":PATH,"access":"r"}]"#, "landlock_rules[0].path"),
    (r#""ivshmem":{"path":PATH,"size":4096}"#, "ivshmem.path"),
];

#[test]
fn a_path_names_something() {
    for (fields, place) in PATHS {
        for (path, text) in
            [(r#""""#, "The path is empty"), (r#""a\u0000b""#, "The path contains a zero byte")]
        {
            let problems = problems(&fields.replace("PATH", path));
            let found = problems.iter().filter(|problem| problem.path == place && problem.text == text);
            assert_eq!(found.count(), 1, "{place}: {problems:?}");
        }
        let named = fields.replace("PATH", r#""/p""#);
        if let Err(problems) = check(config(&named)) {
            assert!(problems.iter().all(|problem| !problem.text.starts_with("The path")), "{problems:?}");
        }
    }
}

/// The paths of other modes are leftovers that clients send along.
#[test]
fn an_empty_path_that_nobody_uses_does_no_harm() {
    plan(r#""serial":{"mode":"Null","file":"","socket":""},"console":{"mode":"Off","file":""}"#);
}

#[test]
fn what_no_boot_protocol_hands_over() {
    let cmdline = |text: &str| format!(r#""payload":{{"kernel":"/k","cmdline":"{text}"}}"#);
    let long = cmdline(&"x".repeat(0x1_0000));
    assert_first_problems(&[
        (&long, "payload.cmdline", "Kernel command line of 65536 bytes is too long"),
        (&cmdline(r"a\u0000b"), "payload.cmdline", "Kernel command line contains a NUL character at byte 1"),
    ]);
    plan(&cmdline(&"x".repeat(0xffff)));
}

#[test]
fn what_smbios_cannot_express() {
    let platform = |fields: &str| format!(r#""platform":{{{fields}}}"#);
    let nul = "SMBIOS string contains a NUL character";
    for field in [
        "system_manufacturer",
        "system_product_name",
        "system_version",
        "system_serial_number",
        "system_family",
        "system_sku_number",
        "chassis_asset_tag",
    ] {
        let text = platform(&format!(r#""{field}":"a\u0000""#));
        assert_first_problems(&[(&text, &format!("platform.{field}"), nul)]);
        plan(&platform(&format!(r#""{field}":"""#)));
    }
    let many = vec![r#""x""#; 256].join(",");
    assert_first_problems(&[
        (&platform(r#""oem_strings":["a\u0000"]"#), "platform.oem_strings", nul),
        (&platform(r#""oem_strings":[""]"#), "platform.oem_strings", "SMBIOS OEM string is empty"),
        (
            &platform(&format!(r#""oem_strings":[{many}]"#)),
            "platform.oem_strings",
            "There are 256 SMBIOS OEM strings, more than 255",
        ),
    ]);
    for uuid in ["", "x", "+0112233445566778899aabbccddeeff", "00112233-4455-6677-8899-AABBCCDDEEF"] {
        let text = platform(&format!(r#""system_uuid":"{uuid}""#));
        assert_first_problems(&[(&text, "platform.system_uuid", &format!("Invalid system UUID '{uuid}'"))]);
    }
    plan(&platform(r#""system_uuid":"00112233-4455-6677-8899-AABBCCDDEEFF""#));
    plan(&platform(r#""system_uuid":"00112233445566778899aabbccddeeff""#));
}

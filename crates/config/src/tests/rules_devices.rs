//! Validation of device sections.

use super::{assert_first_problems, plan, problems};
use crate::*;

/// Rows of (fields of the only element, field, text) for a list section.
fn assert_elements(section: &str, rest: &str, rows: &[(&str, &str, &str)]) {
    for (fields, field, text) in rows {
        let dot = if field.is_empty() { "" } else { "." };
        let path = format!("{section}[0]{dot}{field}");
        assert_first_problems(&[(&format!(r#""{section}":[{{{fields}}}]{rest}"#), &path, text)]);
    }
}

const SHARED: &str = r#","memory":{"size":4096,"shared":true}"#;
const VHOST: &str = "Using vhost-user requires using shared memory or huge pages";
const NO_IOMMU: &str = "Device does not support being placed behind IOMMU";

#[test]
fn the_place_of_every_device() {
    let rows = [
        (r#""path":"/d","pci_segment":1"#, "pci_segment", "Invalid PCI segment id: 1"),
        (
            r#""path":"/d","pci_device_id":32"#,
            "pci_device_id",
            "Given PCI device ID (32) is out of the supported range of 0..32",
        ),
        (r#""path":"/d","pci_device_id":0"#, "pci_device_id", "Given PCI device ID (0) is reserved"),
        (r#""path":"/d","id":"__disk""#, "id", "Identifier __disk is not valid"),
        (r#""path":"/d","id":"_virtio-pci-d""#, "id", "Identifier _virtio-pci-d is not valid"),
        (r#""path":"/d","id":"""#, "id", "Identifier  is not valid"),
        (r#""path":"/d","id":"a\nb""#, "id", "Identifier a\nb is not valid"),
    ];
    assert_elements("disks", "", &rows);
    assert_first_problems(&[(
        r#""platform":{"num_pci_segments":2,"iommu_segments":[1]},"net":[{"pci_segment":1}]"#,
        "net[0].iommu",
        "Device is on an IOMMU PCI segment (1) but not placed behind IOMMU",
    )]);
    plan(r#""platform":{"num_pci_segments":2},"net":[{"pci_segment":1,"pci_device_id":0}]"#);
    let twice = problems(r#""disks":[{"path":"/d","id":"x"}],"net":[{"id":"x"}]"#);
    assert_eq!(twice.kind(), ProblemKind::Duplicate);
    assert_eq!(twice.to_string(), "Error validating configuration");
    assert_first_problems(&[(
        r#""disks":[{"path":"/d","id":"x"}],"net":[{"id":"x"}]"#,
        "net[0].id",
        "Identifier x is not unique",
    )]);
}

#[test]
fn a_list_of_problems_has_an_end() {
    let found = problems(&format!(r#""disks":[{}]"#, vec![r#"{"path":""}"#; 1000].join(",")));
    let last = found.iter().last().unwrap();
    assert_eq!((found.iter().count(), last.path.as_str()), (101, "disks[100].path"));
    assert!(last.text.contains("more problems"), "{last:?}");
}

/// What boot would find out by counting.
#[test]
fn every_device_has_a_slot_of_its_own() {
    assert_first_problems(&[
        (
            r#""disks":[{"path":"/d","pci_device_id":5},{"path":"/e"},{"path":"/f","pci_device_id":5}]"#,
            "disks[2].pci_device_id",
            "Slot 5 is that of disks[0], too",
        ),
        (
            r#""net":[{"pci_device_id":5}],"rng":{"src":"/dev/urandom","pci_device_id":5}"#,
            "rng.pci_device_id",
            "Slot 5 is that of net[0], too",
        ),
    ]);
    // With the console and the entropy source.
    let nets = |count: usize| format!(r#""net":[{}]"#, vec!["{}"; count].join(","));
    plan(&nets(29));
    assert_first_problems(&[(&nets(30), "rng", "PCI segment 0 has room for 31 devices")]);
    plan(&format!(r#"{},"console":{{"mode":"Off"}}"#, nets(30)));
}

#[test]
fn rate_limit_groups() {
    let text = "Invalid rate-limiter group";
    let bucket = r#""rate_limiter_config":{"ops":{"size":1,"refill_time":1}}"#;
    assert_elements(
        "rate_limit_groups",
        "",
        &[(bucket, "id", text), (r#""id":"g","rate_limiter_config":{}"#, "rate_limiter_config", text)],
    );
    plan(&format!(
        r#""rate_limit_groups":[{{"id":"g",{bucket}}}],"disks":[{{"path":"/d","rate_limit_group":"g"}}]"#
    ));
}

#[test]
fn disks() {
    let limiter = r#""rate_limiter_config":{"ops":{"size":1,"refill_time":1}}"#;
    let group = format!(r#","rate_limit_groups":[{{"id":"g",{limiter}}}]"#);
    assert_elements(
        "disks",
        "",
        &[
            (r#""path":"/d","vhost_socket":"/s""#, "path", "Disk path and vhost socket both provided"),
            (r#""vhost_user":true,"vhost_socket":"/s""#, "vhost_user", VHOST),
            ("", "path", "No disk path was specified when one was expected"),
            (r#""path":"/d","rate_limit_group":"g""#, "rate_limit_group", "Invalid rate-limiter group"),
            (r#""path":"/d","num_queues":2"#, "num_queues", "Queue count (2) must not exceed boot vCPUs (1)"),
            (r#""path":"/d","num_queues":0"#, "num_queues", "Queue count must be at least 1"),
            (
                r#""path":"/d","queue_size":0"#,
                "queue_size",
                "Queue size must be a power of 2 no greater than 32768: 0",
            ),
            (
                r#""path":"/d","queue_size":100"#,
                "queue_size",
                "Queue size must be a power of 2 no greater than 32768: 100",
            ),
            (r#""path":"/d","queue_size":2"#, "queue_size", "Block queue size must be greater than 2: 2"),
            (
                r#""path":"/d","serial":"123456789012345678901""#,
                "serial",
                "Block device serial length (21) exceeds maximum allowed length (20)",
            ),
        ],
    );
    assert_elements(
        "disks",
        SHARED,
        &[
            (r#""vhost_user":true"#, "vhost_socket", "No socket provided when using vhost-user"),
            (r#""vhost_user":true,"vhost_socket":"/s","iommu":true"#, "iommu", NO_IOMMU),
        ],
    );
    let limited = format!(r#""vhost_user":true,"vhost_socket":"/s",{limiter}"#);
    let text = "Rate limiting is not supported with vhost-user";
    assert_elements("disks", SHARED, &[(&limited, "rate_limiter_config", text)]);
    let both = format!(r#""path":"/d","rate_limit_group":"g",{limiter}"#);
    assert_elements("disks", &group, &[(&both, "rate_limit_group", "Invalid rate-limiter group")]);
    plan(r#""disks":[{"path":"/d","queue_size":32768,"serial":"12345678901234567890"}]"#);
}

#[test]
fn vhost_user_memory_may_be_huge_or_all_zones_shared() {
    let disk = r#""disks":[{"vhost_user":true,"vhost_socket":"/s"}],"memory":"#;
    for memory in [
        r#"{"size":4096,"hugepages":true}"#,
        r#"{"size":0,"zones":[{"id":"a","size":4096,"shared":true},{"id":"b","size":4096,"hugepages":true}]}"#,
    ] {
        plan(&format!("{disk}{memory}"));
    }
    let one = r#"{"size":0,"zones":[{"id":"a","size":4096,"shared":true},{"id":"b","size":4096}]}"#;
    assert_first_problems(&[(&format!("{disk}{one}"), "disks[0].vhost_user", VHOST)]);
    let nothing = problems(&format!(r#"{disk}{{"size":0}}"#));
    assert_eq!(nothing.iter().count(), 2, "no panic, two problems");
}

#[test]
fn nets() {
    assert_elements(
        "net",
        "",
        &[
            (r#""vhost_user":true,"vhost_socket":"/s""#, "vhost_user", VHOST),
            (r#""num_queues":1"#, "num_queues", "Number of queues (1) to virtio_net should be higher than 2"),
            (
                r#""num_queues":2,"fds":[7,8]"#,
                "num_queues",
                "Number of queues (2) to virtio_net does not match the number of FDs (4)",
            ),
            (r#""fds":[2]"#, "fds", "Reserved fd number (<= 2): -1"),
            (r#""num_queues":4"#, "num_queues", "Queue count (4) must not exceed boot vCPUs (1)"),
            (r#""queue_size":6"#, "queue_size", "Queue size must be a power of 2 no greater than 32768: 6"),
            (
                r#""mtu":1279"#,
                "mtu",
                "Provided MTU 1279 is lower than 1280 (expected by VIRTIO specification)",
            ),
            (
                r#""offload_csum":false,"offload_tso":false"#,
                "offload_csum",
                r#""offload_tso" and "offload_ufo" depend on "offload_csum""#,
            ),
            (r#""mask":"255.0.0.0""#, "mask", "Mask provided without an IP"),
            (r#""ip":"10.0.0.1""#, "ip", "IP provided without a mask"),
        ],
    );
    assert_elements(
        "net",
        SHARED,
        &[
            (r#""vhost_user":true"#, "vhost_socket", "No socket provided when using vhost-user"),
            (r#""vhost_user":true,"vhost_socket":"/s","iommu":true"#, "iommu", NO_IOMMU),
            (
                r#""vhost_user":true,"vhost_socket":"/s","rate_limiter_config":{}"#,
                "rate_limiter_config",
                "Rate limiting is not supported with vhost-user",
            ),
        ],
    );
    plan(r#""net":[{"mtu":1280,"num_queues":3,"ip":"::1","mask":"ffff::"}]"#);
    plan(r#""net":[{"offload_csum":false,"offload_tso":false,"offload_ufo":false}]"#);
}

#[test]
fn what_the_kernel_refuses_of_an_interface() {
    let tap =
        |name: &str| (format!(r#""tap":"{name}""#), format!("'{name}' is no name of a network interface"));
    for name in ["", "0123456789abcdef", "a/b", "a b", "tap:1", ".", "..", "t%s", "t%d%d", "täp"] {
        let (field, text) = tap(name);
        assert_elements("net", "", &[(&field, "tap", &text)]);
    }
    for name in ["0123456789abcde", "vm%d", "tap-1.2_3"] {
        plan(&format!(r#""net":[{{"tap":"{name}"}}]"#));
    }
    let mac = |mac: &str| format!("MAC address {mac} is not that of a single device");
    let (group, none) = (mac("01:00:5e:00:00:01"), mac("00:00:00:00:00:00"));
    let no_host = |ip: &str| format!("{ip} is no address of a single host");
    assert_elements(
        "net",
        "",
        &[
            (r#""mac":"01:00:5e:00:00:01""#, "mac", &group),
            (r#""mac":"00:00:00:00:00:00""#, "mac", &none),
            (r#""host_mac":"01:00:5e:00:00:01""#, "host_mac", &group),
            (r#""host_mac":"ff:ff:ff:ff:ff:ff""#, "host_mac", &mac("ff:ff:ff:ff:ff:ff")),
            (r#""ip":"10.0.0.1","mask":"255.0.255.0""#, "mask", "Mask 255.0.255.0 has ones after a zero"),
            (r#""ip":"fe80::1","mask":"::1""#, "mask", "Mask ::1 has ones after a zero"),
            (r#""ip":"10.0.0.1","mask":"ffff::""#, "mask", "IP and mask are of different families"),
            (r#""ip":"0.0.0.0","mask":"0.0.0.0""#, "ip", &no_host("0.0.0.0")),
            (r#""ip":"224.0.0.1","mask":"255.0.0.0""#, "ip", &no_host("224.0.0.1")),
            (r#""ip":"255.255.255.255","mask":"255.0.0.0""#, "ip", &no_host("255.255.255.255")),
            (r#""ip":"::","mask":"ffff::""#, "ip", &no_host("::")),
            (r#""ip":"ff02::1","mask":"ffff::""#, "ip", &no_host("ff02::1")),
        ],
    );
    plan(r#""net":[{"ip":"10.0.0.1","mask":"255.255.255.255"},{"ip":"10.1.0.1","mask":"0.0.0.0"}]"#);
}

#[test]
fn paths_of_sockets_are_short() {
    let (long, fits) = ("/".repeat(108), "/".repeat(107));
    let text = "The path of a UNIX socket has 108 bytes, and 107 fit";
    for (section, field) in [
        (r#""serial":{"mode":"Socket","socket":"@"}"#, "serial.socket"),
        (r#""disks":[{"vhost_user":true,"vhost_socket":"@"}]"#, "disks[0].vhost_socket"),
        (r#""net":[{"vhost_user":true,"vhost_socket":"@"}]"#, "net[0].vhost_socket"),
        (r#""fs":[{"tag":"t","socket":"@"}]"#, "fs[0].socket"),
        (
            r#""generic_vhost_user":[{"device_type":1,"queue_sizes":[128],"socket":"@"}]"#,
            "generic_vhost_user[0].socket",
        ),
        (r#""user_devices":[{"socket":"@"}]"#, "user_devices[0].socket"),
        (r#""vsock":{"cid":3,"socket":"@"}"#, "vsock.socket"),
        (r#""tpm":{"socket":"@"}"#, "tpm.socket"),
    ] {
        let with = |path: &str| format!("{}{SHARED}", section.replace('@', path));
        assert_first_problems(&[(&with(&long), field, text)]);
        assert_first_problems(&[(&with(""), field, "The path is empty")]);
        plan(&with(&fits));
    }
}

#[test]
fn devices_of_other_processes() {
    assert_elements("fs", "", &[(r#""tag":"t","socket":"/s""#, "", VHOST)]);
    assert_elements(
        "fs",
        SHARED,
        &[
            (r#""tag":"t","socket":"/s","iommu":true"#, "iommu", NO_IOMMU),
            (
                r#""tag":"t","socket":"/s","num_queues":2"#,
                "num_queues",
                "Queue count (2) must not exceed boot vCPUs (1)",
            ),
        ],
    );
    let generic = r#""socket":"/s","device_type":1,"queue_sizes":[128,"#;
    let size = format!("{generic}3]");
    let iommu = format!(r#"{generic}4],"iommu":true"#);
    assert_elements(
        "generic_vhost_user",
        SHARED,
        &[
            (&size, "queue_sizes[1]", "Queue size must be a power of 2 no greater than 32768: 3"),
            (&iommu, "iommu", NO_IOMMU),
        ],
    );
    let user = "Using user devices requires using shared memory or huge pages";
    assert_elements("user_devices", "", &[(r#""socket":"/s""#, "", user)]);
    assert_elements("user_devices", SHARED, &[(r#""socket":"/s","iommu":true"#, "iommu", NO_IOMMU)]);
    for cid in [0, 1, 2, u32::MAX] {
        let fields = format!(r#""vsock":{{"cid":{cid},"socket":"/s"}}"#);
        assert_first_problems(&[(&fields, "vsock.cid", &format!("{cid} is a special VSOCK CID"))]);
    }
    assert_first_problems(&[
        (
            r#""memory":{"size":4096},"balloon":{"size":4096}"#,
            "balloon.size",
            "Balloon size (4096) greater than RAM (4096)",
        ),
        (r#""ivshmem":{"path":"/","size":3}"#, "ivshmem.size", "Invalid ivshmem input size: 3"),
        (
            r#""ivshmem":{"path":"/no/such/file","size":4096}"#,
            "ivshmem.path",
            "Invalid ivshmem backend file path",
        ),
        (
            r#""ivshmem":{"path":"/dev/null","size":4096}"#,
            "ivshmem.path",
            "Invalid ivshmem backend file size: 0",
        ),
    ]);
}

#[test]
fn pmem() {
    const SIZE: &str = "Trying to use a size that is not multiple of 2MiB";
    assert_elements(
        "pmem",
        "",
        &[
            (r#""file":"/p","size":0"#, "size", SIZE),
            (r#""file":"/p","size":1048576"#, "size", SIZE),
            (r#""file":"/p","size":2097153"#, "size", SIZE),
        ],
    );
    plan(r#""pmem":[{"file":"/p"},{"file":"/p","size":6291456}]"#);
}

#[test]
fn vfio() {
    assert_elements(
        "devices",
        "",
        &[
            ("", "", "VFIO device config must specify `path=` or `fd=`"),
            (r#""path":"/p","fd":5"#, "", "VFIO device config must specify at most one of `path=` or `fd=`"),
            (r#""fd":5"#, "fd", "VFIO device `fd=` requires platform `iommufd_fd=<fd>`"),
            (
                r#""path":"/p","x_exclude_mmap_bars":[5,6]"#,
                "x_exclude_mmap_bars",
                "Invalid VFIO excluded-mmap BAR index: 6",
            ),
        ],
    );
    assert_elements(
        "devices",
        r#","platform":{"vfio_p2p_dma":false}"#,
        &[(
            r#""path":"/p","x_nv_gpudirect_clique":1"#,
            "x_nv_gpudirect_clique",
            "Device with x_nv_gpudirect_clique requires vfio_p2p_dma=on",
        )],
    );
    let twice = problems(r#""devices":[{"path":"/p"},{"path":"/p"}]"#);
    assert_eq!(twice.kind(), ProblemKind::Duplicate);
    assert_first_problems(&[(
        r#""devices":[{"path":"/p"},{"path":"/p"}]"#,
        "devices[1].path",
        "Duplicated device path: /p",
    )]);
}

#[test]
fn no_device_has_more_queues_than_bells() {
    let cpus = r#""cpus":{"boot_vcpus":2048,"max_vcpus":2048},"#;
    let first = |section: &str| problems(&format!("{cpus}{section}")).iter().next().unwrap().text.clone();
    plan(&format!(r#"{cpus}"disks":[{{"path":"/d","num_queues":1024}}],"net":[{{"num_queues":1022}}]"#));
    assert_eq!(
        first(r#""disks":[{"path":"/d","num_queues":1025}]"#),
        "Queue count (1025) must not exceed 1024"
    );
    assert_eq!(first(r#""net":[{"num_queues":1024}]"#), "Queue count (1024) must not exceed 1023");
}

/// The rules of a section and their order are the reference's, so that its place is checked where its own rules are; none is forgotten.
#[test]
fn every_device_s_place_is_checked() {
    let own = |section: &str| match section {
        "console" => r#""mode":"Null""#,
        "disks" | "vdpa" => r#""path":"/p""#,
        "rng" => r#""src":"/p""#,
        "generic_vhost_user" => r#""socket":"/s","device_type":1,"queue_sizes":[128]"#,
        "fs" => r#""tag":"t","socket":"/s""#,
        "pmem" => r#""file":"/p""#,
        "vsock" => r#""cid":3,"socket":"/s""#,
        "balloon" => r#""size":4096"#,
        "devices" => r#""path":"/p""#,
        "user_devices" => r#""socket":"/s""#,
        "ivshmem" => r#""path":"/p","size":4096"#,
        _ => "",
    };
    for (section, is_list) in devices::fields_of_devices() {
        let comma = if own(section).is_empty() { "" } else { "," };
        let device = format!(r#"{{{}{comma}"pci_device_id":40}}"#, own(section));
        let (value, path) =
            if is_list { (format!("[{device}]"), format!("{section}[0]")) } else { (device, section.into()) };
        let problems = problems(&format!(r#""{section}":{value}{SHARED}"#));
        let place = format!("{path}.pci_device_id");
        assert!(problems.iter().any(|problem| problem.path == place), "{place}: {problems:?}");
    }
}

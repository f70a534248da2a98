//! The wire form: names, defaults, what is left out, what is reported.

use serde_json::{Value, json};

use super::{MINIMAL, config};
use crate::*;

fn value(config: &impl serde::Serialize) -> Value {
    serde_json::to_value(config).unwrap()
}

#[test]
fn defaults_are_those_of_the_reference() {
    let (config, _) = VmConfig::from_json(MINIMAL.as_bytes()).unwrap();
    let want = json!({
        "cpus": {
            "boot_vcpus": 1, "max_vcpus": 1, "kvm_hyperv": false, "max_phys_bits": 46,
            "features": {"amx": false}, "nested": true, "core_scheduling": "Vm", "profile": "Host",
        },
        "memory": {
            "size": 536_870_912, "mergeable": false, "hotplug_method": "Acpi", "shared": false,
            "hugepages": false, "prefault": false, "reserve": false, "thp": true,
        },
        "payload": {"kernel": "/k"},
        "rng": {"src": "/dev/urandom", "pci_segment": 0},
        "serial": {"mode": "Null"},
        "console": {"mode": "Tty", "pci_segment": 0},
        "debug_console": {"mode": "Off", "iobase": 233},
        "pvpanic": false, "iommu": false, "watchdog": false, "landlock_enable": false,
    });
    assert_eq!(value(&config), want);
}

#[test]
fn device_defaults() {
    let disk = json!({
        "path": "/d", "readonly": false, "direct": false, "num_queues": 1, "queue_size": 128, "vhost_user": false,
        "disable_io_uring": false, "disable_aio": false, "backing_files": false, "sparse": true,
        "image_type": "Unknown", "lock_granularity": "ByteRange", "pci_segment": 0,
    });
    assert_eq!(value(&from_json::<DiskConfig>(br#"{"path":"/d"}"#).unwrap().0), disk);
    let net = json!({
        "num_queues": 2, "queue_size": 256, "vhost_user": false, "vhost_mode": "Client", "offload_tso": true,
        "offload_ufo": true, "offload_csum": true, "pci_segment": 0,
    });
    assert_eq!(value(&from_json::<NetConfig>(b"{}").unwrap().0), net);
    let fs = json!({"tag": "t", "socket": "/s", "num_queues": 1, "queue_size": 1024, "pci_segment": 0});
    assert_eq!(value(&from_json::<FsConfig>(br#"{"tag":"t","socket":"/s"}"#).unwrap().0), fs);
    let segment = json!({"pci_segment": 0, "mmio32_aperture_weight": 1, "mmio64_aperture_weight": 1});
    assert_eq!(value(&PciSegmentConfig::default()), segment);
    let fw_cfg =
        json!({"e820": true, "kernel": true, "cmdline": true, "initramfs": true, "acpi_tables": true});
    assert_eq!(value(&from_json::<FwCfgConfig>(b"{}").unwrap().0), fw_cfg);
    let platform = json!({"num_pci_segments": 1, "iommu_address_width_bits": 64, "iommufd": false, "vfio_p2p_dma": true});
    assert_eq!(value(&from_json::<PlatformConfig>(b"{}").unwrap().0), platform);
}

/// Every section at once, every field away from its default.
const FULL: &str = r#"{
  "cpus":{"boot_vcpus":2,"max_vcpus":4,"topology":{"threads_per_core":2,"cores_per_die":2,"dies_per_package":1,"packages":1},
    "kvm_hyperv":true,"max_phys_bits":40,"affinity":[{"vcpu":0,"host_cpus":[1,2]}],"features":{"amx":true},"nested":false,
    "core_scheduling":"Off","profile":"Host"},
  "memory":{"size":0,"mergeable":true,"hotplug_method":"VirtioMem","hotplug_size":1,"hotplugged_size":1,"shared":true,
    "hugepages":true,"hugepage_size":2097152,"prefault":true,"reserve":true,"thp":false,
    "zones":[{"id":"z","size":5,"file":"/f","shared":true,"hugepages":true,"hugepage_size":1,"host_numa_node":1,
      "hotplug_size":1,"hotplugged_size":1,"prefault":true,"reserve":true,"mergeable":true}]},
  "payload":{"firmware":"/f","kernel":"/k","cmdline":"c","initramfs":"/i","fw_cfg_config":{"e820":false,"kernel":false,
    "cmdline":false,"initramfs":false,"acpi_tables":false,"items":{"item_list":[{"name":"n","file":"/f"}]}}},
  "rate_limit_groups":[{"id":"g","rate_limiter_config":{"bandwidth":{"size":1,"one_time_burst":2,"refill_time":3},
    "ops":{"size":1,"refill_time":3}}}],
  "disks":[{"path":"/d","readonly":true,"direct":true,"num_queues":2,"queue_size":64,"vhost_user":true,"vhost_socket":"/s",
    "rate_limit_group":"g","rate_limiter_config":{"ops":{"size":1,"refill_time":1}},"disable_io_uring":true,
    "disable_aio":true,"serial":"s","queue_affinity":[{"queue_index":0,"host_cpus":[0]}],"backing_files":true,
    "sparse":false,"image_type":"Qcow2","lock_granularity":"Full","id":"d","iommu":true,"pci_segment":1,"pci_device_id":3}],
  "net":[{"tap":"t","ip":"10.0.0.1","mask":"255.0.0.0","mac":"2e:00:00:00:00:01","host_mac":"2e:00:00:00:00:02",
    "mtu":1500,"num_queues":4,"queue_size":512,"vhost_user":true,"vhost_socket":"/s","vhost_mode":"Server","fds":[-1,-1],
    "rate_limiter_config":{},"offload_tso":false,"offload_ufo":false,"offload_csum":false,"id":"n","iommu":true,
    "pci_segment":2,"pci_device_id":4}],
  "rng":{"src":"/r","iommu":true,"pci_segment":0},
  "balloon":{"size":1,"deflate_on_oom":true,"free_page_reporting":true,"pci_segment":0},
  "generic_vhost_user":[{"socket":"/s","queue_sizes":[1,2],"device_type":26,"pci_segment":0}],
  "fs":[{"tag":"t","socket":"/s","num_queues":2,"queue_size":8,"pci_segment":0}],
  "pmem":[{"file":"/f","size":1,"discard_writes":true,"pci_segment":0}],
  "serial":{"file":"/f","mode":"File"},
  "console":{"mode":"Socket","socket":"/s","iommu":true,"pci_segment":1,"pci_device_id":2},
  "debug_console":{"file":"/f","mode":"File","iobase":234},
  "devices":[{"path":"/p","fd":-1,"x_nv_gpudirect_clique":1,"x_exclude_mmap_bars":[1],"pci_segment":0}],
  "user_devices":[{"socket":"/s","pci_segment":0}],
  "vdpa":[{"path":"/p","num_queues":2,"pci_segment":0}],
  "vsock":{"cid":3,"socket":"/s","pci_segment":0},
  "pvmemcontrol":{},"pvpanic":true,"iommu":true,
  "numa":[{"guest_numa_id":1,"cpus":[0],"distances":[{"destination":1,"distance":2}],"memory_zones":["z"],
    "pci_segments":[0],"device_id":"v"}],
  "watchdog":true,"rtc":{"pci_segment":0},
  "pci_segments":[{"pci_segment":1,"mmio32_aperture_weight":2,"mmio64_aperture_weight":3}],
  "platform":{"num_pci_segments":2,"iommu_segments":[1],"iommu_address_width_bits":48,"system_serial_number":"a",
    "system_uuid":"b","oem_strings":["c"],"system_manufacturer":"d","system_product_name":"e","system_version":"f",
    "system_family":"g","system_sku_number":"h","chassis_asset_tag":"i","iommufd":true,"iommufd_fd":-1,"vfio_p2p_dma":false},
  "tpm":{"socket":"/s"},"landlock_enable":true,"landlock_rules":[{"path":"/p","access":"rw"}],
  "ivshmem":{"path":"/p","size":1,"pci_segment":0}}"#;

#[test]
fn every_field_survives_a_round_trip() {
    let (config, unknown) = VmConfig::from_json(FULL.as_bytes()).unwrap();
    assert_eq!(unknown, Vec::<String>::new());
    assert_eq!(value(&config), serde_json::from_str::<Value>(FULL).unwrap());
}

#[test]
fn null_is_absent_for_optional_fields() {
    let fields = r#""disks":null,"platform":{"oem_strings":null},"net":[{"id":null,"mac":null,"fds":null}]"#;
    let config = config(fields);
    assert!(config.disks.is_none());
    assert_eq!(config.net, Some(vec![NetConfig::default()]));
}

#[test]
fn unknown_fields_are_accepted_and_reported() {
    let text = br#"{"colour":1,"disks":[{"path":"/a"},{"path":"/b","sise":3,"id":"x"}],
        "rng":{"src":"/r","zz":{}},"memory":{"size":1,"zones":[{"id":"z","size":1,"old":[]}]},
        "payload":{"kernel":"/k","igvm":"/i"}}"#;
    let (config, unknown) = VmConfig::from_json(text).unwrap();
    let want = ["colour", "disks[1].sise", "rng.zz", "memory.zones[0].old", "payload.igvm"];
    assert_eq!(unknown, want);
    assert_eq!(config.disks.unwrap()[1].pci.id.as_deref(), Some("x"));
    let (_, unknown) = from_json::<VmRemoveDevice>(br#"{"id":"a","force":true}"#).unwrap();
    assert_eq!(unknown, ["force"]);
    let many = format!("{{{}}}", (0..500).map(|i| format!("\"x{i}\":0")).collect::<Vec<_>>().join(","));
    assert_eq!(VmConfig::from_json(many.as_bytes()).unwrap().1.len(), 64, "the report is bounded");
}

#[test]
fn bodies_that_are_no_configuration() {
    let rows = [
        ("", "EOF while parsing"),
        (r#"{"memory":{}}"#, "missing field `size`"),
        (r#"{"cpus":{"boot_vcpus":1}}"#, "missing field `max_vcpus`"),
        (r#"{"disks":[{"image_type":"raw"}]}"#, "unknown variant `raw`"),
        (r#"{"memory":{"size":"1G"}}"#, "invalid type: string"),
        (r#"{"net":[{"mac":"2e:00"}]}"#, "invalid MAC address: 2e:00"),
        (r#"{"net":[{"mac":"+e:00:00:00:00:00"}]}"#, "invalid MAC address"),
        (r#"{"disks":[{"rate_limiter_config":{"opps":{}}}]}"#, "unknown field `opps`"),
        (r#"{"console":{"pci_segment":"x","mode":"Off"}}"#, "invalid type: string"),
        (r#"{"rng":{}}"#, "missing field `src`"),
        (r#"{} x"#, "trailing characters"),
    ];
    for (text, want) in rows {
        let error = VmConfig::from_json(text.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(want), "{text}: {error}");
    }
    let error = VmConfig::from_json(br#"{"memory":{}}"#).unwrap_err();
    assert_eq!((error.line(), error.column()), (1, 12));
}

#[test]
fn descriptors_in_json_are_only_counted() {
    let config = config(
        r#""net":[{"fds":[3,4,5]}],"devices":[{"fd":7}],"platform":{"iommufd_fd":9,"serial_number":"s","uuid":"u"}"#,
    );
    assert_eq!(config.net.unwrap()[0].fds.as_deref(), Some(&[-1, -1, -1][..]));
    assert_eq!(config.devices.unwrap()[0].fd, Some(UNKNOWN_FD));
    let platform = config.platform.unwrap();
    assert_eq!(platform.iommufd_fd, Some(UNKNOWN_FD));
    assert_eq!(
        (platform.system_serial_number.as_deref(), platform.system_uuid.as_deref()),
        (Some("s"), Some("u"))
    );
    let text = br#"{"source_url":"u","net_fds":[{"id":"n","num_fds":2,"fds":[5,6]}],"vfio_fds":[{"id":"v","fd":3}]}"#;
    let (restore, _) = from_json::<RestoreConfig>(text).unwrap();
    assert_eq!(restore.net_fds.unwrap()[0].fds, Some(vec![-1, -1]));
    assert_eq!(restore.vfio_fds.unwrap()[0].fd, Some(-1));
}

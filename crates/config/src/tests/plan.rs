//! What comes out of a check.

use std::path::PathBuf;

use super::{plan, problems};
use crate::plan::{Balloon, Console, Device, DeviceKind, Mem, Pages, Payload, Place, Rng, Stream};
use crate::*;

#[test]
fn the_smallest_machine() {
    let plan = plan("");
    assert_eq!((plan.cpus.boot, plan.cpus.max, plan.cpus.topology.cores_per_die), (1, 1, 1));
    assert_eq!(plan.memory.zones.len(), 1);
    assert_eq!((plan.memory.zones[0].id.as_str(), plan.memory.total()), ("mem0", 512 << 20));
    assert_eq!(plan.memory.zones[0].pages, Pages::Normal { thp: true });
    let kernel = PathBuf::from("/k");
    assert_eq!(plan.payload, Payload::Kernel { kernel, cmdline: None, initramfs: None });
    assert_eq!((plan.serial.clone(), plan.pci_segments.len()), (Stream::Null, 1));
    let console = DeviceKind::Console(Console { stream: Stream::Tty });
    let rng = DeviceKind::Rng(Rng { src: "/dev/urandom".into() });
    let place = Place { segment: 0, device: None, iommu: false };
    let device = |id: &str, kind| Device { id: id.into(), place, kind };
    assert_eq!(plan.devices, [device("__console", console), device("__rng", rng)]);
    assert!(plan.unbuilt().is_empty() && plan.warnings().is_empty());
}

#[test]
fn a_plan_of_a_plan_is_the_same() {
    let first = plan(r#""disks":[{"path":"/a"}],"net":[{}]"#);
    let again = check(first.config().clone()).unwrap();
    assert_eq!((again.config(), &again.devices), (first.config(), &first.devices));
}

#[test]
fn zones_topology_and_streams() {
    let plan = plan(
        r#""cpus":{"boot_vcpus":3,"max_vcpus":3,"affinity":[{"vcpu":1,"host_cpus":[2]}],"features":{"amx":true}},
        "memory":{"size":0,"thp":false,"zones":[{"id":"a","size":4096,"hugepages":true,"hugepage_size":4096},
            {"id":"b","size":8192,"file":"/f","shared":true}]},
        "serial":{"mode":"Socket","socket":"/s"},"console":{"mode":"File","file":"/c","pci_device_id":7},
        "platform":{"system_uuid":"01234567-89ab-cdef-0123-456789abcdef","oem_strings":["a"]}"#,
    );
    assert_eq!((plan.cpus.topology.cores_per_die, plan.cpus.amx), (3, true));
    assert_eq!(plan.cpus.affinity, [(1, vec![2])]);
    assert_eq!(plan.memory.zones[0].pages, Pages::Huge { size: Some(4096) });
    assert_eq!(plan.memory.zones[1].pages, Pages::Normal { thp: false });
    assert_eq!((plan.memory.zones[1].file.clone(), plan.memory.total()), (Some("/f".into()), 12288));
    assert_eq!(plan.serial, Stream::Socket("/s".into()));
    assert_eq!(plan.devices[0].kind, DeviceKind::Console(Console { stream: Stream::File("/c".into()) }));
    assert_eq!(plan.devices[0].place, Place { segment: 0, device: Some(7), iommu: false });
    assert_eq!(plan.smbios.uuid.as_deref(), Some("01234567-89ab-cdef-0123-456789abcdef"));
    assert_eq!(plan.smbios.oem_strings, ["a"]);
}

#[test]
fn firmware_drops_what_only_kernels_use() {
    let plan = plan(r#""payload":{"firmware":"/f","cmdline":"c","initramfs":"/i"},"serial":{"mode":"Tty"}"#);
    assert_eq!(plan.payload, Payload::Firmware { firmware: "/f".into() });
    let payload = plan.config().payload.clone().unwrap();
    assert_eq!((payload.cmdline, payload.initramfs), (None, None));
    assert_eq!(plan.warnings().len(), 3);
}

fn ids(plan: &Plan) -> Vec<&str> {
    plan.devices.iter().map(|device| device.id.as_str()).collect()
}

#[test]
fn ids_come_from_one_counter_in_device_order() {
    let plan = plan(
        r#""memory":{"size":4096,"shared":true},"disks":[{"path":"/a"},{"path":"/b","id":"mine"},{"path":"/c"}],"net":[{}],
        "generic_vhost_user":[{"socket":"/s","device_type":1,"queue_sizes":[]}],"fs":[{"tag":"t","socket":"/s"}],
        "pmem":[{"file":"/f"}],"vsock":{"cid":3,"socket":"/s"},"vdpa":[{"path":"/v"}],"devices":[{"path":"/p"}],
        "user_devices":[{"socket":"/s","id":"_disk1"}]"#,
    );
    let config = plan.config();
    let id = |pci: &PciCommon| pci.id.clone().unwrap();
    let expected = ["__console", "_disk0", "mine", "_disk2", "_net3", "__rng", "_pmem6", "_vsock7"];
    assert_eq!(ids(&plan), expected, "_disk1 is taken");
    assert_eq!(id(&config.generic_vhost_user.as_ref().unwrap()[0].pci), "_generic_vhost_user4");
    assert_eq!(id(&config.fs.as_ref().unwrap()[0].pci), "_fs5");
    assert_eq!(id(&config.pmem.as_ref().unwrap()[0].pci), "_pmem6");
    assert_eq!(id(&config.vsock.as_ref().unwrap().pci), "_vsock7");
    assert_eq!(id(&config.vdpa.as_ref().unwrap()[0].pci), "_vdpa8");
    assert_eq!(id(&config.devices.as_ref().unwrap()[0].pci), "_vfio9");
    assert_eq!(config.rng.pci.id, None, "fixed devices are not named");
}

#[test]
fn mac_addresses_are_filled_in() {
    let plan = plan(r#""net":[{},{},{"mac":"2e:01:02:03:04:05"}]"#);
    let nets = plan.devices.iter().filter_map(|device| match &device.kind {
        DeviceKind::Net(net) => Some(net.mac),
        _ => None,
    });
    let macs: Vec<MacAddr> = nets.collect();
    assert_eq!((macs[0].0[0], macs[1].0[0]), (0x2e, 0x2e));
    assert_ne!(macs[0], macs[1]);
    assert_eq!(macs[2].0, [0x2e, 1, 2, 3, 4, 5]);
    let written: Vec<_> = plan.config().net.iter().flatten().map(|net| net.mac.unwrap()).collect();
    assert_eq!(written, macs);
}

#[test]
fn the_iommu_comes_with_who_wants_it() {
    assert!(!plan("").config().iommu);
    for fields in [
        r#""disks":[{"path":"/a","iommu":true}]"#,
        r#""rng":{"src":"/r","iommu":true}"#,
        r#""console":{"mode":"Off","iommu":true}"#,
        r#""platform":{"num_pci_segments":2,"iommu_segments":[1]}"#,
    ] {
        assert!(plan(fields).config().iommu, "{fields}");
    }
}

#[test]
fn segments_share_the_address_space_by_weight() {
    let plan = plan(
        r#""platform":{"num_pci_segments":3},"pci_segments":[{"pci_segment":1,"mmio32_aperture_weight":2,"mmio64_aperture_weight":3}]"#,
    );
    let shares: Vec<_> =
        plan.pci_segments.iter().map(|segment| (segment.memory32, segment.memory64)).collect();
    assert_eq!(shares, [(1, 1), (2, 3), (1, 1)]);
    assert_eq!(plan.unbuilt(), [""; 0]);
}

#[test]
fn memory_that_can_be_plugged_has_a_device_for_each_zone() {
    let plugging = |plan: &Plan| {
        let requested = |device: &Device| match device.kind {
            DeviceKind::Mem(Mem { requested, node }) => Some((device.id.clone(), requested, node)),
            _ => None,
        };
        plan.devices.iter().filter_map(requested).collect::<Vec<_>>()
    };
    let rooms = |plan: &Plan| plan.memory.zones.iter().map(|zone| zone.room).collect::<Vec<_>>();
    let whole = plan(
        r#""memory":{"size":4096,"hotplug_method":"VirtioMem","hotplug_size":268435456,"hotplugged_size":2097152},
            "balloon":{"size":0}"#,
    );
    assert_eq!(plugging(&whole), [("mem0".to_owned(), 2 << 20, None)]);
    assert_eq!((rooms(&whole), whole.memory.more), (vec![256 << 20], 0));
    assert_eq!(whole.memory.largest(), 4096 + (256 << 20));
    assert_eq!(ids(&whole), ["__console", "__rng", "mem0", "__balloon"]);
    assert!(whole.unbuilt().is_empty());
    let zones = plan(
        r#""memory":{"size":0,"hotplug_method":"VirtioMem","hotplug_size":134217728,"zones":[
            {"id":"a","size":4096},{"id":"b","size":4096,"hotplug_size":134217728}]},
            "numa":[{"guest_numa_id":0,"cpus":[0],"memory_zones":["a"]},{"guest_numa_id":2,"memory_zones":["b"]}]"#,
    );
    assert_eq!((plugging(&zones), rooms(&zones)), (vec![("b".to_owned(), 0, Some(2))], vec![0, 128 << 20]));
    assert!(zones.warnings()[0].contains("zones have their own"));
    let through_acpi = plan(r#""memory":{"size":4096,"hotplug_size":134217728}"#);
    assert_eq!((plugging(&through_acpi), through_acpi.memory.more), (vec![], 128 << 20));
    assert!(through_acpi.unbuilt().is_empty());
    let of_zones = plan(r#""memory":{"size":0,"hotplug_size":134217728,"zones":[{"id":"a","size":4096}]}"#);
    assert_eq!((of_zones.memory.more, of_zones.warnings().len()), (0, 1), "zones do not grow through ACPI");
}

#[test]
fn devices_keep_their_queues_when_vcpus_go() {
    let vcpus = |count| VmResize { desired_vcpus: Some(count), ..VmResize::default() };
    let before =
        plan(r#""cpus":{"boot_vcpus":2,"max_vcpus":4},"disks":[{"id":"d","path":"/d","num_queues":2}]"#);
    let fewer = before.check_resized_running(&vcpus(1)).unwrap();
    assert_eq!(fewer.config().cpus.boot_vcpus, 1);
    // Whatever is done next, too.
    let more = |queues| Extra::Disk(DiskConfig::from_flag(&format!("path=/e,num_queues={queues}")).unwrap());
    let (with_another, _) = fewer.check_more(more(2)).unwrap();
    assert!(with_another.check_less("d").unwrap().is_ok());
    assert!(fewer.check_more(more(3)).is_err());
    // Also where it comes back.
    assert!(check(fewer.config().clone()).is_err());
    assert!(check_saved(fewer.config().clone()).is_ok());
    let grown = before.check_resized_running(&vcpus(4)).unwrap();
    assert!(grown.check_more(more(4)).is_ok());
}

#[test]
fn ram_that_comes_through_acpi_is_what_the_next_machine_begins_with() {
    let ram = |bytes| VmResize { desired_ram: Some(bytes), ..VmResize::default() };
    let before = plan(r#""memory":{"size":134217728,"hotplug_size":134217728}"#);
    for size in [4096, 128 << 20, 1 << 40] {
        let after = before.check_resized_running(&ram(size)).unwrap();
        assert_eq!((after.memory.total(), after.config().memory.hotplugged_size), (size, None));
    }
    let path =
        |bytes| before.check_resized_running(&ram(bytes)).unwrap_err().iter().next().unwrap().path.clone();
    assert_eq!([0, 1].map(path), ["memory.size", "memory.size"]);
}

#[test]
fn ram_of_a_running_machine_is_plugged_within_its_room() {
    const ROOM: u64 = 128 << 20;
    let ram = |bytes| VmResize { desired_ram: Some(bytes), ..VmResize::default() };
    let memory = r#""memory":{"size":4096,"hotplug_method":"VirtioMem","hotplug_size":134217728}"#;
    let plugged = |plan: &Plan| plan.config().memory.hotplugged_size;
    let before = plan(memory);
    let grown = before.check_resized_running(&ram(4096 + ROOM)).unwrap();
    assert_eq!((plugged(&before), plugged(&grown), grown.config().memory.size), (None, Some(ROOM), 4096));
    assert_eq!(plugged(&grown.check_resized_running(&ram(4096)).unwrap()), Some(0));
    assert_eq!(before.check_resized(&ram(8192)).unwrap().config().memory.size, 8192);
    let text = |refused: Result<Plan, Problems>| {
        let problems = refused.unwrap_err();
        let first = problems.iter().next().unwrap();
        format!("{}: {}", first.path, first.text)
    };
    assert!(
        text(before.check_resized_running(&ram(4095))).starts_with("desired_ram: Invalid resize request")
    );
    assert!(text(before.check_resized_running(&ram(4097))).starts_with("memory.hotplugged_size"));
    let beyond = before.check_resized_running(&ram(4096 + ROOM + (2 << 20)));
    assert!(text(beyond).starts_with("memory.hotplugged_size"));
    let missing = "desired_ram: No virtio-mem resizing handler found";
    let without = plan(r#""memory":{"size":4096,"hotplug_method":"VirtioMem"}"#);
    assert_eq!(text(without.check_resized_running(&ram(1 << 30))), missing);
}

#[test]
fn ram_of_a_zone_is_plugged_within_its_room() {
    let memory = r#""memory":{"size":0,"hotplug_method":"VirtioMem","zones":[
        {"id":"a","size":4096},{"id":"b","size":4096,"hotplug_size":134217728}]}"#;
    let zone = |id: &str, desired_ram| VmResizeZone { id: id.into(), desired_ram };
    let sizes = |plan: &Plan| {
        let zones = plan.config().memory.zones.iter().flatten();
        zones.map(|zone| (zone.size, zone.hotplugged_size)).collect::<Vec<_>>()
    };
    let before = plan(memory);
    let grown = before.check_zone_resized_running(&zone("b", 4096 + (64 << 20))).unwrap();
    assert_eq!(sizes(&grown), [(4096, None), (4096, Some(64 << 20))]);
    assert_eq!(sizes(&before.check_zone_resized(&zone("a", 8192)).unwrap()), [(8192, None), (4096, None)]);
    let path = |refused: Result<Plan, Problems>| refused.unwrap_err().iter().next().unwrap().path.clone();
    assert_eq!(path(before.check_zone_resized_running(&zone("a", 8192))), "desired_ram");
    assert_eq!(path(before.check_zone_resized_running(&zone("b", 0))), "desired_ram");
    assert_eq!(path(before.check_zone_resized(&zone("c", 8192))), "id");
    let whole = VmResize { desired_ram: Some(1 << 30), ..VmResize::default() };
    assert_eq!(path(before.check_resized_running(&whole)), "desired_ram");
}

#[test]
fn another_size_of_a_balloon_is_checked_and_needs_one() {
    let size = |bytes| VmResize { desired_balloon: Some(bytes), ..VmResize::default() };
    let before = plan(r#""memory":{"size":8192},"balloon":{"size":0}"#);
    let after = before.check_resized(&size(4096)).unwrap();
    assert_eq!(after.config().balloon.as_ref().unwrap().size, 4096);
    let is_planned = |device: &Device| matches!(device.kind, DeviceKind::Balloon(Balloon { size: 4096, .. }));
    assert!(after.devices.iter().any(is_planned));
    let paths = |refused: Result<Plan, Problems>| {
        refused.unwrap_err().iter().map(|problem| problem.path.clone()).collect::<Vec<_>>()
    };
    assert_eq!(paths(before.check_resized_running(&size(8192))), ["balloon.size"]);
    assert_eq!(paths(plan("").check_resized(&size(0))), ["balloon"]);
}

#[test]
fn what_is_asked_for_and_not_built() {
    let rows = [
        (r#""disks":[{"path":"/a","image_type":"Qcow2"}]"#, "disks[0].image_type"),
        (r#""disks":[{"path":"/a","rate_limiter_config":{}}]"#, "disks[0].rate_limiter_config"),
        (r#""net":[{"rate_limiter_config":{}}]"#, "net[0].rate_limiter_config"),
        (r#""vdpa":[{"path":"/p"}]"#, "vdpa"),
        (r#""devices":[{"path":"/p"}]"#, "devices"),
        (r#""tpm":{"socket":"/s"}"#, "tpm"),
        (r#""rtc":{}"#, "rtc"),
        (r#""iommu":true"#, "iommu"),
        (r#""debug_console":{"mode":"Tty"}"#, "debug_console"),
        (r#""pvmemcontrol":{}"#, "pvmemcontrol"),
        (
            r#""payload":{"kernel":"/k","fw_cfg_config":{"cmdline":false,"initramfs":false}}"#,
            "payload.fw_cfg_config",
        ),
    ];
    for (fields, name) in rows {
        assert_eq!(plan(fields).unbuilt(), [name], "{fields}");
    }
    let vhost = plan(
        r#""memory":{"size":4096,"shared":true},"disks":[{"path":"/a"},{"vhost_user":true,"vhost_socket":"/s"}]"#,
    );
    assert_eq!(vhost.unbuilt(), ["disks[1].vhost_user"]);
    assert_eq!(ids(&vhost), ["__console", "_disk0", "__rng"]);
    assert!(plan(r#""disks":[],"fs":[],"devices":[]"#).unbuilt().is_empty(), "empty lists ask for nothing");
}

fn disk(fields: &str) -> Extra {
    Extra::Disk(from_json(format!("{{{fields}}}").as_bytes()).unwrap().0)
}

#[test]
fn adding_checks_the_whole_and_leaves_the_plan_alone() {
    let before = plan(r#""disks":[{"path":"/a"}],"net":[{}]"#);
    let (after, id) = before.check_more(disk(r#""path":"/b""#)).unwrap();
    assert_eq!(id, "_disk2");
    assert_eq!(ids(&before), ["__console", "_disk0", "_net1", "__rng"]);
    assert_eq!(ids(&after), ["__console", "_disk0", "_disk2", "_net1", "__rng"]);
    assert_eq!(after.devices[3], before.devices[2], "addresses stay");
    let twice = after.check_more(disk(r#""path":"/c","id":"_disk2""#)).unwrap_err();
    assert_eq!(twice.kind(), ProblemKind::Duplicate);
    assert_eq!(twice.iter().next().unwrap().path, "disks[2].id");
    let more = [
        Extra::Net(NetConfig::default()),
        Extra::Pmem(Pmem { file: "/f".into(), ..Pmem::default() }.into()),
        Extra::Vdpa(Vdpa { path: "/v".into(), num_queues: 1 }.into()),
        Extra::Device(crate::Device { path: Some("/p".into()), ..crate::Device::default() }.into()),
        Extra::Vsock(Vsock { cid: 3, socket: "/s".into() }.into()),
    ];
    let mut added = Vec::new();
    let whole = more.into_iter().fold(after, |plan, extra| {
        let (plan, id) = plan.check_more(extra).unwrap();
        added.push(id);
        plan
    });
    assert_eq!(added, ["_net3", "_pmem4", "_vdpa5", "_vfio6", "_vsock7"]);
    assert_eq!(
        ids(&whole),
        ["__console", "_disk0", "_disk2", "_net1", "_net3", "__rng", "_pmem4", "_vsock7"]
    );
    assert_eq!(whole.unbuilt(), ["devices", "vdpa"]);
    let second = whole.check_more(Extra::Vsock(Vsock { cid: 4, socket: "/t".into() }.into())).unwrap_err();
    assert_eq!(second.iter().next().unwrap().text, "Too many virtio-vsock devices");
    for extra in [
        Extra::Fs(Fs { tag: "t".into(), socket: "/s".into(), num_queues: 1, queue_size: 4 }.into()),
        Extra::UserDevice(UserDevice { socket: "/s".into() }.into()),
        Extra::GenericVhostUser(GenericVhostUser::default().into()),
    ] {
        let text = whole.check_more(extra).unwrap_err().iter().next().unwrap().text.clone();
        assert!(text.ends_with("requires using shared memory or huge pages"), "{text}");
    }
}

#[test]
fn removing() {
    let before = plan(r#""disks":[{"path":"/a"},{"path":"/b"}],"vsock":{"cid":3,"socket":"/s","id":"v"}"#);
    let after = before.check_less("_disk0").unwrap().unwrap();
    assert_eq!(ids(&after), ["__console", "_disk1", "__rng", "v"]);
    let (again, _) = after.check_more(disk(r#""path":"/a""#)).unwrap();
    assert_eq!(ids(&again), ["__console", "_disk1", "_disk2", "__rng", "v"], "numbers are not used twice");
    assert!(after.check_less("v").unwrap().unwrap().config().vsock.is_none());
    assert!(after.check_less("_disk0").is_none());
    assert!(problems(r#""disks":[{}]"#).iter().count() > 0);
}

#[test]
fn a_device_keeps_its_slot_whatever_comes_and_goes() {
    let mut plan = plan(r#""disks":[{"path":"/a"},{"path":"/b"},{"path":"/c","pci_device_id":9}]"#);
    for (id, slot) in [("__console", 1), ("_disk0", 2), ("_disk1", 3), ("__rng", 4)] {
        plan.settle(id, slot);
    }
    let less = plan.check_less("_disk0").unwrap().unwrap();
    let (more, id) = less.check_more(disk(r#""path":"/d""#)).unwrap();
    let slots: Vec<_> = more.devices.iter().map(|device| (device.id.as_str(), device.place.device)).collect();
    let expected = [
        ("__console", Some(1)),
        ("_disk1", Some(3)),
        ("_disk2", Some(9)),
        (id.as_str(), None),
        ("__rng", Some(4)),
    ];
    assert_eq!(slots, expected);
    assert_eq!(
        more.config().disks.as_ref().unwrap()[0].pci.pci_device_id,
        None,
        "users see what they asked for"
    );
}

//! The command line's form of every section.

use std::path::Path;

use super::plan as plan_of;
use crate::*;

/// The error chain as the binary prints it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text} -> {source}");
        next = source.source();
    }
    text
}

fn refused<T: std::fmt::Debug>(result: Result<T, FlagError>) -> String {
    chain(&result.unwrap_err())
}

#[test]
fn cpus() {
    assert_eq!(CpusConfig::from_flag("boot=1,max_phys_bits=46").unwrap(), CpusConfig::default());
    let cpus = CpusConfig::from_flag(
        "boot=4,topology=2:2:1:1,kvm_hyperv=on,max_phys_bits=40,affinity=[0@[0-3],1@[4]],features=[amx],\
         nested=off,core_scheduling=VCPU,profile=Host",
    )
    .unwrap();
    let pair = |vcpu, host_cpus| CpuAffinity { vcpu, host_cpus };
    let topology = CpuTopology { threads_per_core: 2, cores_per_die: 2, dies_per_package: 1, packages: 1 };
    let want = CpusConfig {
        boot_vcpus: 4,
        max_vcpus: 4,
        topology: Some(topology),
        kvm_hyperv: true,
        max_phys_bits: 40,
        affinity: Some(vec![pair(0, vec![0, 1, 2, 3]), pair(1, vec![4])]),
        features: CpuFeatures { amx: true },
        nested: false,
        core_scheduling: CoreScheduling::Vcpu,
        profile: CpuProfile::Host,
    };
    assert_eq!(cpus, want);
    assert_eq!(CpusConfig::from_flag("boot=2,max=8").unwrap().max_vcpus, 8);
    for (text, want) in [
        ("boot=x", "Error parsing --cpus -> Unable to convert x for boot"),
        ("boot_vcpus=1", "Error parsing --cpus -> Unknown option: boot_vcpus"),
        ("boot=1,features=[sse9]", "Invalid feature in --cpus features list: sse9"),
        ("boot=1,topology=1:1:1", "Error parsing --cpus -> Unable to convert 1:1:1 for topology"),
        ("boot=1,profile=host", "Error parsing --cpus -> Unable to convert host for profile"),
        ("boot=1,core_scheduling=x", "Error parsing --cpus -> Unable to convert x for core_scheduling"),
        ("boot", "Error parsing --cpus -> Invalid syntax: boot"),
    ] {
        assert_eq!(refused(CpusConfig::from_flag(text)), want);
    }
}

#[test]
fn memory_and_zones() {
    let memory =
        MemoryConfig::from_flag("shared=on,file=/dev/shm,hotplug_method=VIRTIO-mem,hotplug_size=1G").unwrap();
    assert_eq!((memory.size, memory.shared, memory.thp), (512 << 20, true, true));
    assert_eq!((memory.hotplug_method, memory.hotplug_size), (HotplugMethod::VirtioMem, Some(1 << 30)));
    let default = MemoryConfig::default();
    assert_eq!(
        refused(MemoryZoneConfig::from_flag("size=1G", &default)),
        "Error parsing --memory-zone: id missing"
    );
    assert_eq!(
        refused(MemoryConfig::from_flag("size=1T")),
        "Error parsing --memory -> Unable to convert 1T for size"
    );
    assert_eq!(
        refused(MemoryConfig::from_flag("zones=a")),
        "Error parsing --memory -> Unknown option: zones"
    );
}

#[test]
fn disks() {
    let text = "path=\"/a,b\",readonly=on,direct=on,num_queues=2,queue_size=64,bw_size=1,bw_refill_time=2,\
         ops_size=3,ops_one_time_burst=4,ops_refill_time=5,_disable_io_uring=on,_disable_aio=on,serial=s,\
         queue_affinity=[0@[1,2]],backing_files=on,sparse=off,image_type=QCOW2,lock_granularity=full,id=d,iommu=on,\
         pci_segment=1,pci_device_id=5";
    let disk = DiskConfig::from_flag(text).unwrap();
    assert_eq!(disk.path.as_deref(), Some(Path::new("/a,b")));
    assert!(disk.readonly && disk.direct && disk.disable_io_uring && disk.disable_aio && disk.backing_files);
    assert!(!disk.sparse && !disk.vhost_user);
    assert_eq!((disk.image_type, disk.lock_granularity), (ImageType::Qcow2, LockGranularity::Full));
    assert_eq!(disk.queue_affinity, Some(vec![QueueAffinity { queue_index: 0, host_cpus: vec![1, 2] }]));
    let limits = disk.rate_limiter_config.unwrap();
    assert_eq!(limits.bandwidth, Some(TokenBucketConfig { size: 1, one_time_burst: None, refill_time: 2 }));
    assert_eq!(limits.ops, Some(TokenBucketConfig { size: 3, one_time_burst: Some(4), refill_time: 5 }));
    let pci = PciCommon { id: Some("d".into()), iommu: true, pci_segment: 1, pci_device_id: Some(5) };
    assert_eq!(disk.pci, pci);

    let plain = DiskConfig::from_flag("path=/a").unwrap();
    assert_eq!(plain, DiskConfig::from(Disk { path: Some("/a".into()), ..Disk::default() }));
    let vhost = DiskConfig::from_flag("vhost_user=on,socket=/s,image_type=raw").unwrap();
    assert_eq!((vhost.vhost_socket.as_deref(), vhost.image_type), (Some("/s"), ImageType::Unknown));
    assert_eq!(
        DiskConfig::from_flag("path=/a,bw_size=1,ops_refill_time=1").unwrap().rate_limiter_config,
        None
    );
    for (text, want) in [
        ("pth=/a", "Unknown option: pth"),
        ("vhost_socket=/a", "Unknown option: vhost_socket"),
        ("rate_limiter_config=x", "Unknown option: rate_limiter_config"),
        ("path=/a,lock_granularity=FULL", "Unable to convert FULL for lock_granularity"),
        ("path=/a,image_type=FlatVmdk", "Unable to convert FlatVmdk for image_type"),
        ("path=/a,pci_device_id=256", "Unable to convert 256 for pci_device_id"),
        ("path=/a,ops_size=1K", "Unable to convert 1K for ops_size"),
    ] {
        assert_eq!(refused(DiskConfig::from_flag(text)), format!("Error parsing --disk -> {want}"));
    }
}

#[test]
fn nets() {
    let net = NetConfig::from_flag(
        "ip=fe80::1,mask=ffff::,mac=2E:00:00:00:00:0a,mtu=1500,fd=[3,4],num_queues=4,vhost_mode=Server,\
         offload_tso=off,ops_size=1,ops_refill_time=1",
    )
    .unwrap();
    assert_eq!(net.fds, Some(vec![3, 4]), "the command line's descriptors are real");
    assert_eq!((net.ip, net.mask), (Some("fe80::1".parse().unwrap()), Some("ffff::".parse().unwrap())));
    assert_eq!(net.mac.map(|mac| mac.to_string()).as_deref(), Some("2e:00:00:00:00:0a"));
    assert_eq!((net.vhost_mode, net.offload_tso, net.offload_ufo), (VhostMode::Server, false, true));
    assert!(net.rate_limiter_config.is_some());
    assert_eq!(NetConfig::from_flag("").unwrap(), NetConfig::default());
    assert_eq!(NetConfig::from_flag("fd=3").unwrap().fds, Some(vec![3]));
    for (text, want) in [
        ("ip=10.0.0", "Unable to convert 10.0.0 for ip"),
        ("mac=x", "Unable to convert x for mac"),
        ("fds=[3]", "Unknown option: fds"),
        ("socket", "Invalid syntax: socket"),
    ] {
        assert_eq!(refused(NetConfig::from_flag(text)), format!("Error parsing --net -> {want}"));
    }
}

#[test]
fn consoles() {
    let serial = |text| SerialConfig::from_flag(text).map(|c| (c.mode, c.file, c.socket));
    assert_eq!(serial("off").unwrap().0, ConsoleMode::Off);
    assert_eq!(serial("pty").unwrap().0, ConsoleMode::Pty);
    assert_eq!(serial("tty").unwrap().0, ConsoleMode::Tty);
    assert_eq!(serial("null").unwrap().0, ConsoleMode::Null);
    assert_eq!(serial("file=/f").unwrap(), (ConsoleMode::File, Some("/f".into()), None));
    assert_eq!(serial("socket=/s").unwrap(), (ConsoleMode::Socket, None, Some("/s".into())));
    assert_eq!(serial("null,tty,pty").unwrap().0, ConsoleMode::Pty);
    assert_eq!(serial("file=/f,null").unwrap().0, ConsoleMode::Null);
    assert_eq!(serial("socket=/s,file=/f").unwrap().0, ConsoleMode::File);
    let console = ConsoleConfig::from_flag("file=/f,iommu=on,pci_device_id=3").unwrap();
    assert_eq!(
        (console.mode, console.pci.iommu, console.pci.pci_device_id),
        (ConsoleMode::File, true, Some(3))
    );
    assert_eq!(ConsoleConfig::from_flag("tty").unwrap(), VmConfig::default().console);
    assert_eq!(ConsoleConfig::from_flag("socket=/s").unwrap().mode, ConsoleMode::Socket);
    let debug = |text| DebugConsoleConfig::from_flag(text);
    assert_eq!(debug("off,iobase=0xe9").unwrap(), DebugConsoleConfig::default());
    assert_eq!(debug("off").unwrap().iobase, Some(0xe9));
    assert_eq!(debug("file=/f,iobase=0x402").unwrap().iobase, Some(0x402));

    let port = "The IO port was not properly provided in hex or a `0x` prefix is missing: ";
    assert_eq!(refused(debug("tty,iobase=233")), format!("{port}233"));
    assert_eq!(refused(debug("tty,iobase=0x12345")), format!("{port}0x12345"));
    assert_eq!(refused(debug("socket=/s")), "Error parsing --debug-console -> Unknown option: socket");
    assert_eq!(refused(ConsoleConfig::from_flag("")), "Error parsing --console: invalid console mode given");
    assert_eq!(refused(serial("iommu=on")), "Error parsing --serial -> Unknown option: iommu");
    assert_eq!(refused(serial("file=")), "Error parsing --serial: invalid console mode given");
    assert_eq!(refused(serial("raw")), "Error parsing --serial -> Unknown option: raw");
}

#[test]
fn one_line_devices() {
    assert_eq!(RngConfig::from_flag("iommu=on").unwrap().src, Path::new("/dev/urandom"));
    assert_eq!(RtcConfig::from_flag("").unwrap(), RtcConfig::default());
    assert_eq!(RtcConfig::from_flag("pci_device_id=4").unwrap().pci.pci_device_id, Some(4));
    assert_eq!(BalloonConfig::from_flag("").unwrap().size, 0);
    assert_eq!(BalloonConfig::from_flag("size=1G,deflate_on_oom=on").unwrap().size, 1 << 30);
    assert_eq!(PmemConfig::from_flag("file=/f,size=2M").unwrap().size, Some(2 << 20));
    assert_eq!(FsConfig::from_flag("tag=t,socket=/s").unwrap().queue_size, 1024);
    assert_eq!(VsockConfig::from_flag("cid=3,socket=/s").unwrap().cid, 3);
    assert_eq!(VdpaConfig::from_flag("path=/p").unwrap().num_queues, 1);
    assert_eq!(IvshmemConfig::from_flag("path=/p").unwrap().size, 128 << 20);
    assert_eq!(TpmConfig::from_flag("socket=/s").unwrap().socket, Path::new("/s"));
    assert_eq!(UserDeviceConfig::from_flag("socket=/s,id=u").unwrap().pci.id.as_deref(), Some("u"));
    assert_eq!(PciSegmentConfig::from_flag("pci_segment=1").unwrap().mmio32_aperture_weight, 1);
    assert_eq!(LandlockConfig::from_flag("path=/p,access=rw").unwrap().access, "rw");
    let device = DeviceConfig::from_flag("fd=5,x_nv_gpudirect_clique=1,x_exclude_mmap_bars=[0,2-3]").unwrap();
    assert_eq!((device.fd, device.x_exclude_mmap_bars.as_slice()), (Some(5), &[0, 2, 3][..]));
    let group = RateLimiterGroupConfig::from_flag("id=g,bw_size=1,bw_refill_time=1").unwrap();
    assert_eq!(group.rate_limiter_config.bandwidth.map(|bucket| bucket.size), Some(1));
    let numa = NumaConfig::from_flag(
        "guest_numa_id=1,cpus=[0-3],distances=[1@15,2@25],memory_zones=[mem0],pci_segments=[0],device_id=v",
    )
    .unwrap();
    assert_eq!(numa.cpus, Some(vec![0, 1, 2, 3]));
    assert_eq!(numa.distances.unwrap()[1], NumaDistance { destination: 2, distance: 25 });
    let platform = PlatformConfig::from_flag(
        "num_pci_segments=2,iommu_segments=[1],iommu_address_width=48,serial_number=s,uuid=u,oem_strings=[a,b],\
         iommufd_fd=5",
    )
    .unwrap();
    assert!(platform.iommufd, "implied by the descriptor");
    assert_eq!((platform.iommufd_fd, platform.iommu_address_width_bits), (Some(5), 48));
    assert_eq!(platform.oem_strings, Some(vec!["a".into(), "b".into()]));
    assert_eq!(
        (platform.system_serial_number.as_deref(), platform.system_uuid.as_deref()),
        (Some("s"), Some("u"))
    );
}

#[test]
fn what_one_line_devices_refuse() {
    let long = format!("tag={},socket=/s", "t".repeat(37));
    let rows = [
        (refused(FsConfig::from_flag(&long)), "Error parsing --fs: max tag length is 36"),
        (refused(FsConfig::from_flag("socket=/s")), "Error parsing --fs: tag missing"),
        (refused(FsConfig::from_flag("tag=t,iommu=on")), "Error parsing --fs -> Unknown option: iommu"),
        (
            refused(UserDeviceConfig::from_flag("socket=/s,iommu=on")),
            "Error parsing --user-device -> Unknown option: iommu",
        ),
        (refused(IvshmemConfig::from_flag("iommu=on")), "Error parsing --ivshmem -> Unknown option: iommu"),
        (refused(VsockConfig::from_flag("socket=/s")), "Error parsing --vsock: cid missing"),
        (refused(PmemConfig::from_flag("")), "Error parsing --pmem: file missing"),
        (
            refused(LandlockConfig::from_flag("path=/p,access=rwr")),
            "Error parsing --landlock-rules -> Invalid value: rwr",
        ),
        (
            refused(NumaConfig::from_flag("guest_numa_id=0,distances=1@2")),
            "Error parsing --numa -> Unable to convert 1@2 for distances",
        ),
    ];
    for (got, want) in rows {
        assert_eq!(got, want);
    }
}

#[test]
fn generic_vhost_user_types() {
    let read = |word: &str| {
        let text = format!("device_type={word},socket=/s,queue_sizes=[128,64]");
        GenericVhostUserConfig::from_flag(&text).map(|device| device.device_type)
    };
    for (word, number) in [("net", 1), ("fs", 26), ("usb", 49), ("9p", 9), ("26", 26), ("1000", 1000)] {
        assert_eq!(read(word).unwrap(), number, "{word}");
    }
    for word in ["watchdog", "iommu", "35", "23", "026", "+3", "FS", "x"] {
        let want = format!("Error parsing --generic-vhost-user -> Unable to convert {word} for device_type");
        assert_eq!(refused(read(word)), want);
    }
    let old = GenericVhostUserConfig::from_flag("virtio_id=26,socket=/s,queue_sizes=[2]").unwrap();
    assert_eq!((old.device_type, old.queue_sizes.as_slice()), (26, &[2][..]));
}

#[test]
fn fw_cfg_items() {
    let config = FwCfgConfig::from_flag("acpi_table=off,items=[name=n,file=/p:name=n2,string=s]").unwrap();
    assert!(!config.acpi_tables && config.e820);
    let items = config.items.unwrap().item_list;
    assert_eq!((items[0].name.as_str(), items[0].file.as_deref()), ("n", Some(Path::new("/p"))));
    assert_eq!((items[1].name.as_str(), items[1].string.as_deref()), ("n2", Some("s")));
    assert!(FwCfgConfig::from_flag("items=[nme=n]").is_err());
}

#[test]
fn a_problem_is_a_chain_of_errors() {
    let default = chain(&check(VmConfig::default()).unwrap_err());
    assert_eq!(default.split(" -> ").next(), Some("Error validating configuration"));
    assert!(plan_of("").unbuilt().is_empty());
}

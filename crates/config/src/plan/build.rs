//! From a checked wire form to the parts of a plan. Nothing here can fail: the check has been before.

use super::{Cpus, Device, DeviceKind, Mem, Memory, NumaNode, Pages, Place, Segment, Topology, Zone};
use crate::consoles::ConsoleMode;
use crate::cpus::CpusConfig;
use crate::devices;
use crate::mac::MacAddr;
use crate::memory::{HotplugMethod, MemoryConfig, MemoryZoneConfig, WHOLE};
use crate::small::PciSegmentConfig;
use crate::vm::VmConfig;

pub(super) fn cpus(config: &CpusConfig) -> Cpus {
    let topology = match config.topology {
        Some(t) => Topology {
            threads_per_core: t.threads_per_core,
            cores_per_die: t.cores_per_die,
            dies_per_package: t.dies_per_package,
            packages: t.packages,
        },
        None => Topology {
            threads_per_core: 1,
            cores_per_die: u16::try_from(config.max_vcpus).unwrap_or(u16::MAX),
            dies_per_package: 1,
            packages: 1,
        },
    };
    let affinity = config.affinity.iter().flatten();
    Cpus {
        boot: config.boot_vcpus,
        max: config.max_vcpus,
        topology,
        max_phys_bits: config.max_phys_bits,
        nested: config.nested,
        kvm_hyperv: config.kvm_hyperv,
        amx: config.features.amx,
        core_scheduling: config.core_scheduling,
        affinity: affinity.map(|one| (one.vcpu, one.host_cpus.clone())).collect(),
    }
}

pub(super) fn memory(config: &MemoryConfig) -> Memory {
    let zones: Vec<Zone> = config.zones.iter().flatten().map(|zone| self::zone(zone, config.thp)).collect();
    let (room, more) = match (config.hotplug_method, config.hotplug_size.unwrap_or(0)) {
        (HotplugMethod::VirtioMem, size) => (size, 0),
        (HotplugMethod::Acpi, size) => (0, size),
    };
    if !zones.is_empty() {
        return Memory { zones, more: 0 };
    }
    let whole = Zone {
        id: WHOLE.into(),
        size: config.size,
        room,
        shared: config.shared,
        pages: pages(config.hugepages, config.hugepage_size, config.thp),
        file: None,
        host_numa_node: None,
        mergeable: config.mergeable,
        prefault: config.prefault,
        reserve: config.reserve,
    };
    Memory { zones: vec![whole], more }
}

fn zone(config: &MemoryZoneConfig, thp: bool) -> Zone {
    Zone {
        id: config.id.clone(),
        size: config.size,
        room: config.hotplug_size.unwrap_or(0),
        shared: config.shared,
        pages: pages(config.hugepages, config.hugepage_size, thp),
        file: config.file.clone(),
        host_numa_node: config.host_numa_node,
        mergeable: config.mergeable,
        prefault: config.prefault,
        reserve: config.reserve,
    }
}

fn pages(huge: bool, size: Option<u64>, thp: bool) -> Pages {
    if huge { Pages::Huge { size } } else { Pages::Normal { thp } }
}

/// The devices that plug RAM, by the zones that they do it for.
pub(super) fn memory_devices(config: &MemoryConfig, nodes: &[NumaNode]) -> Vec<Device> {
    let node =
        |id: &str| nodes.iter().find(|node| node.zones.iter().any(|zone| zone == id)).map(|node| node.id);
    let all = [(WHOLE, config.hotplug_size, config.hotplugged_size)].into_iter();
    let all = all.filter(|_| config.zones.as_ref().is_none_or(Vec::is_empty));
    let zones = config.zones.iter().flatten();
    all.chain(zones.map(|zone| (zone.id.as_str(), zone.hotplug_size, zone.hotplugged_size)))
        .filter(|(_, room, _)| room.is_some() && config.hotplug_method == HotplugMethod::VirtioMem)
        .map(|(id, _, plugged)| {
            let kind = DeviceKind::Mem(Mem { requested: plugged.unwrap_or(0), node: node(id) });
            Device { id: id.into(), place: Place { segment: 0, device: None, iommu: false }, kind }
        })
        .collect()
}

/// What is asked for in vain.
pub(super) fn warnings(config: &VmConfig) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(payload) = config.payload.as_ref().filter(|payload| payload.firmware.is_some()) {
        let ignored = [("cmdline", payload.cmdline.is_some()), ("initramfs", payload.initramfs.is_some())];
        for (name, _) in ignored.into_iter().filter(|(_, given)| *given) {
            warnings.push(format!("payload.{name} is ignored: firmware does not use it"));
        }
    }
    let memory = &config.memory;
    let has_zones = memory.zones.as_ref().is_some_and(|zones| !zones.is_empty());
    if has_zones && memory.hotplug_size.is_some() {
        warnings.push(
            "memory.hotplug_size is ignored: zones have their own, with hotplug_method=virtio-mem".into(),
        );
    }
    let modes = [config.serial.mode, config.console.mode, config.debug_console.mode];
    if modes.into_iter().filter(|mode| *mode == ConsoleMode::Tty).count() > 1 {
        warnings.push("several consoles use the terminal: their output mixes".into());
    }
    warnings
}

/// Fills in what the user left open. `next_id` counts over all kinds of device; the next number comes out.
pub(super) fn normalise(config: &mut VmConfig, next_id: u32) -> u32 {
    if let Some(payload) = config.payload.as_mut().filter(|payload| payload.firmware.is_some()) {
        payload.cmdline = None;
        payload.initramfs = None;
    }
    for net in config.net.iter_mut().flatten() {
        net.mac.get_or_insert_with(MacAddr::random);
    }
    let segments = config.platform().iommu_segments.as_ref().is_some_and(|segments| !segments.is_empty());
    config.iommu = config.iommu || segments || devices::want_iommu(config);
    devices::name(config, next_id)
}

/// Each segment's shares: 1 where no section says otherwise.
pub(super) fn segments(config: &VmConfig) -> Vec<Segment> {
    let section = |number| config.pci_segments.iter().flatten().find(|section| section.pci_segment == number);
    let shares = |number| {
        let PciSegmentConfig { mmio32_aperture_weight: memory32, mmio64_aperture_weight: memory64, .. } =
            section(number).copied().unwrap_or_default();
        Segment { memory32, memory64 }
    };
    (0..config.platform().num_pci_segments).map(shares).collect()
}

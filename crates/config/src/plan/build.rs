//! From a checked wire form to the parts of a plan. Nothing here can fail: the check has been before.

use std::collections::HashSet;

use super::{Cpus, Memory, Pages, Topology, Zone};
use crate::consoles::ConsoleMode;
use crate::cpus::CpusConfig;
use crate::mac::MacAddr;
use crate::memory::{MemoryConfig, MemoryZoneConfig};
use crate::pci::{PciCommon, Placed};
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
            cores_per_die: u16::try_from(config.boot_vcpus).unwrap_or(u16::MAX),
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
        affinity: affinity.map(|one| (one.vcpu, one.host_cpus.clone())).collect(),
    }
}

pub(super) fn memory(config: &MemoryConfig) -> Memory {
    let zones: Vec<Zone> = config.zones.iter().flatten().map(|zone| self::zone(zone, config.thp)).collect();
    if !zones.is_empty() {
        return Memory { zones };
    }
    let whole = Zone {
        id: "mem0".into(),
        size: config.size,
        shared: config.shared,
        pages: pages(config.hugepages, config.hugepage_size, config.thp),
        file: None,
        host_numa_node: None,
        mergeable: config.mergeable,
        prefault: config.prefault,
        reserve: config.reserve,
    };
    Memory { zones: vec![whole] }
}

fn zone(config: &MemoryZoneConfig, thp: bool) -> Zone {
    Zone {
        id: config.id.clone(),
        size: config.size,
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

/// What is asked for in vain.
pub(super) fn warnings(config: &VmConfig) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(payload) = config.payload.as_ref().filter(|payload| payload.firmware.is_some()) {
        let ignored = [("cmdline", payload.cmdline.is_some()), ("initramfs", payload.initramfs.is_some())];
        for (name, _) in ignored.into_iter().filter(|(_, given)| *given) {
            warnings.push(format!("payload.{name} is ignored: firmware does not use it"));
        }
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
    config.iommu = config.iommu || wants_iommu(config);
    name(config, next_id)
}

fn wants_iommu(config: &VmConfig) -> bool {
    let segments = config.platform().iommu_segments.as_ref().is_some_and(|segments| !segments.is_empty());
    segments || placed(config).any(|pci| pci.iommu)
}

/// Id and place of every device that has a section.
fn placed(config: &VmConfig) -> impl Iterator<Item = &PciCommon> {
    fn list<T>(devices: Option<&Vec<Placed<T>>>) -> impl Iterator<Item = &PciCommon> {
        devices.into_iter().flatten().map(|device| &device.pci)
    }
    let singles = [Some(&config.rng.pci), Some(&config.console.pci)].into_iter().flatten();
    singles
        .chain(config.rtc.as_ref().map(|rtc| &rtc.pci))
        .chain(config.balloon.as_ref().map(|balloon| &balloon.pci))
        .chain(config.ivshmem.as_ref().map(|ivshmem| &ivshmem.pci))
        .chain(config.vsock.as_ref().map(|vsock| &vsock.pci))
        .chain(list(config.disks.as_ref()))
        .chain(list(config.net.as_ref()))
        .chain(list(config.generic_vhost_user.as_ref()))
        .chain(list(config.fs.as_ref()))
        .chain(list(config.pmem.as_ref()))
        .chain(list(config.vdpa.as_ref()))
        .chain(list(config.devices.as_ref()))
        .chain(list(config.user_devices.as_ref()))
}

/// The ids of all those devices.
pub(super) fn ids(config: &VmConfig) -> impl Iterator<Item = &str> {
    placed(config).filter_map(|pci| pci.id.as_deref())
}

/// Generates ids, one counter for all prefixes.
struct Namer {
    taken: HashSet<String>,
    next: u32,
}

impl Namer {
    fn name(&mut self, prefix: &str, pci: &mut PciCommon) {
        while pci.id.is_none() {
            let id = format!("{prefix}{}", self.next);
            self.next = self.next.wrapping_add(1);
            if self.taken.insert(id.clone()) {
                pci.id = Some(id);
            }
        }
    }

    fn name_all<T>(&mut self, prefix: &str, devices: &mut Option<Vec<Placed<T>>>) {
        for device in devices.iter_mut().flatten() {
            self.name(prefix, &mut device.pci);
        }
    }
}

fn name(config: &mut VmConfig, next: u32) -> u32 {
    let zones = config.memory.zones.iter().flatten().map(|zone| zone.id.clone());
    let taken = ids(config).map(str::to_owned).chain(zones).collect();
    let mut namer = Namer { taken, next };
    namer.name_all("_disk", &mut config.disks);
    namer.name_all("_net", &mut config.net);
    namer.name_all("_generic_vhost_user", &mut config.generic_vhost_user);
    namer.name_all("_fs", &mut config.fs);
    namer.name_all("_pmem", &mut config.pmem);
    if let Some(vsock) = &mut config.vsock {
        namer.name("_vsock", &mut vsock.pci);
    }
    namer.name_all("_vdpa", &mut config.vdpa);
    namer.name_all("_vfio", &mut config.devices);
    namer.name_all("_vfio_user", &mut config.user_devices);
    namer.next
}

/// Takes the device `id` out; false if there is none that can be removed.
pub(super) fn remove(config: &mut VmConfig, id: &str) -> bool {
    fn take<T>(devices: &mut Option<Vec<Placed<T>>>, id: &str) -> bool {
        let Some(list) = devices else { return false };
        let before = list.len();
        list.retain(|device| device.pci.id.as_deref() != Some(id));
        list.len() < before
    }
    let vsock = config.vsock.take_if(|vsock| vsock.pci.id.as_deref() == Some(id));
    vsock.is_some()
        || take(&mut config.disks, id)
        || take(&mut config.net, id)
        || take(&mut config.generic_vhost_user, id)
        || take(&mut config.fs, id)
        || take(&mut config.pmem, id)
        || take(&mut config.vdpa, id)
        || take(&mut config.devices, id)
        || take(&mut config.user_devices, id)
}

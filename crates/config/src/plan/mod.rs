//! The plan: a configuration that has been checked, in the types the machine is built from.
//!
//! A plan exists only as the result of [`crate::check()`], directly or through [`Plan::check_more`]; nothing
//! after it validates again.

mod build;
mod grants;
mod numa;
mod parts;
mod resize;
mod topology;

pub use numa::NumaNode;
pub use parts::{
    Balloon, Console, Cpus, Device, DeviceKind, Disk, Mem, Memory, Net, Pages, Payload, Place, Pvpanic, Rng,
    Segment, Smbios, Stream, Vsock, Watchdog, Zone,
};
pub use sandbox::{Access, Grant};
pub use topology::Topology;

use crate::check::{Former, Problem, ProblemKind, Problems, check_from};
use crate::devices;
use crate::disk::DiskConfig;
use crate::net::NetConfig;
use crate::small::PmemConfig;
use crate::sockets::{FsConfig, GenericVhostUserConfig, UserDeviceConfig, VdpaConfig, VsockConfig};
use crate::unbuilt;
use crate::vfio::DeviceConfig;
use crate::vm::VmConfig;

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Virtual CPUs.
    pub cpus: Cpus,
    /// Guest RAM.
    pub memory: Memory,
    /// What it boots.
    pub payload: Payload,
    /// First serial port.
    pub serial: Stream,
    /// Devices in PCI slots, in the order in which slots are given out.
    pub devices: Vec<Device>,
    /// Strings of the SMBIOS tables.
    pub smbios: Smbios,
    /// PCI segments, 1 to 96, by number.
    pub pci_segments: Vec<Segment>,
    /// NUMA nodes, in ascending order; none if the guest is not told of any.
    pub numa: Vec<NumaNode>,
    config: VmConfig,
    unbuilt: Vec<String>,
    warnings: Vec<String>,
    former: Former,
}

/// A section to add to a plan: one for each add verb.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of the sections")]
pub enum Extra {
    Disk(DiskConfig),
    Net(NetConfig),
    Fs(FsConfig),
    GenericVhostUser(GenericVhostUserConfig),
    Pmem(PmemConfig),
    Vdpa(VdpaConfig),
    Vsock(VsockConfig),
    Device(DeviceConfig),
    UserDevice(UserDeviceConfig),
}

impl Plan {
    /// The wire form with everything filled in: ids, MAC addresses, `iommu`.
    pub fn config(&self) -> &VmConfig {
        &self.config
    }

    /// Sections and fields that are asked for and that nothing builds yet.
    pub fn unbuilt(&self) -> &[String] {
        &self.unbuilt
    }

    /// The files that the machine may use, if it is to be confined to them.
    pub fn grants(&self) -> Option<Vec<Grant>> {
        self.config.landlock_enable.then(|| grants::list(&self.config))
    }

    /// What was asked for and is not done, or does not do what it seems to.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The plan with one section more, checked as a whole, and the new device's id.
    ///
    /// # Errors
    /// All problems of the whole.
    pub fn check_more(&self, extra: Extra) -> Result<(Self, String), Problems> {
        let mut config = self.config.clone();
        match extra {
            Extra::Disk(disk) => config.disks.get_or_insert_default().push(disk),
            Extra::Net(net) => config.net.get_or_insert_default().push(net),
            Extra::Fs(fs) => config.fs.get_or_insert_default().push(fs),
            Extra::GenericVhostUser(device) => config.generic_vhost_user.get_or_insert_default().push(device),
            Extra::Pmem(pmem) => config.pmem.get_or_insert_default().push(pmem),
            Extra::Vdpa(vdpa) => config.vdpa.get_or_insert_default().push(vdpa),
            Extra::Device(device) => config.devices.get_or_insert_default().push(device),
            Extra::UserDevice(device) => config.user_devices.get_or_insert_default().push(device),
            Extra::Vsock(_) if config.vsock.is_some() => return Err(second_vsock()),
            Extra::Vsock(vsock) => config.vsock = Some(vsock),
        }
        let more = check_from(config, self.former)?.after(self);
        let known = devices::ids(&self.config);
        let new = devices::ids(&more.config).into_iter().find(|id| !known.contains(id));
        Ok((more, new.unwrap_or_default()))
    }

    /// The plan without a device, checked as a whole; `None` if no removable section has that id.
    ///
    /// # Errors
    /// All problems of what is left.
    pub fn check_less(&self, id: &str) -> Option<Result<Self, Problems>> {
        let mut config = self.config.clone();
        devices::remove(&mut config, id).then(|| check_from(config, self.former).map(|less| less.after(self)))
    }

    /// Notes which slot the device `id` has got, so that it gets the same one whenever the machine is built again.
    pub fn settle(&mut self, id: &str, slot: u8) {
        if let Some(device) = self.devices.iter_mut().find(|device| device.id == id) {
            device.place.device = Some(slot);
        }
    }

    /// The plan with the slots that devices have in `former`, but for those that a user has chosen for another device now.
    fn after(mut self, former: &Self) -> Self {
        let chosen: Vec<Place> = self.devices.iter().map(|device| device.place).collect();
        for Device { id, place, .. } in &former.devices {
            let Some(slot) = place.device else { continue };
            if !chosen.iter().any(|other| (other.segment, other.device) == (place.segment, Some(slot))) {
                self.settle(id, slot);
            }
        }
        self
    }

    /// Builds from a configuration that has no problems.
    pub(crate) fn build(mut config: VmConfig, payload: Payload, former: Former) -> Self {
        let mut warnings = build::warnings(&config);
        let former = Former { next_id: build::normalise(&mut config, former.next_id), ..former };
        warnings.extend(crate::numa::warnings(&config));
        let platform = config.platform().into_owned();
        let numa = numa::nodes(config.numa.as_deref().unwrap_or_default());
        Self {
            cpus: build::cpus(&config.cpus),
            memory: build::memory(&config.memory),
            payload,
            serial: config.serial.plan(),
            devices: devices::plan(&config, build::memory_devices(&config.memory, &numa)),
            smbios: platform.smbios(),
            pci_segments: build::segments(&config),
            numa,
            unbuilt: unbuilt::list(&config),
            config,
            warnings,
            former,
        }
    }
}

fn second_vsock() -> Problems {
    Problems::one(Problem {
        path: "vsock".into(),
        kind: ProblemKind::Duplicate,
        outer: None,
        text: "Too many virtio-vsock devices".into(),
        hint: "remove the vsock device first".into(),
    })
}

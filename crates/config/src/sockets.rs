//! Devices whose other half is another process: fs, generic vhost-user, vsock, vDPA, vfio-user, ivshmem
//! (`spec/config.md` §8).

use std::path::{Path, PathBuf};

use keyval::Syntax;
use serde::{Deserialize, Deserializer, Serialize};

use crate::check::Scope;
use crate::devices::{Name, Section};
use crate::flag::{self, FlagError};
use crate::pci::Placed;
use crate::plan::{self, Access, DeviceKind, Grant};
use crate::queues;
use crate::words::{self, UnknownWord};

/// Bytes of a virtio-fs tag.
const TAG_LIMIT: usize = 36;

/// A shared directory.
pub type FsConfig = Placed<Fs>;

/// A shared directory's own fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Fs {
    /// The name the guest mounts.
    pub tag: String,
    /// virtiofsd's socket.
    pub socket: PathBuf,
    /// Request queues, from 1.
    #[serde(default = "one_queue")]
    pub num_queues: usize,
    /// Descriptors per queue: a power of 2.
    #[serde(default = "fs_queue_size")]
    pub queue_size: u16,
}

fn one_queue() -> usize {
    1
}

fn fs_queue_size() -> u16 {
    1024
}

impl FsConfig {
    /// Options of `--fs`.
    pub const SYNTAX: Syntax = Syntax::new(
        "tag=<tag_name>,socket=<path>,num_queues=<number>,queue_size=<descriptors>,id=<device_id>,\
         pci_segment=<segment_id>,pci_device_id=<slot>",
    );

    /// Reads one `--fs`.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        let flag = "--fs";
        let fs: Self = flag::read(flag, &Self::SYNTAX, text)?;
        if fs.tag.len() > TAG_LIMIT {
            return Err(FlagError::Rule { flag, text: "max tag length is 36" });
        }
        Ok(fs)
    }

    pub(crate) fn check(&self, at: &mut Scope<'_, '_>) {
        queues::check_shared_memory(at, "");
        queues::check_count(at, self.num_queues, self.num_queues);
        queues::check_size(at, "queue_size", self.queue_size);
        self.pci.check_no_iommu(at);
        at.place(&self.pci);
    }
}

impl Section for Fs {
    fn name(&self) -> Name {
        Name::Prefix("_fs")
    }

    fn paths(&self) -> Vec<(&'static str, &Path)> {
        vec![("socket", &self.socket)]
    }

    fn grants(&self) -> Vec<Grant> {
        vec![Grant::new(&self.socket, Access::ReadWrite)]
    }
}

/// Any virtio device in another process.
pub type GenericVhostUserConfig = Placed<GenericVhostUser>;

/// A generic vhost-user device's own fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GenericVhostUser {
    /// The back end's socket.
    pub socket: PathBuf,
    /// Descriptors of each queue: powers of 2.
    pub queue_sizes: Vec<u16>,
    /// virtio device type.
    #[serde(deserialize_with = "device_type")]
    pub device_type: u32,
}

/// Names of virtio device types on the command line. `iommu` (23) and `watchdog` (35) are refused.
const DEVICE_TYPES: [(&str, u32); 45] = [
    ("net", 1),
    ("block", 2),
    ("console", 3),
    ("rng", 4),
    ("balloon", 5),
    ("iomem", 6),
    ("rpmsg", 7),
    ("scsi", 8),
    ("9p", 9),
    ("mac80211_wlan", 10),
    ("rproc_serial", 11),
    ("caif", 12),
    ("memory_balloon", 13),
    ("gpu", 16),
    ("clock", 17),
    ("input", 18),
    ("vsock", 19),
    ("crypto", 20),
    ("signal_dist", 21),
    ("pstore", 22),
    ("mem", 24),
    ("sound", 25),
    ("fs", 26),
    ("pmem", 27),
    ("rpmb", 28),
    ("mac80211_hwsim", 29),
    ("video_encoder", 30),
    ("video_decoder", 31),
    ("scmi", 32),
    ("nitro_sec_mod", 33),
    ("i2c", 34),
    ("can", 36),
    ("dmabuf", 37),
    ("param_serv", 38),
    ("audio_policy", 39),
    ("bt", 40),
    ("gpio", 41),
    ("rdma", 42),
    ("camera", 43),
    ("ism", 44),
    ("spi", 45),
    ("tee", 46),
    ("cpu_balloon", 47),
    ("media", 48),
    ("usb", 49),
];

fn device_type<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    keyval::parsed_by(from, |text| {
        let number = text.parse().ok().filter(|_| !text.starts_with(['0', '+']));
        let refused = matches!(number, Some(23 | 35));
        match number.filter(|_| !refused) {
            Some(number) => Ok(number),
            None if refused => Err(UnknownWord(text.to_owned())),
            None => words::exact(text, &DEVICE_TYPES),
        }
    })
}

impl GenericVhostUserConfig {
    /// Options of `--generic-vhost-user`.
    pub const SYNTAX: Syntax = Syntax::new(
        "device_type=<name or number>,socket=<path>,queue_sizes=<list of descriptors>,id=<device_id>,\
         pci_segment=<segment_id>,pci_device_id=<slot>",
    )
    .hidden(&["virtio_id"])
    .renamed(&[("virtio_id", "device_type")]);

    /// Reads one `--generic-vhost-user`.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        flag::read("--generic-vhost-user", &Self::SYNTAX, text)
    }

    pub(crate) fn check(&self, at: &mut Scope<'_, '_>) {
        queues::check_shared_memory(at, "");
        self.pci.check_no_iommu(at);
        for (i, size) in self.queue_sizes.iter().enumerate() {
            queues::check_size(at, &format!("queue_sizes[{i}]"), *size);
        }
        at.place(&self.pci);
    }
}

impl Section for GenericVhostUser {
    fn name(&self) -> Name {
        Name::Prefix("_generic_vhost_user")
    }

    fn paths(&self) -> Vec<(&'static str, &Path)> {
        vec![("socket", &self.socket)]
    }

    fn grants(&self) -> Vec<Grant> {
        vec![Grant::new(&self.socket, Access::ReadWrite)]
    }
}

/// The virtual socket device.
pub type VsockConfig = Placed<Vsock>;

/// The virtual socket device's own fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Vsock {
    /// The guest's address, from 3.
    pub cid: u32,
    /// The host side's socket.
    pub socket: PathBuf,
}

impl VsockConfig {
    /// Options of `--vsock`.
    pub const SYNTAX: Syntax = Syntax::new(
        "cid=<context_id>,socket=<path>,iommu=on|off,id=<device_id>,pci_segment=<segment_id>,pci_device_id=<slot>",
    );

    /// Reads `--vsock`.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        flag::read("--vsock", &Self::SYNTAX, text)
    }

    pub(crate) fn check_cid(&self, at: &mut Scope<'_, '_>) {
        if matches!(self.cid, 0..=2 | u32::MAX) {
            let text = format!("{} is a special VSOCK CID", self.cid);
            at.invalid("cid", text, "use a cid from 3 to 4294967294");
        }
    }
}

impl Section for Vsock {
    fn name(&self) -> Name {
        Name::Prefix("_vsock")
    }

    fn kind(&self) -> Option<DeviceKind> {
        Some(DeviceKind::Vsock(plan::Vsock { cid: self.cid, socket: self.socket.clone() }))
    }

    fn paths(&self) -> Vec<(&'static str, &Path)> {
        vec![("socket", &self.socket)]
    }

    fn grants(&self) -> Vec<Grant> {
        vec![Grant::directory_of(&self.socket, Access::Bind)]
    }
}

/// A vDPA device.
pub type VdpaConfig = Placed<Vdpa>;

/// A vDPA device's own fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Vdpa {
    /// The vhost-vdpa character device.
    pub path: PathBuf,
    /// Queues used, from 1.
    #[serde(default = "one_queue")]
    pub num_queues: usize,
}

impl VdpaConfig {
    /// Options of `--vdpa`.
    pub const SYNTAX: Syntax = Syntax::new(
        "path=<device_path>,num_queues=<number>,iommu=on|off,id=<device_id>,pci_segment=<segment_id>,\
         pci_device_id=<slot>",
    );

    /// Reads one `--vdpa`.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        flag::read("--vdpa", &Self::SYNTAX, text)
    }
}

impl Section for Vdpa {
    fn name(&self) -> Name {
        Name::Prefix("_vdpa")
    }

    fn paths(&self) -> Vec<(&'static str, &Path)> {
        vec![("path", &self.path)]
    }

    fn grants(&self) -> Vec<Grant> {
        vec![Grant::new(&self.path, Access::ReadWrite)]
    }
}

/// A vfio-user device.
pub type UserDeviceConfig = Placed<UserDevice>;

/// A vfio-user device's own field.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct UserDevice {
    /// The server's socket.
    pub socket: PathBuf,
}

impl UserDeviceConfig {
    /// Options of `--user-device`.
    pub const SYNTAX: Syntax =
        Syntax::new("socket=<path>,id=<device_id>,pci_segment=<segment_id>,pci_device_id=<slot>");

    /// Reads one `--user-device`.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        flag::read("--user-device", &Self::SYNTAX, text)
    }

    pub(crate) fn check(&self, at: &mut Scope<'_, '_>) {
        if !at.vm.memory.is_shareable() {
            let text = "Using user devices requires using shared memory or huge pages";
            at.invalid("", text, queues::SHARED_MEMORY_HINT);
        }
        self.pci.check_no_iommu(at);
        at.place(&self.pci);
    }
}

impl Section for UserDevice {
    fn name(&self) -> Name {
        Name::Prefix("_vfio_user")
    }

    fn paths(&self) -> Vec<(&'static str, &Path)> {
        vec![("socket", &self.socket)]
    }

    fn grants(&self) -> Vec<Grant> {
        vec![Grant::new(&self.socket, Access::ReadWrite)]
    }
}

/// Memory shared with another process, as a PCI device.
pub type IvshmemConfig = Placed<Ivshmem>;

/// The shared memory device's own fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Ivshmem {
    /// The shared file.
    pub path: PathBuf,
    /// Bytes shown to the guest: a power of 2, no more than the file has.
    #[serde(deserialize_with = "keyval::byte_size")]
    pub size: u64,
}

impl IvshmemConfig {
    /// Options of `--ivshmem`.
    pub const SYNTAX: Syntax =
        Syntax::new("path=<path>,size=<bytes>,id=<device_id>,pci_segment=<segment_id>,pci_device_id=<slot>");

    /// Reads `--ivshmem`; the size is 128 MiB unless given.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        let wrong = FlagError::of("--ivshmem");
        Self::SYNTAX.parse(text).and_then(|options| options.or("size", "128M").read()).map_err(wrong)
    }

    pub(crate) fn check(&self, at: &mut Scope<'_, '_>) {
        self.pci.check_no_iommu(at);
        let size = self.size;
        if !size.is_power_of_two() {
            at.invalid("size", format!("Invalid ivshmem input size: {size}"), "use a power of 2");
        }
        match std::fs::metadata(&self.path) {
            Err(_) => {
                let text = "Invalid ivshmem backend file path";
                at.invalid("path", text, "create the file before the machine");
            }
            Ok(file) if file.len() < size => {
                let text = format!("Invalid ivshmem backend file size: {}", file.len());
                at.invalid("path", text, "make the file at least as large as size");
            }
            Ok(_) => {}
        }
        at.place(&self.pci);
    }
}

impl Section for Ivshmem {
    fn name(&self) -> Name {
        Name::Fixed("__ivshmem")
    }

    fn paths(&self) -> Vec<(&'static str, &Path)> {
        vec![("path", &self.path)]
    }

    fn grants(&self) -> Vec<Grant> {
        vec![Grant::new(&self.path, Access::ReadWrite)]
    }
}

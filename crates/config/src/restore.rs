//! `vm.restore`, `--restore`, and what restore and incoming migration replace in a saved configuration
//! (`spec/config.md` §12).

use std::collections::HashSet;
use std::path::PathBuf;
use std::str::FromStr;

use keyval::{Options, Syntax};
use serde::{Deserialize, Serialize};

use crate::flag::FlagError;
use crate::overrides::{DiskPath, NetMac, NetTap};
use crate::vm::VmConfig;
use crate::words::{self, UnknownWord};

/// Where a machine comes back from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RestoreConfig {
    /// `file://` and the snapshot's directory.
    pub source_url: PathBuf,
    /// All pages are touched first.
    #[serde(default)]
    pub prefault: bool,
    /// When memory is read. When absent: page by page from the snapshot's own file, where nothing else has the memory.
    #[serde(default, deserialize_with = "keyval::spelled_opt", skip_serializing_if = "Option::is_none")]
    pub memory_restore_mode: Option<MemoryRestoreMode>,
    /// What is done, with [`MemoryRestoreMode::OnDemand`], about pages that nobody has touched.
    #[serde(default, deserialize_with = "keyval::spelled_opt", skip_serializing_if = "Option::is_none")]
    pub background: Option<Background>,
    /// Bytes a second of these, instead.
    #[serde(default, deserialize_with = "keyval::byte_size_opt", skip_serializing_if = "Option::is_none")]
    pub background_rate: Option<u64>,
    /// New descriptors of taps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net_fds: Option<Vec<RestoredNetConfig>>,
    /// New descriptors of VFIO devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vfio_fds: Option<Vec<RestoredVfioConfig>>,
    /// New iommufd.
    #[serde(default, deserialize_with = "crate::fds::one", skip_serializing_if = "Option::is_none")]
    pub iommufd_fd: Option<i32>,
    /// The machine runs at once.
    #[serde(default)]
    pub resume: bool,
    /// Memory zones that move to other host nodes.
    #[serde(default)]
    pub zone_updates: Vec<ZoneUpdate>,
    /// Other images for disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_paths: Option<Vec<DiskPath>>,
    /// Other taps for network devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net_taps: Option<Vec<NetTap>>,
    /// Other MAC addresses for network devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net_macs: Option<Vec<NetMac>>,
    /// Another context id for the vsock device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock_cid: Option<u32>,
    /// Another socket for the vsock device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock_socket: Option<PathBuf>,
    /// Where the serial port leads, as `--serial` says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Where the virtio console leads, as `--console` says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console: Option<String>,
}

/// When a snapshot's memory is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum MemoryRestoreMode {
    /// Before the machine runs.
    #[default]
    Copy,
    /// When the guest touches it.
    OnDemand,
    /// When the guest touches it, from the snapshot's own file, which clones share; what they write is each one's own.
    CopyOnWrite,
}

/// New descriptors of one tap device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RestoredNetConfig {
    /// The device.
    pub id: String,
    /// How many descriptors of the message are its own.
    #[serde(default)]
    pub num_fds: usize,
    /// The descriptors.
    #[serde(default, deserialize_with = "crate::fds::list", skip_serializing_if = "Option::is_none")]
    pub fds: Option<Vec<i32>>,
}

/// New descriptor of one VFIO device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RestoredVfioConfig {
    /// The device.
    pub id: String,
    /// The descriptor.
    #[serde(default, deserialize_with = "crate::fds::one", skip_serializing_if = "Option::is_none")]
    pub fd: Option<i32>,
}

/// A new host node for a memory zone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ZoneUpdate {
    /// The zone.
    pub id: String,
    /// Its host NUMA node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_numa_node: Option<u32>,
}

/// How pages come that nobody has touched yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Background {
    /// They do not.
    Off,
    /// As fast as they can be read.
    #[default]
    Full,
}

impl FromStr for Background {
    type Err = UnknownWord;
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        words::any_case(word, &[("off", Self::Off), ("full", Self::Full)])
    }
}

impl FromStr for MemoryRestoreMode {
    type Err = UnknownWord;
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        words::any_case(
            word,
            &[("copy", Self::Copy), ("ondemand", Self::OnDemand), ("copyonwrite", Self::CopyOnWrite)],
        )
    }
}

/// Why a restore or an incoming migration cannot use its parameters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum RestoreError {
    #[error("'prefault' cannot be combined with 'memory_restore_mode=ondemand'")]
    PrefaultOnDemand,
    #[error("Identifier {0} is not unique")]
    DuplicateId(String),
    #[error("Net id {0} is associated with FDs and is required")]
    MissingNet(String),
    #[error("Number of Net FDs passed for '{id}' during Restore: {given}. Expected: {expected}")]
    NetCount { id: String, given: usize, expected: usize },
    #[error("'{field}' names '{id}', and the snapshot has nothing of that name")]
    Nothing { field: &'static str, id: String },
    #[error("'net_macs' gives '{id}' the address '{mac}', which is none")]
    Mac { id: String, mac: String },
    #[error(transparent)]
    Console(FlagError),
    #[error("Multiple updates for the same zone defined")]
    DuplicateZone,
    #[error("At least one memory zone update with an empty ID was defined")]
    EmptyZone,
    #[error("'vfio_fds' requires 'iommufd_fd'")]
    NoIommufdFd,
    #[error("'vfio_fds' requires the machine to have 'iommufd=on'")]
    NoIommufd,
    #[error("VFIO device id '{0}' in 'vfio_fds' does not match any device in the snapshot")]
    UnknownVfio(String),
    #[error("VFIO device '{0}' was FD backed and needs a new fd in 'vfio_fds'")]
    MissingVfio(String),
}

impl RestoreError {
    /// Whether something was named twice, as opposed to plainly wrong.
    pub fn is_duplicate(&self) -> bool {
        matches!(self, Self::DuplicateId(_))
    }
}

impl RestoreConfig {
    /// Options of `--restore` and `ch-remote restore`.
    pub const SYNTAX: Syntax = Syntax::new(
        "source_url=<file_url>,prefault=on|off,memory_restore_mode=copy|ondemand|copyonwrite,background=off|full,background_rate=<bytes_per_second>,net_fds=<list of net_id@[fds]>,\
         vfio_fds=<list of device_id@fd>,iommufd_fd=<fd>,resume=true|false,zone_updates=<list of zone_id@host_node>,\
         disk_paths=<list of disk_id@path>,net_taps=<list of net_id@tap>,net_macs=<list of net_id@mac>,vsock_cid=<cid>,\
         vsock_socket=<path>,serial=<as --serial>,console=<as --console>",
    );

    /// Reads `--restore`.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        let wrong = FlagError::of("--restore");
        let mut options = Self::SYNTAX.parse(text).map_err(&wrong)?;
        let net_fds = take_net_fds(&mut options).map_err(&wrong)?;
        let restore: Self = options.read().map_err(&wrong)?;
        Ok(Self { net_fds, ..restore })
    }

    /// The rules that need no snapshot.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check(&self) -> Result<(), RestoreError> {
        if self.prefault && self.memory_restore_mode == Some(MemoryRestoreMode::OnDemand) {
            return Err(RestoreError::PrefaultOnDemand);
        }
        check_unique(self.net_fds.iter().flatten().map(|net| &net.id))?;
        check_vfio(self.vfio_fds.as_deref(), self.iommufd_fd)?;
        check_zones(&self.zone_updates)
    }

    /// The rules that need the saved configuration.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check_against(&self, saved: &VmConfig) -> Result<(), RestoreError> {
        for net in saved.net.iter().flatten() {
            let (Some(id), Some(fds)) = (&net.pci.id, &net.fds) else { continue };
            let new = self.net_fds.iter().flatten().find(|new| new.id == *id);
            let new = new.ok_or_else(|| RestoreError::MissingNet(id.clone()))?;
            if new.num_fds != fds.len() {
                let (given, expected) = (new.num_fds, fds.len());
                return Err(RestoreError::NetCount { id: id.clone(), given, expected });
            }
        }
        check_vfio_against(self.vfio_fds.as_deref(), saved)
    }
}

fn take_net_fds(options: &mut Options) -> Result<Option<Vec<RestoredNetConfig>>, keyval::Error> {
    let pairs: Option<Vec<(String, Vec<i32>)>> = options.take("net_fds")?;
    let net = |(id, fds): (String, Vec<i32>)| RestoredNetConfig { id, num_fds: fds.len(), fds: Some(fds) };
    Ok(pairs.map(|pairs| pairs.into_iter().map(net).collect()))
}

fn check_unique<'a>(ids: impl Iterator<Item = &'a String>) -> Result<(), RestoreError> {
    let mut seen = HashSet::new();
    for id in ids {
        if !seen.insert(id) {
            return Err(RestoreError::DuplicateId(id.clone()));
        }
    }
    Ok(())
}

pub(crate) fn check_vfio(
    fds: Option<&[RestoredVfioConfig]>,
    iommufd: Option<i32>,
) -> Result<(), RestoreError> {
    if fds.is_some() && iommufd.is_none() {
        return Err(RestoreError::NoIommufdFd);
    }
    check_unique(fds.iter().copied().flatten().map(|device| &device.id))
}

pub(crate) fn check_zones(updates: &[ZoneUpdate]) -> Result<(), RestoreError> {
    if updates.iter().any(|update| update.id.is_empty()) {
        return Err(RestoreError::EmptyZone);
    }
    check_unique(updates.iter().map(|update| &update.id)).map_err(|_| RestoreError::DuplicateZone)
}

/// Every descriptor has its device and every device that had a descriptor a new one.
pub(crate) fn check_vfio_against(
    fds: Option<&[RestoredVfioConfig]>,
    saved: &VmConfig,
) -> Result<(), RestoreError> {
    let given = fds.unwrap_or_default();
    let devices = || saved.devices.iter().flatten();
    if fds.is_some() && !saved.platform().iommufd {
        return Err(RestoreError::NoIommufd);
    }
    for new in given {
        if !devices().any(|device| device.pci.id.as_ref() == Some(&new.id)) {
            return Err(RestoreError::UnknownVfio(new.id.clone()));
        }
    }
    for device in devices().filter(|device| device.fd.is_some()) {
        let id = device.pci.id.clone().unwrap_or_default();
        if !given.iter().any(|new| new.id == id) {
            return Err(RestoreError::MissingVfio(id));
        }
    }
    Ok(())
}

//! Small bodies of the API (`spec/rest-api.md` §6).

use std::path::PathBuf;

use keyval::Syntax;
use serde::{Deserialize, Serialize};

use crate::flag::{self, FlagError};

/// `vm.resize`: any subset of the three, in this order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct VmResize {
    /// vCPUs wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired_vcpus: Option<u32>,
    /// RAM wanted in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired_ram: Option<u64>,
    /// Balloon wanted in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired_balloon: Option<u64>,
}

/// `vm.resize-disk`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VmResizeDisk {
    /// The disk.
    pub id: String,
    /// Bytes, a multiple of 512.
    pub desired_size: u64,
}

/// `vm.resize-zone`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VmResizeZone {
    /// The memory zone.
    pub id: String,
    /// Bytes.
    pub desired_ram: u64,
}

/// `vm.remove-device`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VmRemoveDevice {
    /// The device.
    pub id: String,
}

/// `vm.snapshot`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VmSnapshotConfig {
    /// `file://` and an existing directory.
    pub destination_url: String,
    /// The directory of an earlier snapshot of this VM: only what has changed since is stored, and the earlier one stays needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<PathBuf>,
}

impl VmSnapshotConfig {
    /// Options of `ch-remote snapshot`.
    pub const SYNTAX: Syntax = Syntax::new("destination_url=<file_url>,parent=<earlier_snapshot>");

    /// Reads the argument of `ch-remote snapshot`: the URL by itself, or options.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        if !text.contains("destination_url=") {
            return Ok(Self { destination_url: text.into(), parent: None });
        }
        flag::read("snapshot", &Self::SYNTAX, text)
    }
}

/// `vm.cancel-job`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VmCancelJob {
    /// The job's number.
    pub id: u64,
}

/// `vm.coredump`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VmCoredumpData {
    /// `file://` and a path that does not exist.
    pub destination_url: String,
}

//! Parameters of `vm.send-migration` and `vm.receive-migration` (`spec/config.md` §13).

use std::net::Ipv6Addr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::str::FromStr;

use keyval::Syntax;
use serde::{Deserialize, Serialize};

use crate::flag::{self, FlagError};
use crate::restore::{self, RestoreError, RestoredVfioConfig, ZoneUpdate};
use crate::vm::VmConfig;
use crate::words::{self, UnknownWord};

/// Connections of one migration.
const CONNECTION_LIMIT: u32 = 128;

/// `vm.send-migration`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VmSendMigrationData {
    /// `tcp:<host>:<port>` or `unix:<path>`.
    pub destination_url: String,
    /// Memory is handed over as descriptors on the same host.
    #[serde(default)]
    pub local: bool,
    /// The source machine stays.
    #[serde(default)]
    pub preserve_source: bool,
    /// Milliseconds the guest may stand still.
    #[serde(default = "default_downtime_ms")]
    pub downtime_ms: NonZeroU64,
    /// Seconds until `timeout_strategy` applies.
    #[serde(default = "default_timeout_s")]
    pub timeout_s: NonZeroU64,
    /// What happens then.
    #[serde(default, deserialize_with = "keyval::spelled")]
    pub timeout_strategy: TimeoutStrategy,
    /// Connections, 1 to 128.
    #[serde(default = "default_connections")]
    pub connections: NonZeroU32,
    /// Directory of certificates and keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_dir: Option<PathBuf>,
    /// When memory is sent.
    #[serde(default, deserialize_with = "keyval::spelled")]
    pub memory_mode: MemoryMode,
}

/// `vm.receive-migration`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VmReceiveMigrationData {
    /// `tcp:<host>:<port>` or `unix:<path>`.
    pub receiver_url: String,
    /// Directory of certificates and keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_dir: Option<PathBuf>,
    /// When memory is sent.
    #[serde(default, deserialize_with = "keyval::spelled")]
    pub memory_mode: MemoryMode,
    /// New descriptors of VFIO devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vfio_fds: Option<Vec<RestoredVfioConfig>>,
    /// New iommufd.
    #[serde(default, deserialize_with = "crate::fds::one", skip_serializing_if = "Option::is_none")]
    pub iommufd_fd: Option<i32>,
    /// Memory zones that move to other host nodes.
    #[serde(default)]
    pub zone_updates: Vec<ZoneUpdate>,
}

/// What a migration does that takes too long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum TimeoutStrategy {
    /// It is given up.
    #[default]
    Cancel,
    /// It completes, whatever the downtime.
    Ignore,
}

/// When a migration sends memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum MemoryMode {
    /// While the source still runs.
    #[default]
    Precopy,
    /// When the destination asks for it.
    Postcopy,
}

impl FromStr for TimeoutStrategy {
    type Err = UnknownWord;
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        words::any_case(word, &[("cancel", Self::Cancel), ("ignore", Self::Ignore)])
    }
}

impl FromStr for MemoryMode {
    type Err = UnknownWord;
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        words::any_case(word, &[("precopy", Self::Precopy), ("postcopy", Self::Postcopy)])
    }
}

fn default_downtime_ms() -> NonZeroU64 {
    const { NonZeroU64::MIN.saturating_add(299) }
}

fn default_timeout_s() -> NonZeroU64 {
    const { NonZeroU64::MIN.saturating_add(3599) }
}

fn default_connections() -> NonZeroU32 {
    NonZeroU32::MIN
}

/// The other end of a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MigrationUrl {
    /// Host name or address without brackets, and port.
    Tcp(String, u16),
    /// Socket path.
    Unix(PathBuf),
}

impl FromStr for MigrationUrl {
    type Err = UnknownWord;
    fn from_str(url: &str) -> Result<Self, UnknownWord> {
        let wrong = || UnknownWord(url.to_owned());
        if let Some(path) = url.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let (host, port) =
            url.strip_prefix("tcp:").and_then(|rest| rest.rsplit_once(':')).ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(v6) => v6.parse::<Ipv6Addr>().map_err(|_| wrong())?.to_string(),
            None if host.is_empty() || host.contains([':', '[', ']']) => return Err(wrong()),
            None => host.to_owned(),
        };
        Ok(Self::Tcp(host, port))
    }
}

/// Why an outgoing migration cannot use its parameters. `Error validating send migration parameters: ` stands
/// before each text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum SendError {
    #[error("UNIX sockets and connections option cannot be used at the same time.")]
    UnixConnections,
    #[error("UNIX sockets and TLS encryption cannot be used at the same time.")]
    UnixTls,
    #[error("destination_url must use tcp:<host>:<port> or unix:<path>.")]
    Url,
    #[error("connections must not exceed 128.")]
    Connections,
    #[error("local option is only supported with UNIX sockets.")]
    LocalTcp,
    #[error("local option and connections option cannot be used at the same time.")]
    LocalConnections,
    #[error("preserve_source option is only supported with the local option.")]
    PreserveSource,
    #[error("memory_mode=postcopy and local options are mutually exclusive.")]
    PostcopyLocal,
    #[error("memory_mode=postcopy currently requires a single connection (connections=1).")]
    PostcopyConnections,
}

impl VmSendMigrationData {
    /// Options of `ch-remote send-migration`.
    pub const SYNTAX: Syntax = Syntax::new(
        "destination_url=<url>,local=on|off,preserve_source=on|off,downtime_ms=<ms>,timeout_s=<s>,\
         timeout_strategy=cancel|ignore,connections=<number>,tls_dir=<path>,memory_mode=precopy|postcopy",
    );

    /// Reads the argument of `ch-remote send-migration`.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        flag::read("send-migration", &Self::SYNTAX, text)
    }

    /// All rules but those on the files in `tls_dir`; the other end comes out.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check(&self) -> Result<MigrationUrl, SendError> {
        let many = self.connections > NonZeroU32::MIN;
        let postcopy = self.memory_mode == MemoryMode::Postcopy;
        let unix = self.destination_url.starts_with("unix:");
        let rules = [
            (unix && many, SendError::UnixConnections),
            (unix && self.tls_dir.is_some(), SendError::UnixTls),
            (self.destination_url.parse::<MigrationUrl>().is_err(), SendError::Url),
            (self.connections.get() > CONNECTION_LIMIT, SendError::Connections),
            (self.local && !unix, SendError::LocalTcp),
            (self.local && many, SendError::LocalConnections),
            (self.preserve_source && !self.local, SendError::PreserveSource),
            (postcopy && self.local, SendError::PostcopyLocal),
            (postcopy && many, SendError::PostcopyConnections),
        ];
        match rules.into_iter().find(|(broken, _)| *broken) {
            Some((_, error)) => Err(error),
            None => self.destination_url.parse().map_err(|_| SendError::Url),
        }
    }
}

/// Why an incoming migration cannot use its parameters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    /// Neither `tcp:` nor `unix:`.
    #[error("receiver_url must use tcp:<host>:<port> or unix:<path>.")]
    Url,
    /// TLS on a UNIX socket.
    #[error("UNIX sockets and TLS encryption cannot be used at the same time.")]
    UnixTls,
    /// What is replaced in the received configuration.
    #[error(transparent)]
    Replacement(#[from] RestoreError),
}

impl VmReceiveMigrationData {
    /// Options of `ch-remote receive-migration`.
    pub const SYNTAX: Syntax = Syntax::new(
        "receiver_url=<url>,tls_dir=<path>,memory_mode=precopy|postcopy,vfio_fds=<list of device_id@fd>,\
         iommufd_fd=<fd>,zone_updates=<list of zone_id@host_node>",
    );

    /// Reads the argument of `ch-remote receive-migration`.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        flag::read("receive-migration", &Self::SYNTAX, text)
    }

    /// The rules that need no received configuration; the socket to listen on comes out.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check(&self) -> Result<MigrationUrl, ReceiveError> {
        let url: MigrationUrl = self.receiver_url.parse().map_err(|_| ReceiveError::Url)?;
        if matches!(url, MigrationUrl::Unix(_)) && self.tls_dir.is_some() {
            return Err(ReceiveError::UnixTls);
        }
        restore::check_vfio(self.vfio_fds.as_deref(), self.iommufd_fd)?;
        restore::check_zones(&self.zone_updates)?;
        Ok(url)
    }

    /// The rules that need the received configuration: here every VFIO device needs a descriptor.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check_against(&self, received: &VmConfig) -> Result<(), RestoreError> {
        restore::check_vfio_against(self.vfio_fds.as_deref(), received)?;
        let given = || self.vfio_fds.iter().flatten();
        for device in received.devices.iter().flatten() {
            let id = device.pci.id.clone().unwrap_or_default();
            if !given().any(|new| new.id == id) {
                return Err(RestoreError::MissingVfio(id));
            }
        }
        Ok(())
    }
}

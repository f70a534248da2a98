//! `disks` and `--disk` (`spec/config.md` §6).

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use keyval::Syntax;
use serde::{Deserialize, Serialize};

use crate::check::Scope;
use crate::devices::{Name, Section};
use crate::flag::FlagError;
use crate::pci::Placed;
use crate::plan::{self, Access, DeviceKind, Grant};
use crate::queues;
use crate::rate_limit::RateLimiterConfig;
use crate::words::{self, UnknownWord};

/// virtio's GET_ID answers this many bytes.
const SERIAL_LIMIT: usize = 20;

/// A disk.
pub type DiskConfig = Placed<Disk>;

/// A disk's own fields: an image file or a vhost-user back end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Disk {
    /// Image file or block device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The guest may not write.
    pub readonly: bool,
    /// Opened with `O_DIRECT`.
    pub direct: bool,
    /// Request queues, from 1 to the number of boot vCPUs.
    pub num_queues: usize,
    /// Descriptors per queue: a power of 2 above 2.
    pub queue_size: u16,
    /// The disk lives in another process.
    pub vhost_user: bool,
    /// That process's socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vhost_socket: Option<String>,
    /// Id of a group in `rate_limit_groups`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit_group: Option<String>,
    /// A limiter of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter_config: Option<RateLimiterConfig>,
    /// Test hook: do not use io_uring.
    pub disable_io_uring: bool,
    /// Test hook: do not use Linux AIO.
    pub disable_aio: bool,
    /// Serial number, at most 20 bytes; made from the file's identity when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Host CPUs of each queue's thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_affinity: Option<Vec<QueueAffinity>>,
    /// An image may name other images it builds on.
    pub backing_files: bool,
    /// Discarded ranges are given back to the file system.
    pub sparse: bool,
    /// Format of the image.
    #[serde(deserialize_with = "keyval::spelled")]
    pub image_type: ImageType,
    /// How the image is locked against other users.
    #[serde(deserialize_with = "keyval::spelled")]
    pub lock_granularity: LockGranularity,
}

/// The host CPUs of one queue's thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct QueueAffinity {
    /// Queue number.
    pub queue_index: u16,
    /// Host CPU numbers.
    pub host_cpus: Vec<usize>,
}

/// Format of a disk image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ImageType {
    /// VMDK with flat extents.
    FlatVmdk,
    /// VHD of fixed size.
    FixedVhd,
    /// QCOW2.
    Qcow2,
    /// No format.
    Raw,
    /// VHDX.
    Vhdx,
    /// To be detected.
    #[default]
    Unknown,
}

/// What of an image file is locked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum LockGranularity {
    /// The bytes of the image.
    #[default]
    ByteRange,
    /// The whole file, whatever its size becomes.
    Full,
}

impl ImageType {
    /// The words of the flag.
    const WORDS: [(&str, Self); 5] = [
        ("vmdk", Self::FlatVmdk),
        ("vhd", Self::FixedVhd),
        ("qcow2", Self::Qcow2),
        ("raw", Self::Raw),
        ("vhdx", Self::Vhdx),
    ];
}

impl FromStr for ImageType {
    type Err = UnknownWord;
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        words::any_case(word, &Self::WORDS)
    }
}

impl fmt::Display for ImageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Self::WORDS.iter().find(|(_, format)| format == self);
        f.write_str(known.map_or("unknown", |(word, _)| *word))
    }
}

impl FromStr for LockGranularity {
    type Err = UnknownWord;
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        words::exact(word, &[("byte-range", Self::ByteRange), ("full", Self::Full)])
    }
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            path: None,
            readonly: false,
            direct: false,
            num_queues: 1,
            queue_size: 128,
            vhost_user: false,
            vhost_socket: None,
            rate_limit_group: None,
            rate_limiter_config: None,
            disable_io_uring: false,
            disable_aio: false,
            serial: None,
            queue_affinity: None,
            backing_files: false,
            sparse: true,
            image_type: ImageType::Unknown,
            lock_granularity: LockGranularity::ByteRange,
        }
    }
}

impl DiskConfig {
    /// Options of `--disk`.
    pub const SYNTAX: Syntax = Syntax::new(
        "path=<image_path>,readonly=on|off,direct=on|off,num_queues=<number>,queue_size=<descriptors>,\
         vhost_user=on|off,socket=<vhost_user_socket>,bw_size=<bytes>,bw_one_time_burst=<bytes>,bw_refill_time=<ms>,\
         ops_size=<io_ops>,ops_one_time_burst=<io_ops>,ops_refill_time=<ms>,rate_limit_group=<group_id>,\
         queue_affinity=<list of queue@[host cpus]>,serial=<serial_number>,backing_files=on|off,sparse=on|off,\
         image_type=raw|qcow2|vhd|vhdx|vmdk,lock_granularity=byte-range|full,id=<device_id>,iommu=on|off,\
         pci_segment=<segment_id>,pci_device_id=<slot>",
    )
    .hidden(&["_disable_io_uring", "_disable_aio"])
    .renamed(&[
        ("socket", "vhost_socket"),
        ("_disable_io_uring", "disable_io_uring"),
        ("_disable_aio", "disable_aio"),
    ]);

    /// Reads one `--disk`.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        let wrong = FlagError::of("--disk");
        let mut options = Self::SYNTAX.parse(text).map_err(&wrong)?;
        let rate_limiter_config = RateLimiterConfig::take(&mut options).map_err(&wrong)?;
        let mut disk: Self = options.read().map_err(&wrong)?;
        disk.rate_limiter_config = rate_limiter_config;
        if disk.vhost_socket.is_some() {
            disk.image_type = ImageType::Unknown;
        }
        Ok(disk)
    }

    pub(crate) fn check(&self, at: &mut Scope<'_, '_>) {
        self.check_back_end(at);
        if let Some(group) = &self.rate_limit_group {
            let groups = at.vm.rate_limit_groups.iter().flatten();
            if !groups.into_iter().any(|known| known.id == *group) {
                let hint = format!("define the group '{group}' with --rate-limit-group");
                at.invalid("rate_limit_group", "Invalid rate-limiter group", hint);
            }
        }
        self.pci.check(at);
        queues::check_count(at, self.num_queues, self.num_queues);
        queues::check_limit(at, self.num_queues, 0);
        if self.num_queues == 0 {
            at.invalid("num_queues", "Queue count must be at least 1", "set num_queues=1 or more");
        }
        queues::check_size(at, "queue_size", self.queue_size);
        if self.queue_size <= 2 {
            let text = format!("Block queue size must be greater than 2: {}", self.queue_size);
            at.invalid("queue_size", text, "use 128, for example");
        }
        if self.vhost_user {
            self.pci.check_no_iommu(at);
        }
        if self.rate_limiter_config.is_some() && self.rate_limit_group.is_some() {
            let hint = "use the disk's own limits or the group's, not both";
            at.invalid("rate_limit_group", "Invalid rate-limiter group", hint);
        }
        if let Some(length) = self.serial.as_ref().map(String::len).filter(|n| *n > SERIAL_LIMIT) {
            let text = format!(
                "Block device serial length ({length}) exceeds maximum allowed length ({SERIAL_LIMIT})"
            );
            at.invalid("serial", text, "shorten the serial number");
        }
        at.claim(self.pci.id.as_deref());
    }

    fn check_back_end(&self, at: &mut Scope<'_, '_>) {
        if self.path.is_some() && self.vhost_socket.is_some() {
            let text = "Disk path and vhost socket both provided";
            at.invalid("path", text, "leave out path for a vhost-user disk, socket for an image");
        }
        if self.vhost_user {
            let limited = self.rate_limiter_config.is_some() || self.rate_limit_group.is_some();
            queues::check_vhost_user(at, self.vhost_socket.as_deref(), limited);
        } else if self.path.is_none() {
            let text = "No disk path was specified when one was expected";
            at.invalid("path", text, "give the image's path, or vhost_user=on with a socket");
        }
    }
}

impl Section for Disk {
    fn name(&self) -> Name {
        Name::Prefix("_disk")
    }

    fn paths(&self) -> Vec<(&'static str, &Path)> {
        let socket = self.vhost_socket.iter().filter(|_| self.vhost_user);
        let socket = socket.map(|path| ("vhost_socket", path.as_ref()));
        self.path.iter().map(|path| ("path", path.as_ref())).chain(socket).collect()
    }

    /// An image disk; `None` for a vhost-user one.
    fn kind(&self) -> Option<DeviceKind> {
        if self.vhost_user {
            return None;
        }
        Some(DeviceKind::Disk(plan::Disk {
            path: self.path.clone()?,
            readonly: self.readonly,
            direct: self.direct,
            num_queues: u16::try_from(self.num_queues).ok()?,
            queue_size: self.queue_size,
            serial: self.serial.clone(),
            io_uring: !self.disable_io_uring,
            aio: !self.disable_aio,
            sparse: self.sparse,
            image_type: self.image_type,
            full_lock: self.lock_granularity == LockGranularity::Full,
            queue_affinity: self.queue_affinity.iter().flatten().cloned().map(QueueAffinity::pair).collect(),
        }))
    }

    fn grants(&self) -> Vec<Grant> {
        if let (true, Some(socket)) = (self.vhost_user, &self.vhost_socket) {
            return vec![Grant::new(socket, Access::ReadWrite)];
        }
        let access = if self.readonly { Access::Read } else { Access::ReadWrite };
        self.path.iter().map(|path| Grant::new(path, access)).collect()
    }
}

impl QueueAffinity {
    fn pair(self) -> (u16, Vec<usize>) {
        (self.queue_index, self.host_cpus)
    }
}

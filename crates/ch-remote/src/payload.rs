//! What a subcommand's arguments become: the JSON body and the descriptors that go with it.
//!
//! Option strings are read here and sent with every default spelled out (`spec/cli.md` §2). A descriptor's number means nothing to the
//! server: it is taken out of the body, and a duplicate of the descriptor travels beside it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{OwnedFd, RawFd};

use clap::ArgMatches;
use config::{DeviceConfig, FlagError, NetConfig, RestoreConfig, RestoredVfioConfig, VmReceiveMigrationData};
use rustix::fs::OFlags;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use serde::Serialize;

/// Bytes of the file of `create`. The server's own limit is lower, and its refusal is worth seeing.
const FILE_LIMIT: u64 = 64 << 20;

/// The body and descriptors of a request.
#[derive(Debug, Default)]
pub(crate) struct Payload {
    /// `None`: the verb has none.
    pub(crate) body: Option<Vec<u8>>,
    /// In the order the server expects.
    pub(crate) fds: Vec<OwnedFd>,
}

/// Why arguments make no request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PayloadError {
    #[error(transparent)]
    Flag(#[from] FlagError),
    #[error("--{flag} takes {what}, not {value}")]
    Number { flag: &'static str, what: &'static str, value: String },
    #[error("Error reading the configuration from {path}")]
    File { path: String, source: io::Error },
    #[error("The configuration in {0} is larger than 64 MiB")]
    FileSize(String),
    #[error("Error passing file descriptor {0}")]
    Descriptor(RawFd, #[source] io::Error),
    #[error("Descriptor {0} was not left open for ch-remote: let the parent process pass it on")]
    NotInherited(RawFd),
    #[error("Error writing the request as JSON")]
    Json(#[from] serde_json::Error),
}

/// The result of every function here.
pub(crate) type Encoded = Result<Payload, PayloadError>;

/// The arguments of the subcommand that was given.
pub(crate) struct Given<'a>(pub(crate) &'a ArgMatches);

impl Given<'_> {
    /// The value of an argument, if it was given.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.try_get_one::<String>(name).ok().flatten().map(String::as_str)
    }

    /// The value of an argument that clap demands.
    pub(crate) fn required(&self, name: &str) -> &str {
        self.text(name).unwrap_or_default()
    }

    /// A plain number.
    pub(crate) fn count(&self, flag: &'static str) -> Result<Option<u32>, PayloadError> {
        self.parsed(flag, "a number", |text| text.parse().ok())
    }

    /// Bytes, with the suffixes K, M and G.
    pub(crate) fn size(&self, flag: &'static str) -> Result<Option<u64>, PayloadError> {
        self.parsed(flag, "a size such as 512M", keyval::parse_byte_size)
    }

    fn parsed<T>(
        &self,
        flag: &'static str,
        what: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, PayloadError> {
        let parse = |text: &str| {
            parse(text).ok_or_else(|| PayloadError::Number { flag, what, value: text.to_owned() })
        };
        self.text(flag).map(parse).transpose()
    }
}

/// A body without descriptors.
pub(crate) fn json(body: &impl Serialize) -> Encoded {
    with_fds(body, Vec::new())
}

fn with_fds(body: &impl Serialize, fds: Vec<RawFd>) -> Encoded {
    Ok(Payload { body: Some(serde_json::to_vec(body)?), fds: duplicates(&fds)? })
}

/// The raw text of a file, or of standard input for `-`.
pub(crate) fn file(path: &str) -> Encoded {
    let failed = |source| PayloadError::File { path: path.to_owned(), source };
    let from: Box<dyn Read> =
        if path == "-" { Box::new(io::stdin().lock()) } else { Box::new(File::open(path).map_err(failed)?) };
    let mut body = Vec::new();
    let size = from.take(FILE_LIMIT + 1).read_to_end(&mut body).map_err(failed)?;
    if size as u64 > FILE_LIMIT {
        return Err(PayloadError::FileSize(path.to_owned()));
    }
    Ok(Payload { body: Some(body), fds: Vec::new() })
}

/// `add-device`.
pub(crate) fn device(text: &str) -> Encoded {
    let mut device = DeviceConfig::from_flag(text)?;
    let fds = device.fd.take().into_iter().collect();
    with_fds(&device, fds)
}

/// `add-net`.
pub(crate) fn net(text: &str) -> Encoded {
    let mut net = NetConfig::from_flag(text)?;
    let fds = net.fds.take().unwrap_or_default();
    with_fds(&net, fds)
}

/// `restore`: taps first, then VFIO devices and their iommufd.
pub(crate) fn restore(text: &str) -> Encoded {
    let mut restore = RestoreConfig::from_flag(text)?;
    let mut fds = Vec::new();
    for net in restore.net_fds.iter_mut().flatten() {
        fds.extend(net.fds.take().unwrap_or_default());
    }
    fds.extend(take_vfio(&mut restore.vfio_fds, restore.iommufd_fd));
    with_fds(&restore, fds)
}

/// `receive-migration`.
pub(crate) fn receive_migration(text: &str) -> Encoded {
    let mut receive = VmReceiveMigrationData::from_flag(text)?;
    let fds = take_vfio(&mut receive.vfio_fds, receive.iommufd_fd);
    with_fds(&receive, fds)
}

/// The iommufd stays named in the body, as the server counts on it; without devices nobody would take the descriptor.
fn take_vfio(devices: &mut Option<Vec<RestoredVfioConfig>>, iommufd: Option<RawFd>) -> Vec<RawFd> {
    let Some(devices) = devices else { return Vec::new() };
    devices.iter_mut().filter_map(|device| device.fd.take()).chain(iommufd).collect()
}

/// Numbers from the command line say nothing about lifetimes, so the kernel is asked for descriptors of our own.
fn duplicates(fds: &[RawFd]) -> Result<Vec<OwnedFd>, PayloadError> {
    let Some(first) = fds.first() else { return Ok(Vec::new()) };
    if let Some(stranger) = fds.iter().find(|fd| !is_inherited(**fd)) {
        return Err(PayloadError::NotInherited(*stranger));
    }
    let own =
        pidfd_open(getpid(), PidfdFlags::empty()).map_err(|e| PayloadError::Descriptor(*first, e.into()))?;
    let duplicate = |fd: &RawFd| {
        pidfd_getfd(&own, *fd, PidfdGetfdFlags::empty()).map_err(|e| PayloadError::Descriptor(*fd, e.into()))
    };
    fds.iter().map(duplicate).collect()
}

/// Whether the parent process left this descriptor open. All that this program opens by itself closes on exec.
fn is_inherited(fd: RawFd) -> bool {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| !OFlags::from_bits_retain(flags).contains(OFlags::CLOEXEC))
}

//! The files that this process empties and fills itself, its log and its events: neither may be a file that something else is kept in.
//! Looked at before the first of them is opened.

use std::io;
use std::os::fd::RawFd;
use std::path::Path;

use config::VmConfig;
use host::identity::Identity;
use thiserror::Error;

use crate::endpoint::Endpoint;

/// Two of the command line's files are one.
#[derive(Debug, Error)]
#[error("{flag} would overwrite \"{path}\", which {other} names, too: choose another file")]
pub(crate) struct Clash {
    flag: &'static str,
    path: String,
    other: String,
}

/// A file of the command line that cannot be written.
#[derive(Debug, Error)]
#[error("Cannot open {name} for writing")]
pub(crate) struct Unwritable {
    name: String,
    #[source]
    source: io::Error,
}

impl Unwritable {
    /// That of a path.
    pub(crate) fn path(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self { name: format!("\"{}\"", path.display()), source }
    }

    /// That of a descriptor which the parent process was to leave open.
    pub(crate) fn descriptor(number: RawFd) -> impl Fn(io::Error) -> Self {
        move |source| Self { name: format!("descriptor {number}"), source }
    }
}

/// What the command line says of files.
pub(crate) struct Files<'a> {
    /// `--log-file`.
    pub(crate) log: Option<&'a Path>,
    /// `--event-monitor`.
    pub(crate) events: Option<&'a str>,
    /// `--config`.
    pub(crate) config_file: Option<&'a Path>,
    /// What the configuration's file and flags come to.
    pub(crate) config: Option<&'a VmConfig>,
}

impl Files<'_> {
    /// Whether each has its own.
    ///
    /// # Errors
    /// The first [`Clash`].
    pub(crate) fn check(&self) -> Result<(), Clash> {
        let events = self.events.and_then(Endpoint::parse_strict);
        let events = events.as_ref().and_then(|endpoint| match endpoint {
            Endpoint::Path(path) => Some(path.as_path()),
            Endpoint::Fd(_) => None,
        });
        let mut others: Vec<(String, &Path)> = self.config.into_iter().flat_map(VmConfig::paths).collect();
        others.extend(self.config_file.map(|path| ("--config".to_owned(), path)));
        for (flag, path) in [("--log-file", self.log), ("--event-monitor", events)] {
            let Some(path) = path else { continue };
            if let Some((other, _)) = others.iter().find(|(_, other)| is_same_file(path, other)) {
                return Err(Clash { flag, path: path.display().to_string(), other: other.clone() });
            }
            others.push((flag.to_owned(), path));
        }
        Ok(())
    }
}

/// Whether both are one file, or would be. Terminals, pipes and devices without contents may be shared.
fn is_same_file(one: &Path, other: &Path) -> bool {
    Identity::of(one).is_some_and(|identity| Identity::of(other) == Some(identity))
}

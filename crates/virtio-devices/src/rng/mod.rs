//! An entropy source (Virtio 1.2 §5.4; `spec/devices.md` §7 and §15 "Watchdog, RTC, RNG").
//!
//! Its thread, named by the device id, fills the driver's buffers from a file of the host's. No state.

mod front;
mod worker;

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use config::plan;
use pci::{BarKind, BuildContext, Built};
use rustix::fs::OFlags;
use sandbox::{Profile, groups};
use thiserror::Error;
use virtio::built;

pub use front::Front;

/// Its thread.
static PROFILE: Profile = Profile::new("rng", &[groups::EPOLL]);

/// Its threads' profiles.
pub static PROFILES: &[&Profile] = &[&PROFILE];

/// Why an entropy source cannot be built.
#[derive(Debug, Error)]
pub enum Error {
    /// The file.
    #[error("Cannot open the entropy source '{}'", .path.display())]
    Source {
        /// Where it should be.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// Its thread.
    #[error("Cannot start the thread of entropy source '{id}'")]
    Thread {
        /// The device id.
        id: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// Opens the file, builds the device and parks its thread.
///
/// # Errors
/// [`enum@Error`] names the file, or the thread if there is none left.
pub fn build(rng: &plan::Rng, context: &BuildContext<'_>) -> Result<Built, Error> {
    Ok(built(front(rng, context.id)?, BarKind::Memory64, context))
}

pub(crate) fn front(rng: &plan::Rng, id: &str) -> Result<Front, Error> {
    let file = open(&rng.src).map_err(|source| Error::Source { path: rng.src.clone(), source })?;
    Front::new(id, file).map_err(|source| Error::Thread { id: id.into(), source })
}

/// A pipe that nobody fills must not hold up the machine; a hardware generator, which is slow but never silent, may.
fn open(path: &Path) -> io::Result<File> {
    let non_blocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(non_blocking).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        // It opens, but nothing can be read from it.
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if kind.is_char_device() {
        rustix::io::ioctl_fionbio(&file, false)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests;

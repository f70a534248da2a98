//! Persistent memory (Virtio 1.2 §5.19; `spec/devices2.md` §8): a file of the host's that lies in the guest's address space, beside RAM.
//!
//! The guest reads and writes the file without asking anybody. All that goes through the queue are flushes: its thread, named by the
//! device id, makes the host write to its disk what the guest has changed. Several devices may share a file; nobody locks it.
//!
//! ```text
//!  guest: load, store ─────────────────▶ pages of the file          (a mapping of this process: backing)
//!  guest: FLUSH ─ queue ─▶ worker ─ fsync ─▶ the file's disk
//! ```
//! * With `discard_writes` the guest's writes are its own: the file is opened for reading, and what was written is gone when the machine
//!   goes, at a reboot too. There is nothing to flush then.
//! * In a directory a file without a name is made; it goes with the machine as well.
//! * A file that becomes shorter under the guest has no pages there any more: a vCPU that touches them comes no further. As a rule KVM
//!   tries again without end (its asynchronous page faults do not fail), until the file has its size back; otherwise the vCPU fails, and
//!   the VM ends. Control looks at files and tells ([`memory::missing`]). Only the guest touches the mapping. That the file is long
//!   enough is seen to at the beginning; it may grow.
//! * It is not RAM: no device reaches it, no snapshot holds its contents, and no back end in another process is told of it.

mod backing;
mod front;
mod state;
mod worker;

use std::io;
use std::path::PathBuf;

use config::Pmem;
use libc::{SYS_fsync, SYS_ftruncate};
use pci::{BarKind, BuildContext, Built};
use sandbox::call::{Call, any};
use sandbox::{Profile, groups};
use thiserror::Error;
use virtio::built;

use backing::Backing;

pub use front::Front;
pub use state::State;

/// What its thread asks for besides.
const FLUSH: &[Call] = &[any(SYS_fsync)];

/// Its thread.
static PROFILE: Profile = Profile::new("pmem", &[groups::EPOLL, FLUSH]);

/// What building one asks of the control thread: a file in a directory has to get its size.
static BUILD: Profile = Profile::new("pmem-build", &[groups::READ_FILES, &[any(SYS_ftruncate)]]);

/// All of them.
pub static PROFILES: &[&Profile] = &[&PROFILE, &BUILD];

/// Why a persistent memory device cannot be built.
#[derive(Debug, Error)]
pub enum Error {
    /// The file, or the directory to make one in.
    #[error("Cannot open persistent memory file '{}'", .path.display())]
    Open {
        /// Where it should be.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A socket, a character device or the like.
    #[error("Persistent memory '{}' is neither a file, a block device nor a directory", .path.display())]
    Type {
        /// What it is.
        path: PathBuf,
    },
    /// There is nothing whose size could be taken.
    #[error("Trying to use a directory for pmem but no size specified: '{}'", .path.display())]
    NoSize {
        /// The directory.
        path: PathBuf,
    },
    /// The guest maps it in larger pieces.
    #[error("Trying to use a size that is not multiple of 2MiB: {size} bytes of '{}'", .path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
    /// The guest would reach beyond its end.
    #[error("Persistent memory file '{}' has {found} bytes, less than the {wanted} of size", .path.display())]
    TooShort {
        /// The file.
        path: PathBuf,
        /// The size asked for.
        wanted: u64,
        /// The size it has.
        found: u64,
    },
    /// It cannot be mapped.
    #[error("Cannot map {size} bytes of persistent memory file '{}'", .path.display())]
    Map {
        /// The file.
        path: PathBuf,
        /// Bytes.
        size: u64,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// Its thread.
    #[error("Cannot start the thread of persistent memory '{id}'")]
    Thread {
        /// The device id.
        id: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// Opens and maps the file, builds the device and parks its thread.
///
/// # Errors
/// [`enum@Error`] names the file and what is wrong with it, or the thread if there is none left.
pub fn build(pmem: &Pmem, context: &BuildContext<'_>) -> Result<Built, Error> {
    Ok(built(front(pmem, context.id)?, BarKind::Memory64, context))
}

fn front(pmem: &Pmem, id: &str) -> Result<Front, Error> {
    let backing = Backing::open(pmem)?;
    Front::new(id, backing).map_err(|source| Error::Thread { id: id.into(), source })
}

#[cfg(test)]
mod tests;

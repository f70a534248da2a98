//! Advisory locks on images, so that two VMs do not write one disk: OFD locks, which belong to the open file and not to the process.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// How much of an image file is locked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LockRange {
    /// The bytes the image has when it is locked.
    #[default]
    Bytes,
    /// The whole file, however large it grows.
    Whole,
}

/// A lock that was not given.
#[derive(Debug, Error)]
#[error("Failed to get {} lock for disk image: {}", if *write { "Write" } else { "Read" }, path.display())]
pub struct LockError {
    /// Whether the exclusive lock was wanted.
    pub write: bool,
    /// The image.
    pub path: PathBuf,
    /// The reason.
    #[source]
    pub source: LockFailure,
}

/// Why a lock was not given.
#[derive(Debug, Error)]
pub enum LockFailure {
    /// Somebody else holds it.
    #[error("The file is already locked")]
    Held,
    /// The file system cannot lock, or failed to.
    #[error("Cannot lock the file")]
    Io(#[from] io::Error),
}

/// Takes a lock on the first `len` bytes of `file` (0: on all of it), exclusive if `write`.
pub(crate) fn acquire(file: &File, path: &Path, len: u64, write: bool) -> Result<(), LockError> {
    let kind = if write { libc::F_WRLCK } else { libc::F_RDLCK };
    set(file, kind, len).map_err(|source| LockError { write, path: path.into(), source })
}

/// Gives all locks back.
pub(crate) fn release(file: &File, path: &Path) -> Result<(), LockError> {
    set(file, libc::F_UNLCK, 0).map_err(|source| LockError { write: false, path: path.into(), source })
}

fn set(file: &File, kind: libc::c_int, len: u64) -> Result<(), LockFailure> {
    let range = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: i64::try_from(len).unwrap_or(0),
        l_pid: 0,
    };
    // SAFETY: the descriptor is open and the kernel only reads `range`.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const range) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Err(LockFailure::Held),
        _ => Err(LockFailure::Io(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn writers_exclude_everybody_and_readers_share() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path();
        let open = || File::options().read(true).write(true).open(path).unwrap();
        let (a, b, c) = (open(), open(), open());
        acquire(&a, path, 4096, false).unwrap();
        acquire(&b, path, 4096, false).unwrap();
        let error = acquire(&c, path, 0, true).unwrap_err();
        assert_eq!(error.to_string(), format!("Failed to get Write lock for disk image: {}", path.display()));
        assert_eq!(error.source().unwrap().to_string(), "The file is already locked");
        release(&a, path).unwrap();
        drop(b);
        acquire(&c, path, 0, true).unwrap();
        assert!(
            acquire(&a, path, 512, false).unwrap_err().to_string().starts_with("Failed to get Read lock")
        );
    }
}

//! Advisory locks on images, so that two VMs do not write one disk.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use host::lock::{self, Kind};
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
    Io(#[source] io::Error),
}

impl From<io::Error> for LockFailure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::WouldBlock { Self::Held } else { Self::Io(error) }
    }
}

/// Takes a lock on the first `len` bytes of `file` (0: on all of it), exclusive if `write`.
pub(crate) fn acquire(file: &File, path: &Path, len: u64, write: bool) -> Result<(), LockError> {
    let kind = if write { Kind::Exclusive } else { Kind::Shared };
    lock::acquire(file, len, kind).map_err(|e| LockError { write, path: path.into(), source: e.into() })
}

/// Gives all locks back.
pub(crate) fn release(file: &File, path: &Path) -> Result<(), LockError> {
    lock::release(file).map_err(|e| LockError { write: false, path: path.into(), source: LockFailure::Io(e) })
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

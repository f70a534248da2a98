//! A file that this process has made at a path and removes at last, such as a socket. Whatever stands there by then may be another's: a
//! program that took the place after somebody had tidied up.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The file, known by what it is and not by its name alone. Who has made it keeps it open, so that no other file can be the same.
#[derive(Debug)]
pub struct OwnFile {
    path: PathBuf,
    /// Device and inode; `None` if it was gone as soon as it was made.
    made: Option<(u64, u64)>,
}

impl OwnFile {
    /// What this process has just made at `path`.
    pub fn made_at(path: PathBuf) -> Self {
        Self { made: inode(&path).ok(), path }
    }

    /// Where it is, or was.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, if it is still there.
    ///
    /// # Errors
    /// The file system's; then it is still there.
    pub fn remove(&self) -> io::Result<()> {
        let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        match inode(&self.path) {
            Ok(there) if Some(there) != self.made => Ok(()),
            Ok(_) => std::fs::remove_file(&self.path).or_else(|e| if missing(&e) { Ok(()) } else { Err(e) }),
            Err(error) if missing(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    path.symlink_metadata().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_what_was_made_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let ours = UnixListener::bind(&path).unwrap();
        let file = OwnFile::made_at(path.clone());
        file.remove().unwrap();
        assert!(!path.exists());
        file.remove().unwrap();
        std::fs::write(&path, "precious").unwrap();
        file.remove().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_file(&path).unwrap();
        let _theirs = UnixListener::bind(&path).unwrap();
        file.remove().unwrap();
        assert!(path.exists());
        drop(ours);
    }
}

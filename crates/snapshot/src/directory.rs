//! The directory of a snapshot: its files by name, whatever happens to the path of the directory meanwhile.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::Error;
use crate::error::Damage;

/// The configuration of the VM.
pub const CONFIG: &str = "config.json";
/// What the snapshot is, and the state of the machine.
pub const STATE: &str = "state.json";
/// RAM: all ranges one behind the other, with holes where pages are zero or not stored.
pub const MEMORY: &str = "memory-ranges";
/// Of an incremental snapshot, the pages that are stored: a bit for each.
pub const PAGES: &str = "memory-pages";
/// All files, in the order in which they get their names: a directory without the last one holds no snapshot.
pub const FILES: [&str; 4] = [MEMORY, PAGES, CONFIG, STATE];

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    fd: OwnedFd,
}

impl Directory {
    /// Opens `path` to write files there.
    pub(crate) fn to_write(path: &Path) -> Result<Self, Error> {
        Self::open(rustix::fs::CWD, path, path, OFlags::RDONLY)
    }

    /// Opens `path` to read files there.
    pub(crate) fn to_read(path: &Path) -> Result<Self, Error> {
        Self::open(rustix::fs::CWD, path, path, OFlags::PATH)
    }

    /// Opens `path`, which may be relative to this directory, to read files there.
    pub(crate) fn other(&self, path: &Path) -> Result<Self, Error> {
        Self::open(&self.fd, path, &self.path_of(path), OFlags::PATH)
    }

    fn open(at: impl std::os::fd::AsFd, path: &Path, name: &Path, access: OFlags) -> Result<Self, Error> {
        match rustix::fs::openat(at, path, access | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => Ok(Self { path: name.to_owned(), fd }),
            Err(Errno::NOTDIR) => Err(Error::NotADirectory(name.to_owned())),
            Err(errno) => Err(Error::io("open", name)(errno)),
        }
    }

    /// Its path, as it was when it was opened.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of something in it.
    pub(crate) fn path_of(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Opens the file `name` to read it, and tells its length.
    pub(crate) fn file(&self, name: &'static str) -> Result<(File, u64), Error> {
        let path = self.path_of(name);
        // A pipe must not keep us waiting.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Err(Error::Missing { dir: self.path.clone(), name }),
            Err(errno) => return Err(Error::io("open", &path)(errno)),
        };
        let metadata = file.metadata().map_err(Error::io("examine", &path))?;
        if !metadata.is_file() {
            return Err(Error::damaged(&path)(Damage::NotAFile));
        }
        Ok((file, metadata.len()))
    }

    /// All of the file `name`, if it has at most `limit` bytes.
    pub(crate) fn content(&self, name: &'static str, limit: u64) -> Result<Vec<u8>, Error> {
        let path = self.path_of(name);
        let too_large = |len| Err(Error::damaged(&path)(Damage::TooLarge { len, limit }));
        let (file, len) = self.file(name)?;
        if len > limit {
            return too_large(len);
        }
        let mut content = Vec::new();
        let read = file.take(limit.saturating_add(1)).read_to_end(&mut content);
        match read.map_err(Error::io("read", &path))? as u64 {
            len if len > limit => too_large(len),
            _ => Ok(content),
        }
    }

    /// Opens the file `name` to write it; it is made if there is none.
    pub(crate) fn create(&self, name: &str) -> Result<File, Error> {
        let path = self.path_of(name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(fd.map_err(Error::io("create", &path))?);
        if !file.metadata().map_err(Error::io("examine", &path))?.is_file() {
            return Err(Error::damaged(&path)(Damage::NotAFile));
        }
        Ok(file)
    }

    /// The number of the file `name`, if there is one.
    pub(crate) fn inode(&self, name: &str) -> Result<Option<u64>, Error> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat.st_ino)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::io("examine", &self.path_of(name))(errno)),
        }
    }

    /// Gives a file its last name, which must be free.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let renamed = match rustix::fs::renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE) {
            // A file system that cannot do both at once.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if self.inode(to)?.is_none() => {
                rustix::fs::renameat(&self.fd, from, &self.fd, to)
            }
            renamed => renamed,
        };
        match renamed {
            Err(Errno::EXIST) => Err(Error::Exists(self.path_of(to))),
            renamed => renamed.map_err(Error::io("rename", &self.path_of(from))),
        }
    }

    /// Removes the file `name`, if it is there.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            removed => Ok(removed?),
        }
    }

    /// Makes names durable.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        rustix::fs::fsync(&self.fd).map_err(Error::io("write the names in", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_a_limited_length_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::to_read(dir.path()).unwrap();
        assert!(matches!(directory.content(STATE, 9), Err(Error::Missing { name: STATE, .. })));
        std::fs::write(dir.path().join(STATE), "0123456789").unwrap();
        let error = directory.content(STATE, 9).unwrap_err();
        assert!(matches!(error, Error::Damaged { source: Damage::TooLarge { len: 10, limit: 9 }, .. }));
        assert_eq!(directory.content(STATE, 10).unwrap(), b"0123456789");
        rustix::fs::mknodat(&directory.fd, CONFIG, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .unwrap();
        let pipe = directory.content(CONFIG, 9).unwrap_err();
        assert!(matches!(pipe, Error::Damaged { source: Damage::NotAFile, .. }), "{pipe}");
        assert!(matches!(Directory::to_write(&dir.path().join(STATE)), Err(Error::NotADirectory(_))));
    }

    #[test]
    fn a_name_that_is_taken_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::to_write(dir.path()).unwrap();
        std::fs::write(dir.path().join(STATE), "mine").unwrap();
        drop(directory.create("new").unwrap());
        assert!(matches!(directory.rename("new", STATE), Err(Error::Exists(_))));
        assert_eq!(directory.content(STATE, 9).unwrap(), b"mine");
        directory.rename("new", CONFIG).unwrap();
        assert_eq!(
            (directory.inode("new").unwrap(), directory.content(CONFIG, 9).unwrap()),
            (None, Vec::new())
        );
        directory.remove(CONFIG).unwrap();
        directory.remove(CONFIG).unwrap();
        assert_eq!(directory.inode(CONFIG).unwrap(), None);
    }
}

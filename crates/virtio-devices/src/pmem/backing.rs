//! What lies behind a persistent memory device: its file, opened, measured and mapped. Runs on the control thread.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use config::Pmem;
use memory::{Contents, HostMemory};
use rustix::fs::{Mode, OFlags};

use super::Error;

/// A file that is mapped for a guest.
pub(super) struct Backing {
    /// What the guest gets.
    pub(super) memory: Arc<dyn HostMemory>,
    /// What a flush writes to its disk; `None` if the guest's writes reach no file.
    pub(super) file: Option<File>,
}

impl Backing {
    pub(super) fn open(pmem: &Pmem) -> Result<Self, Error> {
        let path = || pmem.file.clone();
        let failed = |source| Error::Open { path: path(), source };
        let metadata = std::fs::metadata(&pmem.file).map_err(failed)?;
        if metadata.is_dir() {
            return Self::in_directory(pmem);
        }
        if !metadata.is_file() && !metadata.file_type().is_block_device() {
            return Err(Error::Type { path: path() });
        }
        let access = if pmem.discard_writes { OFlags::RDONLY } else { OFlags::RDWR };
        let file = open(&pmem.file, access).map_err(failed)?;
        let found = length(&file).map_err(failed)?;
        let size = pmem.size.unwrap_or(found);
        check(pmem, size)?;
        if size > found {
            return Err(Error::TooShort { path: path(), wanted: size, found });
        }
        Self::map(pmem, size, Some(file))
    }

    /// In a directory there is a file that nobody else can see, full of zeroes. If nothing is to be kept in it, it need not be there.
    fn in_directory(pmem: &Pmem) -> Result<Self, Error> {
        let path = || pmem.file.clone();
        let size = pmem.size.ok_or_else(|| Error::NoSize { path: path() })?;
        check(pmem, size)?;
        let make = || {
            let file = open(&pmem.file, OFlags::RDWR | OFlags::TMPFILE)?;
            file.set_len(size)?;
            Ok(file)
        };
        let file = (!pmem.discard_writes).then(make).transpose();
        Self::map(pmem, size, file.map_err(|source| Error::Open { path: path(), source })?)
    }

    fn map(pmem: &Pmem, size: u64, file: Option<File>) -> Result<Self, Error> {
        const ALIGN: usize = Pmem::UNIT as usize;
        let contents = match &file {
            Some(file) if pmem.discard_writes => Contents::CopyOf(file),
            Some(file) => Contents::File(file),
            None => Contents::Zeroes,
        };
        let name = format!("persistent memory '{}'", pmem.file.display());
        let memory = memory::map(&name, contents, size, ALIGN);
        let memory = memory.map_err(|source| Error::Map { path: pmem.file.clone(), size, source })?;
        Ok(Self { memory, file: file.filter(|_| !pmem.discard_writes) })
    }
}

fn check(pmem: &Pmem, size: u64) -> Result<(), Error> {
    if Pmem::is_size(size) { Ok(()) } else { Err(Error::Size { path: pmem.file.clone(), size }) }
}

/// What has become something else meanwhile must not make us wait for its other end.
fn open(path: &Path, access: OFlags) -> io::Result<File> {
    let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// Bytes of a file or block device.
fn length(file: &File) -> io::Result<u64> {
    let mut file = file;
    file.seek(SeekFrom::End(0))
}

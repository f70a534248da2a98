//! A file that is copied into guest RAM: a kernel, a firmware or an initramfs.
//!
//! The bytes go from the file straight into RAM. The file may hold anything and may shrink while it is read.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestRam};
use thiserror::Error;

/// Why a file could not be brought into RAM.
#[derive(Debug, Error)]
pub enum ImageError {
    /// It cannot be opened.
    #[error("Cannot open {role} '{}'", path.display())]
    Open {
        /// What it is for.
        role: &'static str,
        /// Where it is.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// It has no size: a directory, a pipe, a terminal.
    #[error("The {role} '{}' is not a regular file or block device", path.display())]
    NotAFile {
        /// What it is for.
        role: &'static str,
        /// Where it is.
        path: PathBuf,
    },
    /// Bytes of it cannot be read.
    #[error("Cannot read {size:#x} bytes at {offset:#x} of {role} '{}'", path.display())]
    Read {
        /// What it is for.
        role: &'static str,
        /// Where it is.
        path: PathBuf,
        /// First byte.
        offset: u64,
        /// Bytes wanted.
        size: u64,
        /// The kernel's reason; an early end if the file was cut while it was read.
        #[source]
        source: io::Error,
    },
}

/// An open file of known size.
#[derive(Debug)]
pub(crate) struct Image<'a> {
    role: &'static str,
    path: &'a Path,
    file: File,
    size: u64,
}

impl<'a> Image<'a> {
    pub(crate) fn open(role: &'static str, path: &'a Path) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Open { role, path: path.into(), source };
        // Asked before opening, because opening a pipe waits for its other end.
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(ImageError::NotAFile { role, path: path.into() });
        }
        let mut file = File::open(path).map_err(failed)?;
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self { role, path, file, size })
    }

    pub(crate) fn path(&self) -> &'a Path {
        self.path
    }

    /// Bytes in the file.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Whether the file has `size` bytes at `offset`.
    pub(crate) fn holds(&self, offset: u64, size: u64) -> bool {
        offset.checked_add(size).is_some_and(|end| end <= self.size)
    }

    /// Fills `buffer` from `offset`.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        let size = buffer.len() as u64;
        self.file.read_exact_at(buffer, offset).map_err(|source| self.unread(offset, size, source))
    }

    /// Copies `size` bytes at `offset` of the file to `to` in RAM.
    pub(crate) fn copy(&mut self, offset: u64, size: u64, ram: &GuestRam, to: u64) -> Result<(), ImageError> {
        self.copy_all(offset, size, ram, to).map_err(|source| self.unread(offset, size, source))
    }

    fn copy_all(&mut self, offset: u64, size: u64, ram: &GuestRam, to: u64) -> io::Result<()> {
        let size = usize::try_from(size).map_err(io::Error::other)?;
        self.file.seek(SeekFrom::Start(offset))?;
        // vm-memory's own copy to an address reads once per region, and the kernel reads at most 2 GiB at once.
        for slice in GuestMemoryBackend::get_slices(&*ram.map(), GuestAddress(to), size) {
            let slice = slice.map_err(io::Error::other)?;
            slice.read_exact_volatile_from(0, &mut self.file, slice.len()).map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn unread(&self, offset: u64, size: u64, source: io::Error) -> ImageError {
        ImageError::Read { role: self.role, path: self.path.into(), offset, size, source }
    }
}

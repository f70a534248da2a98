//! A machine's RAM and CPUs as an ELF64 core file, which `gdb` and `crash` read (`spec/lifecycle.md` §6).
//!
//! ```text
//!  ELF header │ program headers │ notes: one NT_PRSTATUS and one "QEMU" for each vCPU │ to the next page │ RAM, range after range
//! ```
//! Each range of RAM is one `PT_LOAD` segment, whose virtual address is the physical one. Pages of zeroes are holes of the file. The ELF
//! header is written last, so that what a VMM leaves that dies on the way is no core file.
//!
//! Whoever calls has stopped the machine. The file goes away again unless [`Core::keep`] says that it stays.

mod elf;
mod notes;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use host::own_file::OwnFile;
use hv::CpuState;
use thiserror::Error as ThisError;

const PAGE: u64 = 4096;
/// What is read and written at once: little enough that a dump is cancelled at once.
const CHUNK: u64 = 1 << 20;
const ZEROES: [u8; PAGE as usize] = [0; PAGE as usize];

/// Why there is no core file.
#[derive(Debug, ThisError)]
pub enum Error {
    /// There is a file of this name.
    #[error("The core file {0} exists already: choose another name, or remove it")]
    Exists(PathBuf),
    /// The file cannot be made.
    #[error("Cannot create the core file {path}")]
    Create {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The file cannot be written, or not be brought to the disk.
    #[error("Cannot write the core file {path}, which is removed again")]
    Write {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// RAM cannot be read.
    #[error("Cannot read guest RAM at {address:#x} for the core file")]
    Read {
        /// The guest-physical address.
        address: u64,
        /// The reader's reason.
        #[source]
        source: io::Error,
    },
    /// What is said to be RAM cannot be: it is empty, not of whole pages, out of order, or more than a core file has room for.
    #[error("A core file cannot have {len:#x} bytes of RAM at {base:#x}")]
    Range {
        /// Guest-physical address of the range.
        base: u64,
        /// Its bytes.
        len: u64,
    },
    /// Its progress was answered with [`ControlFlow::Break`].
    #[error("The core dump was cancelled")]
    Cancelled,
}

/// What goes into a core file. Ranges are guest-physical addresses and bytes.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The vCPUs that the guest has, by number.
    pub cpus: &'a BTreeMap<u32, CpuState>,
    /// All of RAM, in ascending order, in whole pages of 4 KiB.
    pub ranges: &'a [(u64, u64)],
    /// Those parts of RAM that may hold anything but zeroes. Nothing else is read; `ranges` if nobody knows.
    pub occupied: &'a [(u64, u64)],
}

/// What became of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the file with its holes.
    pub total_bytes: u64,
    /// Bytes of RAM that were written: the rest are holes.
    pub stored_bytes: u64,
}

/// A complete core file, which is removed unless it is kept.
#[derive(Debug)]
#[must_use = "dropping it removes the file"]
pub struct Core {
    file: Draft,
    summary: Summary,
}

impl Core {
    /// Brings the file to the disk, and leaves it there. Takes long if the file is large: the machine may run on meanwhile.
    ///
    /// # Errors
    /// [`Error::Write`]; the file is removed.
    pub fn keep(mut self) -> Result<Summary, Error> {
        let synced = self.file.file.sync_all();
        synced.map_err(|e| self.file.refused(e))?;
        self.file.is_kept = true;
        Ok(self.summary)
    }
}

/// Writes a core file to `path`, where no file may be; only the VMM's user can read it. `read` fills a buffer with the RAM at an address.
/// `progress` hears after each MiB how many bytes of RAM are done, and may end it.
///
/// # Errors
/// [`Error`]; no file is left.
pub fn write(
    path: &Path,
    source: &Source<'_>,
    mut read: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    mut progress: impl FnMut(u64) -> ControlFlow<()>,
) -> Result<Core, Error> {
    let notes = notes::all(source.cpus);
    let layout = elf::Layout::new(source.ranges, notes.len() as u64)?;
    let mut core = Core {
        file: Draft::create(path)?,
        summary: Summary { total_bytes: layout.file_len, stored_bytes: 0 },
    };
    core.file.file.set_len(layout.file_len).map_err(|e| core.file.refused(e))?;

    let mut buffer = vec![0; CHUNK as usize];
    let mut done = 0;
    for segment in &layout.segments {
        for piece in segment.pieces(source.occupied) {
            let buffer = &mut buffer[..piece.len as usize];
            read(piece.base, buffer).map_err(|source| Error::Read { address: piece.base, source })?;
            core.summary.stored_bytes +=
                core.file.store(buffer, segment.offset + piece.base - segment.base)?;
            told(&mut progress, done + piece.base + piece.len - segment.base)?;
        }
        done += segment.len;
        told(&mut progress, done)?;
    }
    core.file.write(&layout.program_headers(), elf::FILE_HEADER_LEN)?;
    core.file.write(&notes, layout.notes_offset)?;
    core.file.write(&layout.file_header(), 0)?;
    Ok(core)
}

fn told(progress: &mut impl FnMut(u64) -> ControlFlow<()>, done: u64) -> Result<(), Error> {
    match progress(done) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}

/// A file that goes with its owner.
#[derive(Debug)]
struct Draft {
    name: OwnFile,
    file: File,
    is_kept: bool,
}

impl Draft {
    fn create(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|source| match source.kind() {
            ErrorKind::AlreadyExists => Error::Exists(path.into()),
            _ => Error::Create { path: path.into(), source },
        })?;
        Ok(Self { name: OwnFile::made_at(path.into()), file, is_kept: false })
    }

    fn refused(&self, source: io::Error) -> Error {
        Error::Write { path: self.name.path().into(), source }
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        self.file.write_all_at(bytes, offset).map_err(|e| self.refused(e))
    }

    /// Writes those of `pages` that are not all zeroes; says how many bytes they have.
    fn store(&self, pages: &[u8], offset: u64) -> Result<u64, Error> {
        let (mut stored, mut at) = (0, offset);
        let is_zero = |page: &[u8]| page == &ZEROES[..page.len()];
        let chunks = pages.chunks(ZEROES.len()).collect::<Vec<_>>();
        for run in chunks.chunk_by(|one, next| is_zero(one) == is_zero(next)) {
            let len: usize = run.iter().map(|page| page.len()).sum();
            if !is_zero(run[0]) {
                let start = (at - offset) as usize;
                self.write(&pages[start..start + len], at)?;
                stored += len as u64;
            }
            at += len as u64;
        }
        Ok(stored)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_kept
            && let Err(e) = self.name.remove()
        {
            tracing::warn!("The unfinished core file {} cannot be removed: {e}", self.name.path().display());
        }
    }
}

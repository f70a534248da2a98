//! RAM as a chain of snapshots has it: each looks for a page in its own file, then in its parent's.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::bitmap::Bitmap;
use crate::directory::{Directory, MEMORY, PAGES};
use crate::error::Damage;
use crate::manifest::{Manifest, hexadecimal};
use crate::ranges::{Place, Ranges};
use crate::{Error, PAGE, sparse};

/// The RAM of one snapshot: its files, open.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) ranges: Ranges,
    pub(crate) file: File,
    /// The pages that are in `file`; `None`: all.
    pub(crate) stored: Option<Bitmap>,
    path: PathBuf,
    /// Of `file` when it was opened: length, time of the last change.
    seen: (u64, i64, i64),
}

impl Layer {
    /// Opens the files of the snapshot `manifest`.
    pub(crate) fn open(directory: &Directory, manifest: &Manifest) -> Result<Self, Error> {
        let ranges = manifest.memory.ranges.clone();
        let path = directory.path_of(MEMORY);
        let (file, len) = directory.file(MEMORY)?;
        check_length(len, ranges.total()).map_err(Error::damaged(&path))?;
        let metadata = file.metadata().map_err(Error::io("examine", &path))?;
        let checksum = manifest.checksums.pages.as_deref();
        let stored = checksum.map(|sum| read_pages(directory, &ranges, sum)).transpose()?;
        Ok(Self { ranges, file, stored, path, seen: seen(&metadata) })
    }

    /// An error if `file` was changed since it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<(), Error> {
        let metadata = self.file.metadata().map_err(Error::io("examine", &self.path))?;
        if seen(&metadata) == self.seen { Ok(()) } else { Err(Error::damaged(&self.path)(Damage::Changed)) }
    }

    /// Bytes of pages that are looked for here.
    pub(crate) fn own_bytes(&self) -> u64 {
        self.stored.as_ref().map_or(self.ranges.total(), |pages| pages.count().saturating_mul(PAGE))
    }

    /// Bytes that `file` takes of the disk.
    pub(crate) fn disk_bytes(&self) -> Result<u64, Error> {
        let metadata = self.file.metadata().map_err(Error::io("examine", &self.path))?;
        Ok(metadata.blocks().saturating_mul(512))
    }
}

fn seen(metadata: &Metadata) -> (u64, i64, i64) {
    (metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

fn check_length(len: u64, expected: u64) -> Result<(), Damage> {
    if len == expected { Ok(()) } else { Err(Damage::Length { len, expected }) }
}

fn read_pages(directory: &Directory, ranges: &Ranges, checksum: &str) -> Result<Bitmap, Error> {
    let path = directory.path_of(PAGES);
    let pages = ranges.total() / PAGE;
    let (file, len) = directory.file(PAGES)?;
    check_length(len, Bitmap::file_len(pages)).map_err(Error::damaged(&path))?;
    let mut reader = Hashing { inner: io::BufReader::with_capacity(1 << 20, file), hash: Default::default() };
    let bitmap = Bitmap::read(pages, &mut reader).map_err(Error::io("read", &path))?;
    if hexadecimal(reader.hash) != checksum {
        return Err(Error::damaged(&path)(Damage::Checksum));
    }
    bitmap.ok_or_else(|| Error::damaged(&path)(Damage::StrayPages))
}

/// Hashes what goes through.
pub(crate) struct Hashing<T> {
    pub(crate) inner: T,
    pub(crate) hash: sha2::Sha256,
}

impl<T: io::Read> io::Read for Hashing<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        sha2::Digest::update(&mut self.hash, buf.get(..count).unwrap_or_default());
        Ok(count)
    }
}

impl<T: io::Write> io::Write for Hashing<T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buf)?;
        sha2::Digest::update(&mut self.hash, buf.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Where a number of bytes of RAM are found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    /// The layer's number, its file and the offset in it. `None`: the bytes are zero.
    pub(crate) source: Option<(usize, &'a File, u64)>,
    /// How many bytes, at least one.
    pub(crate) len: u64,
}

/// Where the bytes at `gpa` are found, at most `most` of them, which is not 0. `layers` begins with the snapshot itself and ends with the
/// full one. RAM that a layer has not is zero there, whatever those below it say.
pub(crate) fn locate(layers: &[Layer], gpa: u64, most: u64) -> Segment<'_> {
    let mut len = most;
    for (number, layer) in layers.iter().enumerate() {
        let (offset, left) = match layer.ranges.find(gpa) {
            Place::Gap(gap) => return Segment { source: None, len: len.min(gap) },
            Place::Stored { offset, left } => (offset, left),
        };
        len = len.min(left);
        let found = Some((number, &layer.file, offset));
        let Some(stored) = &layer.stored else { return Segment { source: found, len } };
        let within = offset % PAGE;
        let (here, pages) = stored.run(offset / PAGE, len.saturating_add(within).div_ceil(PAGE));
        len = len.min(pages.saturating_mul(PAGE).saturating_sub(within));
        if here {
            return Segment { source: found, len };
        }
    }
    Segment { source: None, len }
}

/// Fills `buf` with the bytes at `gpa`; what no layer has is zero.
pub(crate) fn fill(layers: &[Layer], gpa: u64, buf: &mut [u8]) -> io::Result<()> {
    let (mut gpa, mut buf) = (gpa, buf);
    while !buf.is_empty() {
        let segment = locate(layers, gpa, buf.len() as u64);
        let len = usize::try_from(segment.len).unwrap_or(usize::MAX).min(buf.len());
        let (now, rest) = buf.split_at_mut(len);
        match segment.source {
            Some((_, file, offset)) => sparse::read(file, now, offset)?,
            None => now.fill(0),
        }
        gpa = gpa.saturating_add(segment.len);
        buf = rest;
    }
    Ok(())
}

/// `len` bytes at `gpa`, piece by piece, each with its address.
pub(crate) fn segments(layers: &[Layer], gpa: u64, len: u64) -> impl Iterator<Item = (u64, Segment<'_>)> {
    let (mut gpa, mut len) = (gpa, len);
    std::iter::from_fn(move || {
        if len == 0 {
            return None;
        }
        let at = gpa;
        let segment = locate(layers, at, len);
        (gpa, len) = (gpa.saturating_add(segment.len), len.saturating_sub(segment.len));
        Some((at, segment))
    })
}

/// Pages that are no hole of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DataRun<'a> {
    /// Their guest-physical address.
    pub(crate) gpa: u64,
    /// Bytes.
    pub(crate) len: u64,
    pub(crate) file: &'a File,
    /// Where in `file`.
    pub(crate) offset: u64,
}

/// The pages of `segment`, which begins with a page at `gpa`, that are no hole. Ends with the first error.
pub(crate) fn data_runs(gpa: u64, segment: Segment<'_>) -> impl Iterator<Item = io::Result<DataRun<'_>>> {
    let mut next = segment.source.map(|(_, file, offset)| (file, offset));
    let first = next.map_or(0, |(_, offset)| offset);
    let end = first.saturating_add(segment.len);
    std::iter::from_fn(move || {
        let (file, from) = next.take()?;
        let (start, len) = match sparse::data(file, from, end) {
            Ok(found) => found?,
            Err(error) => return Some(Err(error)),
        };
        // Blocks of a file system may be smaller than pages.
        let offset = start - start % PAGE;
        let until = start.saturating_add(len).next_multiple_of(PAGE).min(end);
        next = Some((file, until));
        Some(Ok(DataRun { gpa: gpa + (offset - first), len: until - offset, file, offset }))
    })
}

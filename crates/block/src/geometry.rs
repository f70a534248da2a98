//! How large an image file or block device is and what alignment it wants.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use rustix::fs::{AtFlags, StatxFlags, statx};

use crate::SECTOR;

/// The shape of a disk as a guest is told. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The unit the disk is addressed in.
    pub logical_block: u32,
    /// The unit the disk writes without reading first; at least a logical block.
    pub physical_block: u32,
    /// The smallest transfer that is not slow.
    pub minimum_io: u32,
    /// The best transfer; 0 if there is none.
    pub optimal_io: u32,
}

impl Default for Topology {
    fn default() -> Self {
        let block = SECTOR as u32;
        Self { logical_block: block, physical_block: block, minimum_io: block, optimal_io: 0 }
    }
}

/// The largest [`Alignment`] there is.
pub(crate) const MAX_ALIGNMENT: usize = 64 << 10;

/// What direct I/O demands, in bytes; powers of two up to [`MAX_ALIGNMENT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alignment {
    /// Of buffers.
    pub memory: u64,
    /// Of offsets and lengths.
    pub offset: u64,
}

// Block device requests of <linux/fs.h>. The direction bits of the sizes are a historical accident that the kernel keeps.
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
const BLKSSZGET: libc::c_ulong = 0x1268;
const BLKPBSZGET: libc::c_ulong = 0x127b;
const BLKIOMIN: libc::c_ulong = 0x1278;
const BLKIOOPT: libc::c_ulong = 0x1279;

/// Bytes of data behind `file`.
pub(crate) fn size(file: &File, metadata: &Metadata) -> io::Result<u64> {
    if !metadata.file_type().is_block_device() {
        return Ok(metadata.len());
    }
    let mut size = 0u64;
    // SAFETY: BLKGETSIZE64 writes one u64.
    let status = unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64 as _, &raw mut size) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(size) }
}

/// The shape of the disk behind `file`. A regular file has the default one.
pub(crate) fn topology(file: &File, metadata: &Metadata) -> io::Result<Topology> {
    if !metadata.file_type().is_block_device() {
        return Ok(Topology::default());
    }
    let logical_block = query(file, BLKSSZGET)?;
    let physical_block = query(file, BLKPBSZGET)?.max(logical_block);
    let minimum_io = query(file, BLKIOMIN)?.max(logical_block);
    Ok(Topology { logical_block, physical_block, minimum_io, optimal_io: query(file, BLKIOOPT)? })
}

fn query(file: &File, request: libc::c_ulong) -> io::Result<u32> {
    let mut value = 0u32;
    // SAFETY: all requests this is called with write one 32-bit integer.
    let status = unsafe { libc::ioctl(file.as_raw_fd(), request as _, &raw mut value) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// What direct I/O on `file` demands. Kernels before 6.1 do not say; then it is the block size a device has, or 4 KiB, which satisfies
/// every file system in use.
pub(crate) fn alignment(file: &File, metadata: &Metadata, topology: &Topology) -> io::Result<Alignment> {
    let known = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)?;
    let (memory, offset) = (u64::from(known.stx_dio_mem_align), u64::from(known.stx_dio_offset_align));
    let is_sound = |align: u64| align.is_power_of_two() && align <= MAX_ALIGNMENT as u64;
    if is_sound(memory) && is_sound(offset) {
        return Ok(Alignment { memory, offset });
    }
    let block = if metadata.file_type().is_block_device() { u64::from(topology.logical_block) } else { 4096 };
    if !is_sound(block) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(Alignment { memory: block, offset: block })
}

/// The serial number a disk has when the user gives none: three numbers of the file, run together, cut at 20 bytes.
pub(crate) fn serial(metadata: &Metadata) -> String {
    let mut serial = format!("{}{}{}", metadata.dev(), metadata.rdev(), metadata.ino());
    serial.truncate(20);
    serial
}

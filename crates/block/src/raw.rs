//! Raw images: byte n of the disk is byte n of the file or block device.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use config::{ImageType, plan};
use rustix::fs::{FallocateFlags, OFlags, fallocate, fcntl_setfl};

use crate::engine::{Engine, SyncEngine, UringEngine};
use crate::geometry::{self, Alignment};
use crate::{Image, LockError, LockRange, OpenError, ResizeError, SECTOR, Topology, lock};

/// What the engines of a raw image share.
#[derive(Debug)]
pub(crate) struct Extent {
    /// The file, open for direct I/O if there is an `alignment`.
    pub file: File,
    /// What direct I/O demands of offsets and buffers; `None` if the page cache takes everything.
    pub alignment: Option<Alignment>,
    /// The file system cannot zero a range and keep its blocks: found out when it is first asked to.
    pub no_zero_range: AtomicBool,
}

/// An open raw image.
#[derive(Debug)]
pub(crate) struct RawImage {
    disk: plan::Disk,
    extent: Arc<Extent>,
    is_device: bool,
    size: AtomicU64,
    topology: Topology,
    can_zero: bool,
    serial: String,
}

impl RawImage {
    /// Takes `file` of `size` bytes over, found to be raw.
    pub(crate) fn new(
        file: File,
        metadata: &Metadata,
        size: u64,
        disk: &plan::Disk,
        lock: Option<LockRange>,
    ) -> Result<Self, OpenError> {
        let path = || disk.path.clone();
        let topology = geometry::topology(&file, metadata)
            .map_err(|source| OpenError::Examine { path: path(), source })?;
        let flags = if disk.direct { OFlags::DIRECT } else { OFlags::empty() };
        fcntl_setfl(&file, flags).map_err(|e| OpenError::Direct { path: path(), source: e.into() })?;
        let alignment = disk
            .direct
            .then(|| geometry::alignment(&file, metadata, &topology))
            .transpose()
            .map_err(|source| OpenError::Examine { path: path(), source })?;
        if !size.is_multiple_of(SECTOR) {
            let tail = size % SECTOR;
            tracing::warn!("{}: the last {tail} bytes are no whole sector: hidden", disk.path.display());
        }
        let is_device = metadata.file_type().is_block_device();
        let image = Self {
            can_zero: !disk.readonly && (is_device || can_punch(&file, size)),
            is_device,
            size: AtomicU64::new(size - size % SECTOR),
            topology,
            serial: geometry::serial(metadata),
            extent: Arc::new(Extent { file, alignment, no_zero_range: AtomicBool::new(false) }),
            disk: disk.clone(),
        };
        if let Some(range) = lock {
            image.lock(range).map_err(OpenError::Lock)?;
        }
        if !disk.sparse {
            image.preallocate();
        }
        Ok(image)
    }

    fn preallocate(&self) {
        let size = self.size();
        if self.is_device || self.disk.readonly || size == 0 {
            return;
        }
        if let Err(e) = fallocate(&self.extent.file, FallocateFlags::empty(), 0, size) {
            tracing::warn!("{}: cannot allocate all blocks: {e}", self.disk.path.display());
        }
    }
}

/// Whether holes can be punched, tried beyond the end of the file where there is nothing to lose.
fn can_punch(file: &File, size: u64) -> bool {
    const PROBE_LEN: u64 = 4096;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    size.checked_next_multiple_of(PROBE_LEN).is_some_and(|end| fallocate(file, flags, end, PROBE_LEN).is_ok())
}

impl Image for RawImage {
    fn format(&self) -> ImageType {
        ImageType::Raw
    }

    fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    fn topology(&self) -> Topology {
        self.topology
    }

    fn can_zero(&self) -> bool {
        self.can_zero
    }

    fn guards_first_sector(&self) -> bool {
        self.disk.image_type == ImageType::Unknown
    }

    fn default_serial(&self) -> String {
        self.serial.clone()
    }

    fn engine(&self, depth: u16) -> io::Result<Box<dyn Engine>> {
        if self.disk.io_uring {
            match UringEngine::new(self.extent.clone(), depth) {
                Ok(engine) => return Ok(Box::new(engine)),
                Err(e) => tracing::info!("{}: no io_uring ({e})", self.disk.path.display()),
            }
        }
        Ok(Box::new(SyncEngine::new(self.extent.clone())))
    }

    fn resize(&self, bytes: u64) -> Result<(), ResizeError> {
        if !bytes.is_multiple_of(SECTOR) {
            return Err(ResizeError::Sectors(bytes));
        }
        let file = &self.extent.file;
        if self.is_device {
            let found = geometry::size(file, &file.metadata()?)?;
            if found != bytes {
                return Err(ResizeError::Device { wanted: bytes, found });
            }
        } else if self.disk.readonly {
            return Err(ResizeError::ReadOnly);
        } else {
            file.set_len(bytes)?;
        }
        self.size.store(bytes, Ordering::Relaxed);
        if !self.disk.sparse {
            self.preallocate();
        }
        Ok(())
    }

    fn lock(&self, range: LockRange) -> Result<(), LockError> {
        let Extent { file, .. } = &*self.extent;
        let path = &self.disk.path;
        let len = match range {
            LockRange::Whole => 0,
            // A sparse image is larger than its blocks, a preallocated one may be smaller.
            LockRange::Bytes => {
                file.metadata().map_or(0, |m| self.size().max(m.blocks().saturating_mul(512)))
            }
        };
        lock::acquire(file, path, len, !self.disk.readonly)
    }

    fn unlock(&self) -> Result<(), LockError> {
        lock::release(&self.extent.file, &self.disk.path)
    }
}

impl AsRawFd for Extent {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.file.as_raw_fd()
    }
}

#[cfg(test)]
mod tests;

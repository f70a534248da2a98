//! Opening an image: the one place where a format is chosen. Called by the control thread.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use config::{ImageType, plan};
use thiserror::Error;

use crate::lock::LockRange;
use crate::raw::RawImage;
use crate::{Engine, LockError, Topology, detect, geometry};

/// An open disk image of some format, shared by the queues of its disk.
pub trait Image: Send + Sync + fmt::Debug {
    /// The format it was found to have.
    fn format(&self) -> ImageType;

    /// Bytes of the disk inside, a multiple of [`crate::SECTOR`].
    fn size(&self) -> u64;

    /// The shape of the disk.
    fn topology(&self) -> Topology;

    /// Whether ranges can be given back or zeroed without writing them.
    fn can_zero(&self) -> bool;

    /// Whether the first sector must not be written, because a guest could turn the image into another format that way: its format
    /// was guessed.
    fn guards_first_sector(&self) -> bool;

    /// The serial number of a disk whose user gave none: at most 20 ASCII bytes.
    fn default_serial(&self) -> String;

    /// Makes the engine of one queue, for the calling thread. At most `depth` requests will be under way at a time.
    ///
    /// # Errors
    /// The kernel's, if there is no descriptor or memory left.
    fn engine(&self, depth: u16) -> io::Result<Box<dyn Engine>>;

    /// Changes the size of the disk inside to `bytes`.
    ///
    /// # Errors
    /// [`ResizeError`]; the disk keeps its size.
    fn resize(&self, bytes: u64) -> Result<(), ResizeError>;

    /// Locks the image against other programs, exclusively if it is writable.
    ///
    /// # Errors
    /// [`LockError`] if another program holds a lock or the file system has none.
    fn lock(&self, range: LockRange) -> Result<(), LockError>;

    /// Gives the lock back, for a migration's destination to take.
    ///
    /// # Errors
    /// [`LockError`] if the file system failed.
    fn unlock(&self) -> Result<(), LockError>;
}

/// Why an image cannot be opened. Each names the file.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The file cannot be opened.
    #[error("Cannot open disk image '{}'", path.display())]
    Open {
        /// The image.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A directory, socket or the like.
    #[error("Disk image '{}' is neither a file nor a block device", path.display())]
    NotADisk {
        /// The image.
        path: PathBuf,
    },
    /// Size, block size or contents cannot be read.
    #[error("Cannot examine disk image '{}'", path.display())]
    Examine {
        /// The image.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// Direct I/O was asked for where there is none.
    #[error("Cannot use direct I/O on disk image '{}': the file system may not support it", path.display())]
    Direct {
        /// The image.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The user promised another format.
    #[error("Disk image '{}' is of type {found}, not {expected}", path.display())]
    Mismatch {
        /// The image.
        path: PathBuf,
        /// What the user said.
        expected: ImageType,
        /// What the file says.
        found: ImageType,
    },
    /// A format this program has no code for.
    #[error("Disk image '{}' is of type {format}, which is not supported: convert it to raw", path.display())]
    Unsupported {
        /// The image.
        path: PathBuf,
        /// Its format.
        format: ImageType,
    },
    /// The lock was not given.
    #[error("Another instance likely holds a lock")]
    Lock(#[source] LockError),
}

/// Why a disk cannot be resized.
#[derive(Debug, Error)]
pub enum ResizeError {
    /// Disks consist of sectors.
    #[error("The size of a disk must be a multiple of 512, {0} is not")]
    Sectors(u64),
    /// A block device changes its size by other means.
    #[error("The block device has {found} bytes, not {wanted}: resize it first")]
    Device {
        /// The size asked for.
        wanted: u64,
        /// The size it has.
        found: u64,
    },
    /// The format has no way.
    #[error("Disk images of type {0} cannot be resized")]
    Unsupported(ImageType),
    /// The image is opened for reading only.
    #[error("A read-only disk cannot be resized")]
    ReadOnly,
    /// The file system failed.
    #[error("Cannot resize the disk image")]
    Io(#[from] io::Error),
}

/// Opens the image of `disk`, and locks it against other programs before anything in it is changed; not if `lock` is `None`, which
/// leaves that to [`Image::lock`].
///
/// # Errors
/// [`OpenError`] names the file and what is wrong with it.
pub fn open(disk: &plan::Disk, lock: Option<LockRange>) -> Result<Arc<dyn Image>, OpenError> {
    let path = || disk.path.clone();
    let file = File::options()
        .read(true)
        .write(!disk.readonly)
        // A named pipe would make the caller wait for its other end.
        .custom_flags(libc::O_NONBLOCK)
        .open(&disk.path)
        .map_err(|source| OpenError::Open { path: path(), source })?;
    let examine = |source| OpenError::Examine { path: path(), source };
    let metadata = file.metadata().map_err(examine)?;
    if !metadata.is_file() && !metadata.file_type().is_block_device() {
        return Err(OpenError::NotADisk { path: path() });
    }
    let size = geometry::size(&file, &metadata).map_err(examine)?;
    let found = detect::detect(&file, size).map_err(examine)?;
    match disk.image_type {
        ImageType::Unknown => tracing::warn!(
            "{}: found to be of type {found}: say image_type={found} to be sure of it",
            disk.path.display()
        ),
        expected if expected != found => {
            return Err(OpenError::Mismatch { path: path(), expected, found });
        }
        _ => {}
    }
    match found {
        ImageType::Raw => Ok(Arc::new(RawImage::new(file, &metadata, size, disk, lock)?)),
        format => Err(OpenError::Unsupported { path: path(), format }),
    }
}

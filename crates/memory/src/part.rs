//! The memory of one region: where it is mapped, and what its bytes are where nobody has written.

use std::fs::File;
use std::sync::{Arc, OnceLock};

use crate::bits::PageBits;
use crate::demand::Awaited;
use crate::mapping::Mapping;
use crate::missing::Guard;
use crate::{HostMemory, RamRegion, SavedRange};

/// Bytes of an ordinary page.
pub(crate) const PAGE: usize = 4096;

/// What the bytes of a region are where nobody has written.
#[derive(Debug)]
pub(crate) enum Backing {
    /// Zeroes. Huge pages come from a file that has nothing in it; what is written is written elsewhere.
    Zeroes {
        /// The file.
        file: Option<File>,
        /// Where the region begins in it.
        offset: u64,
    },
    /// Those of a file from `offset` on, and whatever is written is written there.
    Shared {
        /// The file.
        file: File,
        /// Where the region begins in it.
        offset: u64,
    },
    /// Those of a file from `offset` on, which does not change.
    Copied {
        /// The file.
        file: File,
        /// Where the region begins in it.
        offset: u64,
        /// It is that of a snapshot.
        is_snapshot: bool,
    },
}

/// The memory of one region.
#[derive(Debug)]
pub(crate) struct Part {
    mapping: Mapping,
    pub(crate) backing: Backing,
    /// Bytes of the host pages, if they are larger than usual.
    huge: Option<u64>,
    /// What the region is in a snapshot.
    pub(crate) saved: SavedRange,
    /// Pages that were given back to the host and are zero since then, whatever [`Backing::Copied`] says. Allocated with the first.
    pub(crate) dropped: OnceLock<PageBits>,
    /// Pages whose content is still to come.
    pub(crate) awaited: OnceLock<Awaited>,
}

impl Part {
    /// A part that is all of `mapping`, made of huge pages of `huge` bytes if it is.
    pub(crate) fn new(mapping: Mapping, backing: Backing, huge: Option<u64>, saved: SavedRange) -> Self {
        Self { mapping, backing, huge, saved, dropped: OnceLock::new(), awaited: OnceLock::new() }
    }

    /// What `region` consists of. All regions that this crate makes have it.
    pub(crate) fn of(region: &RamRegion) -> Option<Arc<Self>> {
        region.get_mmap().bitmap().part().cloned()
    }

    /// The first byte.
    pub(crate) fn start(&self) -> *mut u8 {
        self.mapping.start()
    }

    /// Bytes.
    pub(crate) fn size(&self) -> usize {
        self.mapping.size()
    }

    /// Ordinary pages in it.
    pub(crate) fn pages(&self) -> usize {
        self.size().div_ceil(PAGE)
    }

    /// Bytes of a host page: what can be given back to the host at the least.
    pub(crate) fn host_page(&self) -> u64 {
        self.huge.unwrap_or(PAGE as u64)
    }

    /// Bytes of its pages, if they come from a pool of huge ones.
    pub(crate) fn huge(&self) -> Option<u64> {
        self.huge
    }

    /// Whether its pages come from a pool of huge ones.
    pub(crate) fn is_huge(&self) -> bool {
        self.huge.is_some()
    }
}

// SAFETY: the mapping is made for the part, never moved, and unmapped with it; nothing here makes references to its bytes, and
// `vm-memory`, which reads and writes them, makes none either.
unsafe impl HostMemory for Part {
    fn start(&self) -> *mut u8 {
        self.start()
    }

    fn size(&self) -> usize {
        self.size()
    }

    fn guard(&self) -> Option<&Guard> {
        Some(self.mapping.guard())
    }
}

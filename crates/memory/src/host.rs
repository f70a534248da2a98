//! Memory of this process that a guest may be given.

use crate::mapping::Mapping;

/// A stretch of this process's memory that stays where it is as long as the value lives: guest RAM, a read-only image, a device's BAR,
/// a region shared with a back end. Whoever maps it into a guest keeps the value until the guest cannot reach it any more.
///
/// # Safety
/// From its creation until it is dropped, a value answers the same start and size, the bytes there stay mapped, and no Rust reference
/// to them exists: a guest may change them at any moment.
pub unsafe trait HostMemory: Send + Sync {
    /// The first byte.
    fn start(&self) -> *mut u8;

    /// Bytes.
    fn size(&self) -> usize;
}

// SAFETY: the range is mapped in `new`, never moved, and unmapped in `drop`; nothing here makes references to its bytes, and
// `vm-memory`, which reads and writes them, makes none either.
unsafe impl HostMemory for Mapping {
    fn start(&self) -> *mut u8 {
        self.start()
    }

    fn size(&self) -> usize {
        self.size()
    }
}

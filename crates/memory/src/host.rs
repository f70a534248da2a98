//! Memory of this process that a guest may be given.

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::mm::MapFlags;

use crate::mapping::Mapping;
use crate::missing::Guard;

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

    /// What looks after its pages, if they can be missing.
    fn guard(&self) -> Option<&Guard> {
        None
    }
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

    fn guard(&self) -> Option<&Guard> {
        Some(self.guard())
    }
}

/// What the bytes of a device's memory are in the beginning, and where writes to them go.
#[derive(Clone, Copy, Debug)]
pub enum Contents<'f> {
    /// The beginning of this file, which is open for reading and writing: writes go into it.
    File(&'f File),
    /// The beginning of this file, which is open for reading: writes are nobody else's.
    CopyOf(&'f File),
    /// Zeroes.
    Zeroes,
}

/// Maps `size` bytes for a guest, without RAM or swap set aside for them, at an address of this process that is a multiple of `align` (a
/// power of two). A file has to be that long, and to stay so: beyond its end there is nothing, and whoever touches that fails. Then it is
/// called `name` ([`crate::missing`]).
///
/// # Errors
/// The kernel's, if the file cannot be mapped or there is no room; [`io::ErrorKind::InvalidInput`] if the size is no multiple of the page
/// size, zero, or more than any process has addresses for.
pub fn map(name: &str, contents: Contents<'_>, size: u64, align: usize) -> io::Result<Arc<dyn HostMemory>> {
    const PAGE: u64 = 4096;
    const ADDRESSES: u64 = 1 << 47;
    if !size.is_multiple_of(PAGE) || size >= ADDRESSES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let size = usize::try_from(size).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let (sharing, file) = match contents {
        Contents::File(file) => (MapFlags::SHARED, Some((file, 0))),
        Contents::CopyOf(file) => (MapFlags::PRIVATE, Some((file, 0))),
        Contents::Zeroes => (MapFlags::PRIVATE, None),
    };
    Ok(Arc::new(Mapping::new(name, size, 0, align, sharing | MapFlags::NORESERVE, file)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    const SIZE: u64 = 2 << 20;

    /// A file without a name, full of ones.
    fn file() -> File {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = File::from(rustix::fs::memfd_create("test", flags).unwrap());
        file.write_all_at(&vec![1; SIZE as usize], 0).unwrap();
        file
    }

    #[test]
    fn writes_go_where_they_are_meant_to() {
        for (contents, first, stays) in [
            (Contents::File(&file()), 1, false),
            (Contents::CopyOf(&file()), 1, true),
            (Contents::Zeroes, 0, true),
        ] {
            let memory = map("test", contents, SIZE, SIZE as usize).unwrap();
            assert_eq!((memory.size() as u64, memory.start().addr() as u64 % SIZE), (SIZE, 0));
            // SAFETY: the last byte of a mapping made for reading and writing, which nobody else knows.
            let before = unsafe { memory.start().add(memory.size() - 1).replace(7) };
            assert_eq!(before, first);
            if let Contents::File(file) | Contents::CopyOf(file) = contents {
                let mut last = [0];
                file.read_exact_at(&mut last, SIZE - 1).unwrap();
                assert_eq!(last == [1], stays, "{contents:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_mapped() {
        for size in [0, 1, SIZE + 512, 1 << 47, 1 << 63] {
            let error = map("test", Contents::Zeroes, size, 4096).err().unwrap();
            // Not for want of memory: another size would have helped.
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{size:#x}");
        }
    }
}

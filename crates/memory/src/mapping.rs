//! A mapping of guest RAM in this process, placed so that huge pages work.
//!
//! The CPU's second stage can map 2 MiB at once only where guest and host addresses agree in their low 21 bits. The kernel places
//! mappings at any page, so room for a shift is reserved first and the mapping goes to the right place in it.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::ptr;

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::extents::huge_page;
use crate::missing::Guard;

/// Memory that a guest is given.
#[derive(Debug)]
pub(crate) struct Mapping {
    // Dropped first: nothing looks after addresses that somebody else may have.
    guard: Guard,
    addresses: Addresses,
}

/// Owns a range of addresses and unmaps it when dropped.
#[derive(Debug)]
struct Addresses {
    start: *mut c_void,
    len: usize,
}

// SAFETY: the range belongs to the process as a whole; this type only unmaps it, once.
unsafe impl Send for Addresses {}
// SAFETY: as above: nothing can be done through a shared reference.
unsafe impl Sync for Addresses {}

impl Mapping {
    /// Maps `len` bytes of `file` from its offset on, or anonymous memory, so that the address equals `guest` modulo `align` (a power of
    /// two). `name` is what it is called if pages of it turn out to be missing.
    pub(crate) fn new(
        name: &str,
        len: usize,
        guest: u64,
        align: usize,
        flags: MapFlags,
        file: Option<(&File, u64)>,
    ) -> io::Result<Self> {
        let room = len.checked_add(align).ok_or(io::ErrorKind::OutOfMemory)?;
        let unused = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a mapping at an address of the kernel's choice disturbs nothing.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), room, ProtFlags::empty(), unused) }?;
        let reserved = Addresses { start, len: room };
        let shift = (guest as usize).wrapping_sub(start.addr()) & (align - 1);
        let place = start.wrapping_byte_add(shift);
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, flags | MapFlags::FIXED);
        // SAFETY: `shift` is less than `align`, so the fixed range lies in the reservation made above, which nobody else uses.
        unsafe {
            match file {
                Some((file, offset)) => mmap(place, len, access, flags, file, offset),
                None => mmap_anonymous(place, len, access, flags),
            }
        }?;
        let addresses = reserved.cut_to(place, len);
        let page = file.and_then(|(file, _)| huge_page(file));
        let named = file.filter(|(file, _)| has_name(file));
        let named = named.map(|(file, offset)| Ok::<_, io::Error>((file.try_clone()?, offset + len as u64)));
        // SAFETY: the range is mapped as long as `addresses`, which is dropped behind the guard. No references to its bytes exist (see
        // `HostMemory`), so that nobody minds if they change.
        let guard = unsafe { Guard::new(name, place.cast(), len, page, named.transpose()?) };
        Ok(Self { guard, addresses })
    }

    /// The first byte.
    pub(crate) fn start(&self) -> *mut u8 {
        self.addresses.start.cast()
    }

    /// Bytes.
    pub(crate) fn size(&self) -> usize {
        self.addresses.len
    }

    /// What looks after its pages.
    pub(crate) fn guard(&self) -> &Guard {
        &self.guard
    }
}

/// Whether others can open it, and make it shorter. Block devices stay as they are.
fn has_name(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.nlink() > 0)
}

impl Addresses {
    /// Gives back what lies before and behind.
    fn cut_to(self, place: *mut c_void, len: usize) -> Self {
        let before = place.addr() - self.start.addr();
        let behind = self.len - before - len;
        drop(Self { start: self.start, len: before });
        drop(Self { start: place.wrapping_byte_add(len), len: behind });
        std::mem::forget(self);
        Self { start: place, len }
    }
}

impl Drop for Addresses {
    fn drop(&mut self) {
        if self.len != 0 {
            // SAFETY: the range was mapped by `new` and is owned here; regions that point into it keep this value.
            // Unmapping a whole mapping cannot fail.
            let _ = unsafe { munmap(self.start, self.len) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_agree_with_the_guest_s_in_their_low_bits() {
        const ALIGN: usize = 2 << 20;
        for guest in [0, 0x1000, 0x1_0020_3000] {
            let mapping = Mapping::new("test", 3 << 20, guest, ALIGN, MapFlags::PRIVATE, None).unwrap();
            assert_eq!(mapping.start().addr() % ALIGN, guest as usize % ALIGN);
            // SAFETY: the first and last byte of a mapping made for reading and writing.
            unsafe {
                mapping.start().write(1);
                mapping.start().add((3 << 20) - 1).write(1);
            }
        }
    }
}

//! Pages behind guest RAM: those that the guest does without go back to the host, and its addresses stay.

use std::io;
use std::ops::Range;

use rustix::fs::FallocateFlags;
use rustix::mm::Advice;
use thiserror::Error;
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::part::{Backing, PAGE, Part};
use crate::{DmaView, RamRegion};

/// Why pages did not go to the host or come from it. Nothing was touched, unless it is the host that refused.
#[derive(Debug, Error)]
pub enum PagesError {
    /// Some of it is no RAM.
    #[error("There are no {len} bytes of RAM at {start:#x}")]
    Outside {
        /// First address.
        start: u64,
        /// Bytes.
        len: u64,
    },
    /// The kernel does not take this kind of memory back.
    #[error("The host does not take memory back")]
    Discard(#[source] io::Error),
    /// The host has no more huge pages.
    #[error("The host has no huge pages left")]
    Claim(#[source] io::Error),
}

impl DmaView {
    /// Bytes of a host page behind the physical address `address`; `None` if there is no RAM. Less than a page is never given back.
    pub fn host_page(&self, address: GuestAddress) -> Option<u64> {
        Some(self.map().find_region(address)?.get_mmap().bitmap().part()?.host_page())
    }

    /// Gives the host pages that lie wholly within `len` bytes from `start` back to the host. Whoever reads them next finds zeroes,
    /// and whoever touches them next takes them from the host anew.
    ///
    /// # Errors
    /// [`PagesError`]; a range that is not all RAM is left alone as a whole.
    pub fn discard(&self, start: GuestAddress, len: u64) -> Result<(), PagesError> {
        self.each_region(start, len, |region, offset, len| {
            discard_within(region, offset, len).map_err(PagesError::Discard)
        })
    }

    /// Sees to it that there are host pages behind `len` bytes from `start`, if they are huge ones: those come from a pool, and one that
    /// is missing when it is touched is a bus error. Ordinary pages come when they are touched.
    ///
    /// # Errors
    /// [`PagesError`]; then none of the range has pages.
    pub fn claim(&self, start: GuestAddress, len: u64) -> Result<(), PagesError> {
        let claimed = self.each_region(start, len, |region, offset, len| {
            claim_within(region, offset, len).map_err(PagesError::Claim)
        });
        if let Err(PagesError::Claim(_)) = claimed {
            self.discard(start, len)?;
        }
        claimed
    }

    /// Calls `act` with each region of a range that is all RAM: with the offset and the length in it.
    fn each_region(
        &self,
        start: GuestAddress,
        len: u64,
        mut act: impl FnMut(&RamRegion, usize, usize) -> Result<(), PagesError>,
    ) -> Result<(), PagesError> {
        let outside = || PagesError::Outside { start: start.0, len };
        let size = usize::try_from(len).map_err(|_| outside())?;
        if !self.map().check_range(start, size) {
            return Err(outside());
        }
        let (mut at, mut left) = (start, len);
        while left > 0 {
            let region = self.map().find_region(at).ok_or_else(outside)?;
            let offset = at.0 - region.start_addr().0;
            let part = left.min(region.len() - offset);
            act(region, offset as usize, part as usize)?;
            at = GuestAddress(at.0.saturating_add(part));
            left -= part;
        }
        Ok(())
    }
}

/// `offset + len` lies within the region.
fn discard_within(region: &RamRegion, offset: usize, len: usize) -> io::Result<()> {
    let memory = region.get_mmap();
    let Some(part) = memory.bitmap().part() else { return Err(io::ErrorKind::Unsupported.into()) };
    let page = part.host_page() as usize;
    // Regions begin at a host page, in guest and host.
    let (first, end) = (offset.next_multiple_of(page), (offset + len) / page * page);
    let Some(len) = end.checked_sub(first).filter(|len| *len > 0) else { return Ok(()) };
    // Content that is still to come would come into pages that the guest expects to be zero.
    let _held = part.awaited.get().map(|awaited| awaited.forget(first / page..end / page));
    part.give_back(first / PAGE..end / PAGE)?;
    memory.bitmap().mark_dirty(first, len);
    Ok(())
}

impl Part {
    /// Gives whole host pages back; they are zero from now on.
    pub(crate) fn give_back(&self, pages: Range<usize>) -> io::Result<()> {
        match &self.backing {
            // The pages are the file's: leaving them unmapped would free nothing.
            Backing::Shared { file, offset } => {
                let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let (first, len) = ((pages.start * PAGE) as u64, (pages.len() * PAGE) as u64);
                Ok(rustix::fs::fallocate(file, hole, offset + first, len)?)
            }
            // The pages are the mapping's own: a file that it began as is not to change.
            Backing::Zeroes { .. } | Backing::Copied { .. } => self.drop_private(pages),
        }
    }
}

/// `offset + len` lies within the region.
fn claim_within(region: &RamRegion, offset: usize, len: usize) -> io::Result<()> {
    let memory = region.get_mmap();
    if memory.is_hugetlbfs() != Some(true) {
        return Ok(());
    }
    let place = memory.as_ptr().wrapping_add(offset).cast();
    // SAFETY: the range lies within the region's mapping, which stays as long as the region; the advice changes no contents.
    Ok(unsafe { rustix::mm::madvise(place, len, Advice::LinuxPopulateWrite) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::MetadataExt;

    use config::plan::Zone;

    use crate::{Bytes, GuestRam, test_ram};

    const PAGE: u64 = 4096;
    const MARK: [u8; 8] = *b"occupied";

    fn marked(ram: &GuestRam, pages: u64) -> DmaView {
        let view = ram.dma().view();
        (0..pages).for_each(|page| view.write_slice(&MARK, GuestAddress(page * PAGE)).unwrap());
        view
    }

    fn is_marked(view: &DmaView, page: u64) -> bool {
        view.read_obj::<[u8; 8]>(GuestAddress(page * PAGE)).unwrap() == MARK
    }

    #[test]
    fn whole_pages_go_and_the_others_stay() {
        // Two regions that meet.
        let ram = test_ram(&[(0, 4 * PAGE as usize), (4 * PAGE, 4 * PAGE as usize)]);
        let view = marked(&ram, 8);
        view.discard(GuestAddress(PAGE + 1), 5 * PAGE).unwrap();
        let left: Vec<u64> = (0..8).filter(|page| is_marked(&view, *page)).collect();
        assert_eq!(left, [0, 1, 6, 7]);
        view.discard(GuestAddress(7 * PAGE), PAGE - 1).unwrap();
        view.discard(GuestAddress(7 * PAGE), 0).unwrap();
        assert!(is_marked(&view, 7));
        view.write_slice(&MARK, GuestAddress(2 * PAGE)).unwrap();
        assert!(is_marked(&view, 2));
    }

    #[test]
    fn what_is_not_all_ram_is_left_alone() {
        let ram = test_ram(&[(0, 4 * PAGE as usize), (8 * PAGE, 4 * PAGE as usize)]);
        let view = marked(&ram, 4);
        for (start, len) in
            [(0, 5 * PAGE), (3 * PAGE, 6 * PAGE), (4 * PAGE, PAGE), (PAGE, u64::MAX), (u64::MAX, PAGE)]
        {
            let refused = view.discard(GuestAddress(start), len);
            assert!(matches!(refused, Err(PagesError::Outside { .. })), "{start:#x} {len:#x}: {refused:?}");
        }
        assert!((0..4).all(|page| is_marked(&view, page)));
        assert_eq!(view.host_page(GuestAddress(0)), Some(PAGE));
        assert_eq!(view.host_page(GuestAddress(5 * PAGE)), None);
    }

    #[test]
    fn shared_memory_gets_a_hole() {
        let zone = Zone { shared: true, ..Zone::new("z", 8 * PAGE) };
        let ram = GuestRam::allocate(&[zone]).unwrap();
        let view = marked(&ram, 8);
        let region = ram.map().find_region(GuestAddress(0)).unwrap().get_mmap();
        let file = region.file_offset().unwrap().file();
        let before = file.metadata().unwrap().blocks();
        view.discard(GuestAddress(2 * PAGE), 3 * PAGE).unwrap();
        assert_eq!(before - file.metadata().unwrap().blocks(), 3 * PAGE / 512);
        let left: Vec<u64> = (0..8).filter(|page| is_marked(&view, *page)).collect();
        assert_eq!(left, [0, 1, 5, 6, 7]);
        assert_eq!(file.metadata().unwrap().len(), 8 * PAGE);
    }

    #[test]
    fn a_file_that_is_mapped_privately_does_not_change() {
        let path = std::env::temp_dir().join(format!("memory-discard-{}", std::process::id()));
        std::fs::write(&path, vec![b'f'; 4 * PAGE as usize]).unwrap();
        let zone = Zone { file: Some(path.clone()), ..Zone::new("z", 4 * PAGE) };
        let ram = GuestRam::allocate(&[zone]).unwrap();
        let view = marked(&ram, 4);
        view.discard(GuestAddress(0), 2 * PAGE).unwrap();
        let content = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(content == vec![b'f'; 4 * PAGE as usize]);
        assert_eq!(view.read_obj::<[u8; 8]>(GuestAddress(0)).unwrap(), [0; 8]);
        assert!(is_marked(&view, 2));
        assert_eq!(view.read_obj::<[u8; 8]>(GuestAddress(3 * PAGE + 8)).unwrap(), *b"ffffffff");
    }

    #[test]
    fn it_is_a_write_of_our_own() {
        let ram = test_ram(&[(0, 8 * PAGE as usize)]);
        let region = ram.map().find_region(GuestAddress(0)).unwrap().get_mmap();
        let log = region.bitmap();
        log.enable();
        ram.dma().view().discard(GuestAddress(PAGE), 2 * PAGE).unwrap();
        assert_eq!(log.take()[0], 0b110);
    }
}

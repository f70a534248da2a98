//! Giving back pages of a file that is mapped privately.
//!
//! Dropping what was written there brings the file's bytes back, and a guest that does without a page expects no old ones in it (Linux
//! trusts free pages to be zero under `init_on_free`). So memory of our own, without pages, takes the file's place. Each such place costs
//! the kernel a mapping or two, of which a process has 65530.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
use vm_memory::{Bytes, VolatileSlice};

use crate::bits::PageBits;
use crate::part::{Backing, PAGE, Part};

/// How many places of the whole process may be taken so; the pages of others are zeroed and stay.
const MOST_PLACES: usize = 16 << 10;

static PLACES: AtomicUsize = AtomicUsize::new(0);

impl Part {
    /// Drops `pages`, so that they read as zeroes. The part is mapped privately.
    pub(crate) fn drop_private(&self, pages: Range<usize>) -> io::Result<()> {
        self.forget(&pages)?;
        if !matches!(self.backing, Backing::Copied { .. }) {
            return Ok(());
        }
        if self.is_huge() {
            // A file of huge pages that had something in it before: rare enough to keep its pages.
            return self.zero(&pages);
        }
        for data in self.data(&pages) {
            for run in self.kept(data) {
                self.replace(run)?;
            }
        }
        Ok(())
    }

    /// Drops what was written to `pages`.
    fn forget(&self, pages: &Range<usize>) -> io::Result<()> {
        let start = self.start().wrapping_add(pages.start * PAGE);
        // SAFETY: the pages lie within the part's mapping, which stays as long as the part. The advice changes the bytes there and leaves
        // them mapped; a guest may change them at any moment, so that no reference to them exists.
        Ok(unsafe { madvise(start.cast(), pages.len() * PAGE, Advice::LinuxDontNeed) }?)
    }

    /// Sees to it that zeroes are read where the file has something else.
    fn replace(&self, pages: Range<usize>) -> io::Result<()> {
        let dropped = self.dropped.get_or_init(|| PageBits::new(self.pages()));
        // What meets a place that was taken before becomes one with it.
        let meets =
            pages.start.checked_sub(1).is_some_and(|page| dropped.has(page)) || dropped.has(pages.end);
        if !meets && PLACES.fetch_add(1, Ordering::Relaxed) >= MOST_PLACES {
            return self.zero(&pages);
        }
        // Whoever looks between the two steps takes the pages for changed, which they are a moment later.
        dropped.set(pages.clone());
        let start = self.start().wrapping_add(pages.start * PAGE);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: the pages lie within the part's mapping, which nobody else changes and which is unmapped as a whole, whatever it consists
        // of. They stay mapped all the time: the kernel exchanges them in one step. No reference to their bytes exists.
        let taken = unsafe { mmap_anonymous(start.cast(), pages.len() * PAGE, access, flags) };
        taken.map(drop).or_else(|_| self.zero(&pages))
    }

    /// Writes zeroes over `pages`.
    fn zero(&self, pages: &Range<usize>) -> io::Result<()> {
        const ZEROES: [u8; PAGE] = [0; PAGE];
        for page in pages.clone() {
            // SAFETY: the page lies within the part's mapping, which lives longer than the slice; a slice makes no reference to its bytes.
            let slice = unsafe { VolatileSlice::new(self.start().wrapping_add(page * PAGE), PAGE) };
            slice.write_slice(&ZEROES, 0).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

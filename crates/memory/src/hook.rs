//! The one write hook: which pages of a region the VMM itself has written since somebody last asked.
//!
//! While nobody asks (the normal case) a write costs one relaxed load.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap, WithBitmapSlice};

use crate::mapping::Mapping;

const PAGE: usize = 4096;

/// The write log of one RAM region, off until [`WriteHook::enable`].
#[derive(Debug, Default)]
pub struct WriteHook {
    pages: usize,
    enabled: AtomicBool,
    /// One bit per 4 KiB page; allocated when first enabled.
    dirty: OnceLock<Box<[AtomicU64]>>,
    /// Bytes of the host pages behind the region, if they are larger than usual.
    page: Option<u64>,
    /// The memory of the region, which `vm-memory` knows by address only: it stays as long as the region, whoever has that.
    _keeps: Option<Arc<Mapping>>,
}

impl WriteHook {
    /// The log of a region that consists of all of `mapping`, which is made of huge pages of `page` bytes, if any.
    pub(crate) fn of(mapping: Arc<Mapping>, page: Option<u64>) -> Self {
        let log = Self::with_len(mapping.size());
        Self { page, _keeps: Some(mapping), ..log }
    }

    /// Bytes of a host page behind the region: what can be given back to the host at the least.
    pub(crate) fn host_page(&self) -> u64 {
        self.page.unwrap_or(PAGE as u64)
    }

    /// Starts logging with a clean log.
    pub fn enable(&self) {
        let words =
            self.dirty.get_or_init(|| (0..self.pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect());
        words.iter().for_each(|w| w.store(0, Ordering::Relaxed));
        self.enabled.store(true, Ordering::SeqCst);
        barrier_everywhere();
    }

    /// Stops logging.
    pub fn disable(&self) {
        self.enabled.store(false, Ordering::SeqCst);
    }

    /// Takes the log: one bit per page, least significant first. Empty if it was never enabled.
    pub fn take(&self) -> Vec<u64> {
        self.dirty
            .get()
            .map(|words| words.iter().map(|w| w.swap(0, Ordering::AcqRel)).collect())
            .unwrap_or_default()
    }

    #[cold]
    fn log(&self, offset: usize, len: usize) {
        let Some(words) = self.dirty.get() else { return };
        let Some(last) = offset.checked_add(len.saturating_sub(1)) else { return };
        for page in offset / PAGE..=last / PAGE {
            if let Some(word) = words.get(page / 64) {
                word.fetch_or(1 << (page % 64), Ordering::Relaxed);
            }
        }
    }
}

/// A writer stores its data, then asks whether to log it; its CPU may do the second first. Making every writer pay for a fence would
/// cost each of them always. So who switches logging on makes all threads pass one, once: what they stored before is visible from
/// now on, and what they store later finds the log on.
fn barrier_everywhere() {
    use rustix::thread::{MembarrierCommand, membarrier};
    let registered = membarrier(MembarrierCommand::RegisterPrivateExpedited);
    if registered.and_then(|()| membarrier(MembarrierCommand::PrivateExpedited)).is_err() {
        // An old kernel: the slow way, which waits for every CPU to have switched threads. If there is none either, threads that
        // run this very moment come by a fence in the system calls and locks they are made of.
        let _ = membarrier(MembarrierCommand::Global);
    }
}

impl NewBitmap for WriteHook {
    fn with_len(len: usize) -> Self {
        Self { pages: len.div_ceil(PAGE), ..Self::default() }
    }
}

impl<'a> WithBitmapSlice<'a> for WriteHook {
    type S = HookSlice<'a>;
}

impl Bitmap for WriteHook {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if self.enabled.load(Ordering::Relaxed) && len != 0 {
            self.log(offset, len);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let page = offset / PAGE;
        let word = self.dirty.get().and_then(|words| words.get(page / 64));
        word.is_some_and(|w| w.load(Ordering::Relaxed) & 1 << (page % 64) != 0)
    }

    fn slice_at(&self, offset: usize) -> HookSlice<'_> {
        HookSlice { hook: self, base: offset }
    }
}

/// A window of a region's hook, as `vm-memory` hands it out with a slice of RAM.
#[derive(Clone, Copy, Debug)]
pub struct HookSlice<'a> {
    hook: &'a WriteHook,
    base: usize,
}

impl WithBitmapSlice<'_> for HookSlice<'_> {
    type S = Self;
}

impl BitmapSlice for HookSlice<'_> {}

impl Bitmap for HookSlice<'_> {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.hook.mark_dirty(self.base.saturating_add(offset), len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.hook.dirty_at(self.base.saturating_add(offset))
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self { hook: self.hook, base: self.base.saturating_add(offset) }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, test_ram};

    #[test]
    fn writes_are_logged_only_while_enabled() {
        let ram = test_ram(&[(0x10_0000, 0x40_0000)]);
        let map = ram.map();
        let region = map.iter().next().unwrap();
        ram.map().write_slice(&[1; 8], GuestAddress(0x10_0000)).unwrap();
        let mapping = region.get_mmap();
        mapping.bitmap().enable();
        ram.map().write_slice(&[1; 2], GuestAddress(0x10_0000 + 0x4_1fff)).unwrap();
        assert_eq!(mapping.bitmap().take()[..2], [0, 0b110]);
        mapping.bitmap().disable();
        ram.map().write_slice(&[1; 8], GuestAddress(0x10_0000)).unwrap();
        assert!(mapping.bitmap().take().iter().all(|w| *w == 0));
        assert_eq!(region.len(), 0x40_0000);
    }
}

//! The one write hook: which pages of a region the VMM itself has written since somebody last asked.
//!
//! While nobody asks (the normal case) a write costs one relaxed load.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap, WithBitmapSlice};

use crate::bits::PageBits;
use crate::part::{PAGE, Part};

/// The write log of one RAM region, off until [`WriteHook::enable`].
#[derive(Debug, Default)]
pub struct WriteHook {
    pages: usize,
    enabled: AtomicBool,
    /// Allocated when first enabled.
    dirty: OnceLock<PageBits>,
    /// The memory of the region, which `vm-memory` knows by address only: it stays as long as the region, whoever has that.
    part: Option<Arc<Part>>,
}

impl WriteHook {
    /// The log of a region that consists of all of `part`.
    pub(crate) fn of(part: Arc<Part>) -> Self {
        let log = Self::with_len(part.size());
        Self { part: Some(part), ..log }
    }

    /// What the region consists of.
    pub(crate) fn part(&self) -> Option<&Arc<Part>> {
        self.part.as_ref()
    }

    /// Starts logging with a clean log.
    pub fn enable(&self) {
        self.dirty.get_or_init(|| PageBits::new(self.pages)).take();
        self.enabled.store(true, Ordering::SeqCst);
        barrier_everywhere();
    }

    /// Stops logging.
    pub fn disable(&self) {
        self.enabled.store(false, Ordering::SeqCst);
    }

    /// Takes the log: one bit per page, least significant first. Empty if it was never enabled.
    pub fn take(&self) -> Vec<u64> {
        self.dirty.get().map(PageBits::take).unwrap_or_default()
    }

    #[cold]
    fn log(&self, offset: usize, len: usize) {
        let Some(dirty) = self.dirty.get() else { return };
        let Some(last) = offset.checked_add(len.saturating_sub(1)) else { return };
        dirty.set(offset / PAGE..last / PAGE + 1);
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
        self.dirty.get().is_some_and(|dirty| dirty.has(offset / PAGE))
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

//! A frame as scattered buffers in guest RAM, handed to the kernel as one `iovec` array.

use std::marker::PhantomData;

use memory::{HookSlice, VolatileSlice};
use thiserror::Error;
use vm_memory::bitmap::Bitmap;

/// The most buffers a frame may be scattered over: what the kernel takes in one call, less the one that finds frames too long.
pub const MAX_SEGMENTS: usize = 1023;

/// The frame has more than [`MAX_SEGMENTS`] buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("A frame has more than {MAX_SEGMENTS} buffers")]
pub struct Full;

/// Room for the buffers of one frame, kept from frame to frame so that none costs an allocation.
pub struct Scatter {
    iov: Vec<libc::iovec>,
    /// The write hook of each buffer. The lifetime is a lie: see [`Frame::push`].
    hooks: Vec<HookSlice<'static>>,
}

// SAFETY: the pointers in `iov` are only followed through a `Frame`, which clears the array when it is made and borrows the RAM for as
// long as it lives. Between frames they are numbers.
unsafe impl Send for Scatter {}

impl Scatter {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Self { iov: Vec::with_capacity(MAX_SEGMENTS + 1), hooks: Vec::with_capacity(MAX_SEGMENTS) }
    }

    /// Starts a frame whose buffers live at least as long as `'ram`.
    pub fn frame<'ram>(&mut self) -> Frame<'_, 'ram> {
        self.iov.clear();
        self.hooks.clear();
        Frame { scatter: self, len: 0, ram: PhantomData }
    }
}

impl Default for Scatter {
    fn default() -> Self {
        Self::new()
    }
}

/// One frame: buffers in guest RAM, in order, the virtio-net header first.
pub struct Frame<'s, 'ram> {
    scatter: &'s mut Scatter,
    len: usize,
    ram: PhantomData<HookSlice<'ram>>,
}

impl<'ram> Frame<'_, 'ram> {
    /// Adds a buffer at the end.
    ///
    /// # Errors
    /// [`Full`]; the frame is unchanged.
    pub fn push(&mut self, slice: &VolatileSlice<'ram, HookSlice<'ram>>) -> Result<(), Full> {
        let Scatter { iov, hooks } = &mut *self.scatter;
        if hooks.len() >= MAX_SEGMENTS {
            return Err(Full);
        }
        // A descriptor chain is at most 4 GiB long, so this cannot wrap; if it could, the frame would only look shorter.
        self.len = self.len.saturating_add(slice.len());
        iov.push(libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() });
        // SAFETY: only the lifetime changes. Hooks are read through a frame only, `Scatter::frame` has removed all older ones, and this
        // frame does not outlive `'ram`.
        hooks.push(unsafe { std::mem::transmute::<HookSlice<'ram>, HookSlice<'static>>(*slice.bitmap()) });
        Ok(())
    }

    /// Bytes of all buffers.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no buffer, or only empty ones.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Stores `bytes` at `offset`; what lies beyond the last buffer is left out.
    pub fn put(&mut self, mut offset: usize, mut bytes: &[u8]) {
        let Scatter { iov, hooks } = &*self.scatter;
        for (segment, hook) in iov.iter().zip(hooks) {
            let Some(room) = segment.iov_len.checked_sub(offset).filter(|room| *room > 0) else {
                offset -= segment.iov_len;
                continue;
            };
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            // SAFETY: `offset + now.len()` lies within the segment, which `push` took from a slice of RAM that is still borrowed. The
            // guest may write there at the same time, so no reference is made.
            unsafe {
                let to = segment.iov_base.cast::<u8>().add(offset);
                std::ptr::copy_nonoverlapping(now.as_ptr(), to, now.len());
            }
            hook.mark_dirty(offset, now.len());
            bytes = later;
            offset = 0;
            if bytes.is_empty() {
                return;
            }
        }
    }

    /// The first `len` bytes have been written behind the back of the write hook: tell it.
    pub(crate) fn mark_written(&self, mut len: usize) {
        let Scatter { iov, hooks } = &*self.scatter;
        for (segment, hook) in iov.iter().zip(hooks) {
            let now = len.min(segment.iov_len);
            hook.mark_dirty(0, now);
            len -= now;
            if len == 0 {
                return;
            }
        }
    }

    pub(crate) fn iov(&mut self) -> &mut Vec<libc::iovec> {
        &mut self.scatter.iov
    }
}

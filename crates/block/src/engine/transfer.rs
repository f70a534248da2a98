//! A request broken into what one system call can do, and how far it has come.

use std::io;
use std::ptr;

use memory::{DmaView, GuestMemory, Permissions};
use vm_memory::bitmap::Bitmap;

use super::{Buffer, Completion, Kind, Request};
use crate::geometry::Alignment;

/// Vectors one system call takes.
const IOV_MAX: usize = 1024;

/// A request under way. Reused: its vectors keep their memory.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub token: u64,
    pub kind: Kind,
    pub durable: bool,
    /// Where the rest begins in the image.
    pub offset: u64,
    /// Bytes of the rest.
    pub len: u64,
    /// System calls that were interrupted before they moved anything.
    pub retries: u8,
    /// What [`super::held::HeldViews`] knows its map by.
    pub view: u32,
    buffers: Vec<Buffer>,
    vectors: Vec<libc::iovec>,
    /// The vector where the rest begins.
    next: usize,
}

// SAFETY: the vectors point into guest RAM, which any thread may access and which the engine that owns the transfer keeps mapped.
unsafe impl Send for Transfer {}

impl Default for Transfer {
    fn default() -> Self {
        Self {
            token: 0,
            kind: Kind::Flush,
            durable: false,
            offset: 0,
            len: 0,
            retries: 0,
            view: 0,
            buffers: Vec::new(),
            vectors: Vec::new(),
            next: 0,
        }
    }
}

impl Transfer {
    /// Starts over with `request`, whose buffers lie in `ram`.
    ///
    /// # Errors
    /// `EFAULT` if a buffer does not lie in RAM, `EINVAL` if the buffers are not as long as the request says.
    pub(super) fn load(&mut self, request: &Request<'_>, ram: &DmaView) -> io::Result<()> {
        let Request { token, kind, offset, len, buffers, durable } = *request;
        (self.token, self.kind, self.offset, self.len, self.durable) = (token, kind, offset, len, durable);
        (self.retries, self.next) = (0, 0);
        self.vectors.clear();
        self.buffers.clear();
        if !matches!(kind, Kind::Read | Kind::Write) {
            return Ok(());
        }
        let access = if kind == Kind::Read { Permissions::Write } else { Permissions::Read };
        let outside = |_| io::Error::from_raw_os_error(libc::EFAULT);
        let mut total = 0u64;
        for &(address, len) in buffers {
            total += u64::from(len);
            let slices = ram.get_slices(address, len as usize, access).map_err(outside)?;
            for slice in slices {
                let slice = slice.map_err(outside)?;
                self.append(slice.ptr_guard_mut().as_ptr(), slice.len());
            }
        }
        if total != len {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        if kind == Kind::Read {
            self.buffers.extend_from_slice(buffers);
        }
        Ok(())
    }

    /// Joins vectors that touch: guests often send neighbouring pages one by one.
    fn append(&mut self, start: *mut u8, len: usize) {
        if let Some(last) = self.vectors.last_mut()
            && last.iov_base.wrapping_byte_add(last.iov_len) == start.cast()
        {
            last.iov_len += len;
        } else {
            self.vectors.push(libc::iovec { iov_base: start.cast(), iov_len: len });
        }
    }

    fn left(&self) -> &[libc::iovec] {
        self.vectors.get(self.next..).unwrap_or_default()
    }

    /// What the next system call moves: at most 1024 vectors.
    pub(super) fn rest(&self) -> &[libc::iovec] {
        let left = self.left();
        left.get(..IOV_MAX).unwrap_or(left)
    }

    /// Copies `data` to where the rest begins in guest RAM. The write hook hears of it in [`Transfer::complete`].
    pub(super) fn copy_in(&self, mut data: &[u8]) {
        for vector in self.left() {
            let (now, later) = data.split_at(vector.iov_len.min(data.len()));
            // SAFETY: the vector lies in mapped guest RAM and `now` is no longer than it; `data` is host memory, so they are apart.
            unsafe { ptr::copy_nonoverlapping(now.as_ptr(), vector.iov_base.cast(), now.len()) };
            data = later;
        }
    }

    /// Fills `data` from where the rest begins in guest RAM.
    pub(super) fn copy_out(&self, mut data: &mut [u8]) {
        for vector in self.left() {
            let (now, later) = data.split_at_mut(vector.iov_len.min(data.len()));
            // SAFETY: the vector lies in mapped guest RAM and `now` is no longer than it; `data` is host memory, so they are apart.
            unsafe {
                ptr::copy_nonoverlapping(vector.iov_base.cast_const().cast(), now.as_mut_ptr(), now.len());
            };
            data = later;
        }
    }

    /// Whether direct I/O takes the rest as it is. Anything but data is not bound by alignment here.
    pub(super) fn is_aligned(&self, alignment: Option<Alignment>) -> bool {
        let Some(Alignment { memory, offset }) = alignment else { return true };
        let is_even = |vector: &libc::iovec| {
            (vector.iov_base as u64).is_multiple_of(memory) && (vector.iov_len as u64).is_multiple_of(offset)
        };
        self.offset.is_multiple_of(offset) && self.rest().iter().all(is_even)
    }

    /// `moved` bytes of the rest are done.
    pub(super) fn advance(&mut self, moved: usize) {
        let mut left = moved.min(usize::try_from(self.len).unwrap_or(usize::MAX));
        self.offset += left as u64;
        self.len -= left as u64;
        while let Some(vector) = self.vectors.get_mut(self.next) {
            if left < vector.iov_len {
                vector.iov_base = vector.iov_base.wrapping_byte_add(left);
                vector.iov_len -= left;
                return;
            }
            left -= vector.iov_len;
            self.next += 1;
        }
    }

    /// The transfer has ended: tells the write hook what the kernel has written, perhaps in part.
    pub(super) fn complete(&mut self, result: io::Result<()>, ram: &DmaView) -> Completion {
        for &(address, len) in &self.buffers {
            // They were there when the transfer began, and the map is the same.
            let slices = ram.get_slices(address, len as usize, Permissions::Write);
            for slice in slices.into_iter().flatten().flatten() {
                slice.bitmap().mark_dirty(0, slice.len());
            }
        }
        self.buffers.clear();
        Completion { token: self.token, result }
    }
}

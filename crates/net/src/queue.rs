//! One queue of a tap: a descriptor that gives and takes whole frames and never blocks.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use crate::Frame;

/// What [`TapQueue::receive`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A frame of so many bytes, header included, is in the buffers.
    Frame(usize),
    /// There was a frame, but the buffers are too short for it. It is lost.
    TooLong,
    /// No frame is waiting.
    Dry,
}

/// What became of a frame given to [`TapQueue::send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The host has it.
    Sent,
    /// The host has no room at the moment: try again when the descriptor is writable.
    Full,
}

/// One queue of a tap interface, or any descriptor that keeps frames apart.
#[derive(Debug)]
pub struct TapQueue(OwnedFd);

impl TapQueue {
    /// Frames travel through `fd`, which must not block.
    pub fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Reads one frame into the buffers of `frame`, which a tap wants to hold the header at least.
    ///
    /// # Errors
    /// The kernel's: the interface is gone.
    pub fn receive(&self, frame: &mut Frame<'_, '_>) -> io::Result<Received> {
        let room = frame.len();
        // Linux cuts a frame that is longer than the buffers without saying so. One byte more than the guest gave tells.
        let mut excess = 0u8;
        let iov = frame.iov();
        iov.push(libc::iovec { iov_base: (&raw mut excess).cast(), iov_len: 1 });
        // SAFETY: every element but the last comes from a slice of RAM that the frame borrows; the last is a local. There are at most
        // MAX_SEGMENTS + 1.
        let read =
            retry(|| unsafe { libc::readv(self.0.as_raw_fd(), iov.as_ptr(), iov.len() as libc::c_int) });
        iov.pop();
        match read {
            Ok(len) => {
                frame.mark_written(len.min(room));
                Ok(if len > room { Received::TooLong } else { Received::Frame(len) })
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Received::Dry),
            Err(e) => Err(e),
        }
    }

    /// Writes one frame from the buffers of `frame`.
    ///
    /// # Errors
    /// The kernel's: it does not like the frame, or the interface is down or gone. Either way the frame is lost.
    pub fn send(&self, frame: &mut Frame<'_, '_>) -> io::Result<Sent> {
        let iov = frame.iov();
        // SAFETY: every element comes from a slice of RAM that the frame borrows. There are at most MAX_SEGMENTS.
        match retry(|| unsafe { libc::writev(self.0.as_raw_fd(), iov.as_ptr(), iov.len() as libc::c_int) }) {
            Ok(_) => Ok(Sent::Sent),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Sent::Full),
            Err(e) => Err(e),
        }
    }

    /// Writes one frame, header included, that does not come from the guest.
    ///
    /// # Errors
    /// As [`TapQueue::send`], and `WouldBlock`.
    pub fn send_bytes(&self, frame: &[u8]) -> io::Result<()> {
        Ok(rustix::io::write(&self.0, frame).map(drop)?)
    }

    /// Throws waiting frames away, at most `limit`.
    pub fn discard(&self, limit: usize) {
        let mut head = [0u8; crate::HEADER_LEN];
        for _ in 0..limit {
            if rustix::io::read(&self.0, &mut head).is_err() {
                return;
            }
        }
    }
}

impl AsFd for TapQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for TapQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(len) => return Ok(len),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

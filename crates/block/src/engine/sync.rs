//! The engine for hosts without io_uring: plain system calls on the queue's thread, one request after the other.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use host::EventFd;
use memory::DmaView;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::transfer::Transfer;
use super::{Completion, Engine, Kind, Request, bounce};
use crate::raw::Extent;

/// Does requests within [`Engine::start`].
#[derive(Debug)]
pub(crate) struct SyncEngine {
    extent: Arc<Extent>,
    transfer: Transfer,
    done: Vec<Completion>,
}

impl SyncEngine {
    pub(crate) fn new(extent: Arc<Extent>) -> Self {
        Self { extent, transfer: Transfer::default(), done: Vec::new() }
    }
}

impl Engine for SyncEngine {
    fn start(&mut self, request: &Request<'_>, ram: &DmaView) {
        let Self { extent, transfer, done } = self;
        let result = transfer.load(request, ram).and_then(|()| run(extent, transfer));
        done.push(transfer.complete(result, ram));
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        done.append(&mut self.done);
        Ok(())
    }

    fn arm(&mut self) -> bool {
        self.done.is_empty()
    }

    fn bell(&self) -> Option<&EventFd> {
        None
    }

    fn under_way(&self) -> usize {
        self.done.len()
    }

    fn drain(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        self.poll(done)
    }
}

/// Does what is left of `transfer` on the calling thread.
pub(super) fn run(extent: &Extent, transfer: &mut Transfer) -> io::Result<()> {
    match transfer.kind {
        Kind::Read | Kind::Write => run_data(extent, transfer)?,
        Kind::Flush => return extent.file.sync_data(),
        Kind::Discard | Kind::Zero { .. } => run_range(extent, transfer)?,
    }
    if transfer.durable { extent.file.sync_data() } else { Ok(()) }
}

fn run_data(extent: &Extent, transfer: &mut Transfer) -> io::Result<()> {
    while transfer.len > 0 {
        if let Some(alignment) = extent.alignment
            && !transfer.is_aligned(extent.alignment)
        {
            return bounce::run(&extent.file, alignment, transfer);
        }
        match step(extent, transfer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(moved) => transfer.advance(moved),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn step(extent: &Extent, transfer: &Transfer) -> io::Result<usize> {
    let rest = transfer.rest();
    let (fd, vectors, count) = (extent.file.as_raw_fd(), rest.as_ptr(), rest.len() as libc::c_int);
    let offset = i64::try_from(transfer.offset).map_err(|_| Errno::INVAL)?;
    let moved = match transfer.kind {
        // SAFETY: the vectors name guest RAM, which stays mapped during the call and may change at any time by its nature.
        Kind::Read => unsafe { libc::preadv(fd, vectors, count, offset) },
        // SAFETY: as above.
        _ => unsafe { libc::pwritev(fd, vectors, count, offset) },
    };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

fn run_range(extent: &Extent, transfer: &mut Transfer) -> io::Result<()> {
    if transfer.len == 0 {
        return Ok(());
    }
    loop {
        match fallocate(&extent.file, range_mode(extent, transfer.kind), transfer.offset, transfer.len) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP) if can_retry_range(extent, transfer) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// How to call `fallocate` for a discard or zeroing.
pub(super) fn range_mode(extent: &Extent, kind: Kind) -> FallocateFlags {
    let how = match kind {
        Kind::Zero { unmap: false } if !extent.no_zero_range.load(Ordering::Relaxed) => {
            FallocateFlags::ZERO_RANGE
        }
        _ => FallocateFlags::PUNCH_HOLE,
    };
    how | FallocateFlags::KEEP_SIZE
}

/// After `fallocate` said it cannot: whether there is another way, which the transfer takes next. A hole reads as zeroes too; it only
/// costs its blocks.
pub(super) fn can_retry_range(extent: &Extent, transfer: &mut Transfer) -> bool {
    let can = transfer.kind == Kind::Zero { unmap: false };
    if can {
        // Others may be on their way into the same refusal: each finds its own way out.
        extent.no_zero_range.store(true, Ordering::Relaxed);
        transfer.kind = Kind::Zero { unmap: true };
    }
    can
}

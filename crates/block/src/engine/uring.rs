//! The engine over io_uring: requests go to the kernel in batches, with one system call that also collects what has ended.
//!
//! The ring runs the kernel's completion work only when this thread asks for it (`DEFER_TASKRUN`), so a busy thread is not disturbed.
//! Its bell is switched off while the thread is awake: requests that end at once, out of the page cache, ring nothing.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use host::EventFd;
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};
use memory::DmaView;

use super::held::HeldViews;
use super::sync::{self, can_retry_range, range_mode};
use super::transfer::Transfer;
use super::{Completion, Engine, Kind, Request, bounce};
use crate::raw::Extent;

/// Entries of the submission ring at most; fuller batches go to the kernel in parts.
const MAX_ENTRIES: u32 = 256;
/// How often an interrupted system call is tried again.
const MAX_RETRIES: u8 = 16;

/// Keeps requests in the kernel, any number of them at once.
pub(crate) struct UringEngine {
    ring: IoUring,
    bell: EventFd,
    extent: Arc<Extent>,
    views: HeldViews,
    /// Indexed by the `user_data` of submissions. Grows to what the driver uses.
    transfers: Vec<Transfer>,
    free: Vec<usize>,
    /// Submissions that the kernel has or will have with the next system call.
    submitted: usize,
    /// A write into the page cache that nothing else is under way with, not submitted yet: see [`UringEngine::step`].
    lone: Option<usize>,
    /// Transfers that ended without the kernel, or whose answer waits to be asked for.
    done: Vec<Completion>,
    /// Completions being dealt with. Kept for its memory.
    ended: Vec<cqueue::Entry>,
}

impl UringEngine {
    /// An engine for the calling thread.
    ///
    /// # Errors
    /// The kernel's: `ENOSYS` or `EPERM` if it has no io_uring for us.
    pub(crate) fn new(extent: Arc<Extent>, depth: u16) -> io::Result<Self> {
        let depth = u32::from(depth).max(2).next_power_of_two();
        let ring = build(depth.min(MAX_ENTRIES), depth * 2)?;
        // The image is not registered with the ring: the kernel takes rings down at leisure, and a file it still held would keep the
        // image's lock from the next VM.
        let bell = host::event_fd()?;
        ring.submitter().register_eventfd(bell.as_raw_fd())?;
        Ok(Self {
            ring,
            bell,
            extent,
            views: HeldViews::default(),
            transfers: Vec::new(),
            free: Vec::new(),
            submitted: 0,
            lone: None,
            done: Vec::new(),
            ended: Vec::new(),
        })
    }

    /// Queues the next system call of a transfer, or ends the transfer.
    fn step(&mut self, slot: usize) {
        let Some(transfer) = self.transfers.get_mut(slot) else { return };
        if let Some(alignment) = self.extent.alignment
            && matches!(transfer.kind, Kind::Read | Kind::Write)
            && !transfer.is_aligned(self.extent.alignment)
        {
            let durable = transfer.durable;
            let result = bounce::run(&self.extent.file, alignment, transfer)
                .and_then(|()| if durable { self.extent.file.sync_data() } else { Ok(()) });
            return self.end(slot, result);
        }
        // Most file systems make io_uring hand such a write to a kernel thread, which takes longer than writing when it is the only one.
        let is_cached_write =
            transfer.kind == Kind::Write && self.extent.alignment.is_none() && !transfer.durable;
        if is_cached_write && self.submitted == 0 && self.lone.is_none() {
            self.lone = Some(slot);
            return;
        }
        self.submit_lone();
        self.queue(slot);
    }

    /// The write that waits for company has got some.
    fn submit_lone(&mut self) {
        if let Some(slot) = self.lone.take() {
            self.queue(slot);
        }
    }

    /// The write that waits for company has got none.
    fn run_lone(&mut self) {
        let Some(slot) = self.lone.take() else { return };
        let Some(transfer) = self.transfers.get_mut(slot) else { return };
        let result = sync::run(&self.extent, transfer);
        self.end(slot, result);
    }

    fn queue(&mut self, slot: usize) {
        let Some(transfer) = self.transfers.get(slot) else { return };
        let entry = submission(&self.extent, transfer).user_data(slot as u64);
        if let Err(e) = self.push(&entry) {
            self.end(slot, Err(e));
        }
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: the entry names guest RAM and vectors that stay in place until its completion: `views` holds it, and a transfer's
        // vectors are not touched while it is under way.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.submit()?;
        }
        self.submitted += 1;
        Ok(())
    }

    /// Passes submissions on and lets the kernel do its completion work.
    fn submit(&mut self) -> io::Result<()> {
        let queued = self.ring.submission().len();
        match self.enter(queued, 0) {
            // Too much under way for now: the rest goes when something has ended.
            Err(e)
                if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY))
                    && self.submitted > queued =>
            {
                self.enter(0, 1)
            }
            result => result,
        }
    }

    fn enter(&self, queued: usize, wait_for: u32) -> io::Result<()> {
        loop {
            let flags = EnterFlags::GETEVENTS.bits();
            // SAFETY: no argument is passed, and `queued` is at most what is in the ring.
            let entered = unsafe {
                self.ring.submitter().enter::<libc::sigset_t>(queued as u32, wait_for, flags, None)
            };
            match entered {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Deals with everything in the completion ring.
    fn collect(&mut self) {
        let mut ended = std::mem::take(&mut self.ended);
        ended.extend(self.ring.completion());
        for entry in ended.drain(..) {
            self.submitted = self.submitted.saturating_sub(1);
            let slot = usize::try_from(entry.user_data()).unwrap_or(usize::MAX);
            self.step_ended(slot, entry.result());
        }
        self.ended = ended;
    }

    /// A system call of a transfer has ended with `result`, as system calls do.
    fn step_ended(&mut self, slot: usize, result: i32) {
        let Some(transfer) = self.transfers.get_mut(slot) else { return };
        let kind = transfer.kind;
        let moved = match usize::try_from(result) {
            Ok(moved) => moved,
            Err(_) => return self.step_failed(slot, io::Error::from_raw_os_error(-result)),
        };
        match kind {
            Kind::Read | Kind::Write => {
                transfer.advance(moved);
                match (transfer.len, moved) {
                    (0, _) => self.end(slot, Ok(())),
                    (_, 0) => self.end(slot, Err(io::ErrorKind::UnexpectedEof.into())),
                    _ => self.step(slot),
                }
            }
            Kind::Discard | Kind::Zero { .. } if transfer.durable => {
                transfer.kind = Kind::Flush;
                self.step(slot);
            }
            _ => self.end(slot, Ok(())),
        }
    }

    fn step_failed(&mut self, slot: usize, error: io::Error) {
        let Some(transfer) = self.transfers.get_mut(slot) else { return };
        let again = match error.raw_os_error() {
            Some(libc::EINTR | libc::EAGAIN) => {
                transfer.retries += 1;
                transfer.retries <= MAX_RETRIES
            }
            Some(libc::EOPNOTSUPP) => can_retry_range(&self.extent, transfer),
            _ => false,
        };
        if again { self.step(slot) } else { self.end(slot, Err(error)) }
    }

    fn end(&mut self, slot: usize, result: io::Result<()>) {
        let Some(transfer) = self.transfers.get_mut(slot) else { return };
        let done = &mut self.done;
        self.views.end(transfer.view, |ram| done.push(transfer.complete(result, ram)));
        self.free.push(slot);
    }
}

/// The newest kind of ring that the kernel has.
fn build(entries: u32, completions: u32) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_cqsize(completions).setup_clamp();
    let plain = builder.clone();
    builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    builder.build(entries).or_else(|e| match e.raw_os_error() {
        // Before Linux 6.1.
        Some(libc::EINVAL) => plain.build(entries),
        _ => Err(e),
    })
}

/// The next system call of a transfer.
fn submission(extent: &Extent, transfer: &Transfer) -> squeue::Entry {
    let Transfer { kind, offset, len, durable, .. } = *transfer;
    let rest = transfer.rest();
    let file = types::Fd(extent.as_raw_fd());
    // The kernel moves less than 2 GiB at a time anyway.
    let len_of = |one: &libc::iovec| one.iov_len.min(1 << 30) as u32;
    match (kind, rest) {
        (Kind::Read, [one]) => {
            opcode::Read::new(file, one.iov_base.cast(), len_of(one)).offset(offset).build()
        }
        (Kind::Read, _) => opcode::Readv::new(file, rest.as_ptr(), rest.len() as u32).offset(offset).build(),
        (Kind::Write, [one]) => opcode::Write::new(file, one.iov_base.cast(), len_of(one))
            .offset(offset)
            .rw_flags(write_flags(durable))
            .build(),
        (Kind::Write, _) => opcode::Writev::new(file, rest.as_ptr(), rest.len() as u32)
            .offset(offset)
            .rw_flags(write_flags(durable))
            .build(),
        (Kind::Flush, _) => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
        (Kind::Discard | Kind::Zero { .. }, _) => opcode::Fallocate::new(file, len)
            .offset(offset)
            .mode(range_mode(extent, kind).bits().cast_signed())
            .build(),
    }
}

fn write_flags(durable: bool) -> i32 {
    if durable { libc::RWF_DSYNC } else { 0 }
}

impl Engine for UringEngine {
    fn start(&mut self, request: &Request<'_>, ram: &DmaView) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.transfers.push(Transfer::default());
            self.transfers.len() - 1
        });
        let Some(transfer) = self.transfers.get_mut(slot) else { return };
        transfer.view = self.views.begin(ram);
        match transfer.load(request, ram) {
            Ok(()) if request.kind != Kind::Flush && request.len == 0 => self.end(slot, Ok(())),
            Ok(()) => self.step(slot),
            Err(e) => self.end(slot, Err(e)),
        }
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        self.ring.completion().disable_eventfd();
        // Collecting may submit again: what a short transfer lacks.
        loop {
            self.run_lone();
            let needs_kernel = {
                let queue = self.ring.submission();
                !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
            };
            if needs_kernel {
                self.submit()?;
            }
            self.collect();
            done.append(&mut self.done);
            if self.ring.submission().is_empty() && self.lone.is_none() {
                return Ok(());
            }
        }
    }

    fn arm(&mut self) -> bool {
        self.ring.completion().enable_eventfd();
        // The kernel must see the bell switched on before this thread looks a last time.
        fence(Ordering::SeqCst);
        let has_work = {
            let queue = self.ring.submission();
            queue.taskrun() || !queue.is_empty()
        };
        !has_work && self.ring.completion().is_empty() && self.done.is_empty()
    }

    fn bell(&self) -> Option<&EventFd> {
        Some(&self.bell)
    }

    fn under_way(&self) -> usize {
        self.submitted + self.done.len() + usize::from(self.lone.is_some())
    }

    fn drain(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        self.poll(done)?;
        while self.submitted > 0 {
            self.enter(0, 1)?;
            self.poll(done)?;
        }
        Ok(())
    }
}

impl Drop for UringEngine {
    fn drop(&mut self) {
        if self.drain(&mut Vec::new()).is_err() {
            // The kernel may go on writing to guest RAM and reading the vectors: neither must ever be freed.
            std::mem::forget(std::mem::take(&mut self.views));
            std::mem::forget(std::mem::take(&mut self.transfers));
        }
    }
}

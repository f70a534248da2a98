//! The kernel's userfaultfd (Documentation/admin-guide/mm/userfaultfd.rst), as far as it serves missing pages.

use std::ffi::c_void;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use linux_raw_sys::general as raw;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, Setter, Updater, ioctl, opcode};
use rustix::mm::UserfaultfdFlags;

/// The kind of these requests, and their numbers in it.
const KIND: u8 = raw::UFFDIO as u8;
const NEW: Opcode = opcode::none(KIND, 0);
const API: Opcode = opcode::read_write::<raw::uffdio_api>(KIND, raw::_UFFDIO_API as u8);
const REGISTER: Opcode = opcode::read_write::<raw::uffdio_register>(KIND, raw::_UFFDIO_REGISTER as u8);
const UNREGISTER: Opcode = opcode::read::<raw::uffdio_range>(KIND, raw::_UFFDIO_UNREGISTER as u8);
const WAKE: Opcode = opcode::read::<raw::uffdio_range>(KIND, raw::_UFFDIO_WAKE as u8);
const COPY: Opcode = opcode::read_write::<raw::uffdio_copy>(KIND, raw::_UFFDIO_COPY as u8);
const ZEROPAGE: Opcode = opcode::read_write::<raw::uffdio_zeropage>(KIND, raw::_UFFDIO_ZEROPAGE as u8);

/// What the kernel must be able to do besides anonymous memory.
const FEATURES: u32 = raw::UFFD_FEATURE_MISSING_HUGETLBFS | raw::UFFD_FEATURE_MISSING_SHMEM;

/// Bytes of a message, and where what we need of it lies.
const MESSAGE: usize = size_of::<raw::uffd_msg>();
const ADDRESS: usize = 16;

/// A descriptor that hears of pages that are missing in this process.
#[derive(Debug)]
pub(super) struct Uffd(OwnedFd);

/// What became of a page that was to be put somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// So many bytes are there now.
    Done(usize),
    /// Somebody was faster, and there is something.
    Taken,
    /// There is no such memory any more.
    Gone,
}

impl Uffd {
    /// From the device, which its owner may let others use, or else by the system call, which needs a privilege.
    pub(super) fn open() -> io::Result<Self> {
        let new = Self::from_device().or_else(|_| Self::from_call())?;
        let mut api = raw::uffdio_api { api: raw::UFFD_API.into(), features: FEATURES.into(), ioctls: 0 };
        // SAFETY: the request reads and writes an `uffdio_api`.
        unsafe { ioctl(&new, Updater::<API, _>::new(&mut api)) }?;
        Ok(Self(new))
    }

    fn from_device() -> io::Result<OwnedFd> {
        let flags = OFlags::CLOEXEC.bits().cast_signed();
        let device =
            OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/userfaultfd")?;
        // SAFETY: the request makes a descriptor and touches no memory.
        Ok(unsafe { ioctl(&device, New) }?)
    }

    fn from_call() -> io::Result<OwnedFd> {
        // SAFETY: the descriptor stays in this type, which names only memory that its users own and fills only pages that are missing.
        Ok(unsafe { rustix::mm::userfaultfd(UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK) }?)
    }

    /// Hears of missing pages in `len` bytes from `start` on from now on.
    pub(super) fn register(&self, start: *mut u8, len: usize) -> io::Result<()> {
        let mode = raw::UFFDIO_REGISTER_MODE_MISSING.into();
        let mut register = raw::uffdio_register { range: range(start, len), mode, ioctls: 0 };
        // SAFETY: the request reads and writes an `uffdio_register`. It changes no memory: who touches a missing page waits.
        Ok(unsafe { ioctl(self, Updater::<REGISTER, _>::new(&mut register)) }?)
    }

    /// Hears no more of them; who waits there goes on.
    pub(super) fn unregister(&self, start: *mut u8, len: usize) -> io::Result<()> {
        // SAFETY: the request reads an `uffdio_range` and changes no memory.
        Ok(unsafe { ioctl(self, Setter::<UNREGISTER, _>::new(range(start, len))) }?)
    }

    /// Lets those go on that wait in `len` bytes from `start` on.
    pub(super) fn wake(&self, start: *mut u8, len: usize) -> io::Result<()> {
        // SAFETY: the request reads an `uffdio_range` and changes no memory.
        Ok(unsafe { ioctl(self, Setter::<WAKE, _>::new(range(start, len))) }?)
    }

    /// Puts `bytes` where pages are missing from `start` on, and lets those go on that wait for them.
    ///
    /// # Safety
    /// `start` and as many bytes as there are in `bytes` lie in one mapping of guest RAM, to which there are no references.
    pub(super) unsafe fn copy(&self, start: *mut u8, bytes: &[u8]) -> io::Result<Put> {
        let (dst, src) = (start.expose_provenance() as u64, bytes.as_ptr().expose_provenance() as u64);
        let mut copy = raw::uffdio_copy { dst, src, len: bytes.len() as u64, mode: 0, copy: 0 };
        // SAFETY: the request reads and writes an `uffdio_copy`, reads `bytes`, and writes where the caller vouches for.
        let done = unsafe { ioctl(self, Updater::<COPY, _>::new(&mut copy)) };
        put(done, bytes.len(), copy.copy)
    }

    /// Puts zeroes into `len` bytes from `start` on, where pages are missing, and lets those go on that wait for them.
    ///
    /// # Safety
    /// As [`Uffd::copy`].
    pub(super) unsafe fn zero(&self, start: *mut u8, len: usize) -> io::Result<Put> {
        let mut zero = raw::uffdio_zeropage { range: range(start, len), mode: 0, zeropage: 0 };
        // SAFETY: the request reads and writes an `uffdio_zeropage`, and zeroes what the caller vouches for.
        let done = unsafe { ioctl(self, Updater::<ZEROPAGE, _>::new(&mut zero)) };
        put(done, len, zero.zeropage)
    }

    /// The address that somebody waits for, if there is one that was not answered yet.
    pub(super) fn fault(&self) -> io::Result<Option<usize>> {
        loop {
            let mut message = [0; MESSAGE];
            match rustix::io::read(&self.0, &mut message) {
                Ok(MESSAGE) if u32::from(message[0]) == raw::UFFD_EVENT_PAGEFAULT => {
                    let (_, rest) = message.split_at(ADDRESS);
                    let address = rest.first_chunk().map(|bytes| usize::from_ne_bytes(*bytes));
                    return Ok(address);
                }
                // We have asked for no other events.
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn range(start: *mut u8, len: usize) -> raw::uffdio_range {
    raw::uffdio_range { start: start.expose_provenance() as u64, len: len as u64 }
}

/// `put` is what the kernel says it has put, if it has put less than `all` or something was in the way.
fn put(done: Result<(), Errno>, all: usize, put: i64) -> io::Result<Put> {
    match done {
        Ok(()) => Ok(Put::Done(all)),
        // The mapping was about to change, or memory was short: what is there stays.
        Err(Errno::AGAIN) => Ok(Put::Done(usize::try_from(put).unwrap_or(0))),
        Err(Errno::EXIST) => Ok(Put::Taken),
        Err(Errno::NOENT | Errno::SRCH) => Ok(Put::Gone),
        Err(error) => Err(error.into()),
    }
}

/// The device's request for a descriptor; its argument are flags.
struct New;

// SAFETY: the request takes a number and answers a new descriptor.
unsafe impl Ioctl for New {
    type Output = OwnedFd;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        NEW
    }

    fn as_ptr(&mut self) -> *mut c_void {
        let flags = OFlags::CLOEXEC | OFlags::NONBLOCK;
        std::ptr::without_provenance_mut(flags.bits() as usize)
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<OwnedFd> {
        use std::os::fd::FromRawFd;
        // SAFETY: the kernel has just made it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(out) })
    }
}

//! Guest memory whose pages turn out not to be there: somebody has made the file behind it shorter, its file system is full, the pool of
//! huge pages is empty, or the host's memory is broken. The kernel tells whoever touches such a page by SIGBUS, which would end this
//! process without a word.
//!
//! ```text
//!  a thread of ours touches it ─ SIGBUS ─▶ a page of zeroes takes its place, the thread goes on ─ wake ─▶ control: take_missing()
//!  a vCPU touches it ─ KVM fails, or tries again without end                  control looks from time to time: take_shortened()
//! ```
//! So devices come to an orderly end and the user hears why. Zeroes are not what was there: a machine that has lost memory must end.
//!
//! The handler runs on any thread at any moment: it takes no lock and allocates nothing. It finds memory in a list whose entries are never
//! freed, only used again.

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io;
use std::iter;
use std::mem::MaybeUninit;
use std::os::fd::{IntoRawFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const PAGE: usize = 4096;

/// Pages of guest memory that the host did not have when a thread of ours touched them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Whose they are: a zone, or a device's file.
    pub memory: String,
    /// Bytes before the last of them that was met.
    pub offset: usize,
}

/// A file that has become too short for the memory it stands behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortened {
    /// Whose memory it is.
    pub memory: String,
    /// Bytes that it should have at least.
    pub needed: u64,
    /// Bytes that it has.
    pub found: u64,
}

/// What is behind a stretch of memory.
#[derive(Debug)]
struct Backing {
    name: String,
    /// A file that others can make shorter, and how long it has to be.
    file: Option<(File, u64)>,
    /// It has been told of.
    is_short: bool,
}

/// A stretch of memory that is looked after; none while `len` is 0.
#[derive(Debug)]
struct Entry {
    start: AtomicPtr<u8>,
    len: AtomicUsize,
    /// Bytes that are mapped together.
    page: AtomicUsize,
    /// The offset of the page that was missing last, and one more; 0 if none was.
    missing: AtomicUsize,
    /// `None` while the entry is free. The handler does not look at it.
    backing: Mutex<Option<Backing>>,
    next: Option<&'static Entry>,
}

/// The entry that came last.
static LAST: AtomicPtr<Entry> = AtomicPtr::new(ptr::null_mut());

/// Held while an entry is looked for or added.
static EDIT: Mutex<()> = Mutex::new(());

/// The eventfd to write to when something was missing, or -1.
static WAKE: AtomicI32 = AtomicI32::new(-1);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn entries() -> impl Iterator<Item = &'static Entry> {
    // SAFETY: entries are leaked before they are put here, so that they live for ever, and only their atomics and locks change.
    iter::successors(unsafe { LAST.load(Ordering::Acquire).as_ref() }, |entry| entry.next)
}

/// Looks after a mapping as long as it lives.
#[derive(Debug)]
pub struct Guard(&'static Entry);

impl Guard {
    /// Looks after the `len` bytes at `start`, called `name`, which are mapped in pages of `page` bytes. Of a file that others can make
    /// shorter, the mapping needs so many bytes.
    ///
    /// # Safety
    /// The range is mapped as long as this lives, and consists of whole pages that may be replaced at any time.
    pub(crate) unsafe fn new(
        name: &str,
        start: *mut u8,
        len: usize,
        page: Option<u64>,
        file: Option<(File, u64)>,
    ) -> Self {
        let _edit = lock(&EDIT);
        let free = entries().find(|entry| lock(&entry.backing).is_none());
        let entry = free.unwrap_or_else(|| {
            let next = entries().next();
            let entry = Entry {
                start: AtomicPtr::default(),
                len: AtomicUsize::default(),
                page: AtomicUsize::default(),
                missing: AtomicUsize::default(),
                backing: Mutex::default(),
                next,
            };
            let entry = Box::leak(Box::new(entry));
            LAST.store(entry, Ordering::Release);
            entry
        });
        *lock(&entry.backing) = Some(Backing { name: name.into(), file, is_short: false });
        // What is not mapped in whole pages of that size is no huge page, whatever its file system says.
        let is_whole = |page: &usize| start.addr().is_multiple_of(*page) && len.is_multiple_of(*page);
        let page = page.and_then(|page| usize::try_from(page).ok()).filter(is_whole);
        entry.missing.store(0, Ordering::Relaxed);
        entry.start.store(start, Ordering::Relaxed);
        entry.page.store(page.unwrap_or(PAGE), Ordering::Relaxed);
        // Last: from here on the handler takes the others for true.
        entry.len.store(len, Ordering::Release);
        Self(entry)
    }

    /// What was missing since the last call.
    pub fn take_missing(&self) -> Option<Missing> {
        let offset = self.0.missing.swap(0, Ordering::Acquire).checked_sub(1)?;
        lock(&self.0.backing).as_ref().map(|backing| Missing { memory: backing.name.clone(), offset })
    }

    /// Whether there is a file to be looked at by [`Guard::take_shortened`].
    pub fn has_file(&self) -> bool {
        lock(&self.0.backing).as_ref().is_some_and(|backing| backing.file.is_some())
    }

    /// Whether the file has become too short since the last call: a guest that touches what is missing may come no further.
    pub fn take_shortened(&self) -> Option<Shortened> {
        lock(&self.0.backing).as_mut()?.take_shortened()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.len.store(0, Ordering::Release);
        *lock(&self.0.backing) = None;
    }
}

impl Entry {
    /// Puts a page of zeroes where `address` is. False if that is not in this memory, or the kernel refuses.
    fn replace(&self, address: usize) -> bool {
        let (len, start) = (self.len.load(Ordering::Acquire), self.start.load(Ordering::Relaxed));
        let offset = address.wrapping_sub(start.addr());
        if offset >= len {
            return false;
        }
        let page = self.page.load(Ordering::Relaxed);
        let place = start.wrapping_add(offset).wrapping_byte_sub(address % page);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
        // SAFETY: `Guard::new` was promised that the pages of the range may be replaced; it is there still, since somebody touches it.
        let placed = unsafe { libc::mmap(place.cast(), page, access, flags, -1, 0) };
        if placed == libc::MAP_FAILED {
            return false;
        }
        self.missing.store(place.addr() - start.addr() + 1, Ordering::Release);
        true
    }
}

/// From now on, missing pages of guest memory do not end the process: `wake`, an eventfd, is signalled, and
/// [`Guard::take_missing`] tells of them.
///
/// # Errors
/// The kernel's refusal to install a handler.
pub fn report_to(wake: impl IntoRawFd) -> io::Result<()> {
    let before = WAKE.swap(wake.into_raw_fd(), Ordering::SeqCst);
    if before >= 0 {
        // SAFETY: the descriptor was put there above, by an earlier call, and nobody else closes it.
        unsafe { libc::close(before) };
    }
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all zeros is a valid `sigaction`, and `handle` has the signature that SA_SIGINFO asks for.
    let result = unsafe {
        let action = action.assume_init_mut();
        action.sa_sigaction = handle as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGBUS, action, ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes a filled in `siginfo_t`; signals that a process sends have a code that is not positive, and no address.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
    // SAFETY: each thread has a number of its own, which the calls below may change under whoever was interrupted.
    let errno = unsafe { *libc::__errno_location() };
    if code > 0 && entries().any(|entry| entry.replace(address)) {
        wake(WAKE.load(Ordering::SeqCst));
    } else {
        // Not about guest memory: the process ends as it would have, now by a signal that waits until this handler returns.
        // SAFETY: the default action runs no code of ours, and the call that sends the signal has no pointers.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), signal);
        }
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

fn wake(eventfd: RawFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: the kernel reads the eight bytes. A bad descriptor, or a full counter, is an error that nobody can be told.
    unsafe { libc::write(eventfd, one.as_ptr().cast(), one.len()) };
}

impl Backing {
    fn take_shortened(&mut self) -> Option<Shortened> {
        let (file, needed) = self.file.as_ref()?;
        // A file that cannot be asked has what it had.
        let found = file.metadata().map_or(*needed, |metadata| metadata.len());
        let was_short = std::mem::replace(&mut self.is_short, found < *needed);
        let is_news = self.is_short && !was_short;
        is_news.then(|| Shortened { memory: self.name.clone(), needed: *needed, found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bytes, GuestAddress, GuestRam, HostMemory};
    use config::plan::Zone;
    use rustix::event::{EventfdFlags, eventfd};
    use std::path::PathBuf;
    use std::sync::Arc;

    const SIZE: u64 = 8 * PAGE as u64;

    fn zone(name: &str) -> (Zone, PathBuf) {
        let path = std::env::temp_dir().join(format!("memory-{name}-{}", std::process::id()));
        (Zone { id: name.into(), file: Some(path.clone()), shared: true, ..Zone::new("", SIZE) }, path)
    }

    /// The only mapping of `ram`.
    fn mapping(ram: &GuestRam) -> Arc<dyn HostMemory> {
        ram.host_memory().remove(0).1
    }

    #[test]
    fn what_is_missing_is_replaced_and_told_of() {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
        report_to(bell.try_clone().unwrap()).unwrap();
        let (zone, path) = zone("missing");
        let ram = GuestRam::allocate(&[zone]).unwrap();
        let (map, mapping) = (ram.map(), mapping(&ram));
        let guard = mapping.guard().unwrap();
        map.write_obj(7u64, GuestAddress(0)).unwrap();
        map.write_obj(7u64, GuestAddress(5 * PAGE as u64)).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(PAGE as u64).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(guard.take_missing(), None);
        map.write_obj(8u64, GuestAddress(5 * PAGE as u64 + 8)).unwrap();
        let read = |address| map.read_obj::<u64>(GuestAddress(address)).unwrap();
        assert_eq!([read(0), read(5 * PAGE as u64), read(5 * PAGE as u64 + 8)], [7, 0, 8]);
        let told = guard.take_missing().unwrap();
        assert!(told.memory.contains("'missing'") && told.offset == 5 * PAGE, "{told:?}");
        assert_eq!(guard.take_missing(), None, "it is told once");
        let mut count = [0; 8];
        assert_eq!(rustix::io::read(&bell, &mut count).unwrap(), 8);
        assert_ne!(u64::from_ne_bytes(count), 0);
    }

    #[test]
    fn a_file_that_becomes_shorter_is_told_of_each_time() {
        let (zone, path) = zone("short");
        let ram = GuestRam::allocate(&[zone]).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mapping = mapping(&ram);
        let guard = mapping.guard().unwrap();
        assert!(guard.has_file() && guard.take_shortened().is_none());
        for _ in 0..2 {
            file.set_len(SIZE - 1).unwrap();
            let short = guard.take_shortened().unwrap();
            assert!(short.memory.contains(path.to_str().unwrap()), "{short:?}");
            assert_eq!((short.needed, short.found), (SIZE, SIZE - 1));
            assert_eq!(guard.take_shortened(), None);
            file.set_len(2 * SIZE).unwrap();
            assert_eq!(guard.take_shortened(), None);
        }
    }

    #[test]
    fn memory_that_nobody_else_knows_is_not_looked_at() {
        let anonymous = Zone::new("z", SIZE);
        for zone in [Zone { shared: true, ..anonymous.clone() }, anonymous] {
            let mapping = mapping(&GuestRam::allocate(&[zone]).unwrap());
            assert!(!mapping.guard().unwrap().has_file());
        }
    }

    #[test]
    fn entries_are_used_again() {
        const OTHERS: usize = 50;
        let before = entries().count();
        for _ in 0..4 * OTHERS {
            drop(GuestRam::allocate(&[Zone::new("again", SIZE)]).unwrap());
        }
        // Other tests run beside this one, and have a few.
        assert!(entries().count() < before + OTHERS);
    }
}

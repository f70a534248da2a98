//! The handler of `SIGSYS`: says which system call was forbidden, then lets the process die. It runs inside the thread that made the call,
//! wherever that was: no allocation, no lock, no call that a filter might forbid.

use std::ffi::c_int;
use std::fmt::{self, Write};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

/// `si_code` of a signal that a filter sent (`SYS_SECCOMP`), rather than another process.
const FROM_FILTER: c_int = 1;

/// A descriptor beside standard error, or -1.
static LOG: AtomicI32 = AtomicI32::new(-1);

/// `siginfo_t` as the kernel fills it in for `SIGSYS`.
#[repr(C)]
struct Violation {
    _signo: c_int,
    _errno: c_int,
    code: c_int,
    _address: *const u8,
    call: c_int,
    arch: u32,
}

/// Writes the message of a violation to `log` as well. The descriptor stays open for as long as the process lives.
pub fn report_violations_to(log: OwnedFd) {
    LOG.store(log.into_raw_fd(), Ordering::Relaxed);
}

/// Installs the handler. It is used up by the first violation, so that whatever goes wrong in it ends the process too.
pub(super) fn install() -> io::Result<()> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all zeros is a valid `sigaction`, and `handle` has the signature that SA_SIGINFO asks for.
    let result = unsafe {
        let action = action.assume_init_mut();
        action.sa_sigaction = handle as extern "C" fn(c_int, *const Violation, *mut libc::c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND;
        libc::sigaction(libc::SIGSYS, action, ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn handle(signal: c_int, info: *const Violation, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a filled in `siginfo_t`, which is larger than `Violation`; for other senders than a filter only `code`
    // is meant here.
    let violation = unsafe { &*info };
    if violation.code == FROM_FILTER {
        let mut line = Line::default();
        // A line that is too long is cut.
        let _ = describe(&mut line, violation);
        for fd in [libc::STDERR_FILENO, LOG.load(Ordering::Relaxed)] {
            // A pipe that nobody reads must not keep the process from its end.
            let mut ready = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
            // SAFETY: the kernel reads and writes the one entry it is told of.
            if unsafe { libc::poll(&raw mut ready, 1, 0) } != 1 || ready.revents & libc::POLLOUT == 0 {
                continue;
            }
            // SAFETY: the kernel reads `len` bytes of a buffer that has them; a bad descriptor is an error that nobody can be told.
            unsafe { libc::write(fd, line.bytes.as_ptr().cast(), line.len) };
        }
    }
    // The signal waits until this handler returns and then meets the default action.
    // SAFETY: a system call without pointers, which the filters allow for this process.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), signal) };
}

fn describe(line: &mut Line, violation: &Violation) -> fmt::Result {
    let mut name = [0u8; 16];
    // SAFETY: the kernel writes at most 16 bytes, the last of them 0.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let name = name.split(|byte| *byte == 0).next().and_then(|bytes| std::str::from_utf8(bytes).ok());
    let Violation { call, arch, .. } = violation;
    let name = name.unwrap_or("unknown");
    write!(line, "Probable seccomp violation: si_syscall={call} si_arch={arch:#x} thread={name}\r\n")
}

/// Text in a buffer of its own.
struct Line {
    bytes: [u8; 128],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: [0; 128], len: 0 }
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room =
            self.bytes.get_mut(self.len..).and_then(|rest| rest.get_mut(..text.len())).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

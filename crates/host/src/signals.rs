//! Signals as something to read: SIGTERM, SIGINT and SIGHUP ask for the process's end, SIGWINCH tells of a resized terminal, SIGUSR1 and SIGUSR2
//! ask for more and for less in the log.
//!
//! Limits of the host that arrive as signals end a process without a word by default. Here a limit of the file size (SIGXFSZ) and a
//! reader that is gone (SIGPIPE) are errors of the write that met them, and only that; the soft limit of CPU time (SIGXCPU) is the
//! host asking for the end, a second before it takes it.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// End the process.
    Terminate,
    /// The terminal has another size.
    WindowChanged,
    /// Log more.
    LogMore,
    /// Log less.
    LogLess,
}

const NUMBERS: [(libc::c_int, Signal); 7] = [
    (libc::SIGTERM, Signal::Terminate),
    (libc::SIGINT, Signal::Terminate),
    (libc::SIGHUP, Signal::Terminate),
    (libc::SIGXCPU, Signal::Terminate),
    (libc::SIGWINCH, Signal::WindowChanged),
    (libc::SIGUSR1, Signal::LogMore),
    (libc::SIGUSR2, Signal::LogLess),
];

/// What says the same as an error (EFBIG, EPIPE) to the thread whose write it is about.
const IGNORED: [libc::c_int; 2] = [libc::SIGXFSZ, libc::SIGPIPE];

/// Makes limits of the host that arrive as signals errors of the write that met them, and only that, for the whole process. To be called
/// before the first write: the log of a start that fails may be the file that is too large.
pub fn take_limits_as_errors() {
    for signal in IGNORED {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// The process's signals. Made before any other thread starts, so that all threads inherit the blocked set.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks the signals for the calling thread and those it starts, and makes them readable here.
    ///
    /// # Errors
    /// The kernel's, if there is no descriptor left.
    pub fn take() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `sigemptyset` initialises the set, the other calls read or extend it; the descriptor is new and owned here.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for (signal, _) in NUMBERS {
                // `nohup` ignores it so that the program outlives its terminal, and a signal descriptor would read it all the same.
                if signal != libc::SIGHUP || !is_ignored(signal) {
                    libc::sigaddset(set.as_mut_ptr(), signal);
                }
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
            let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
            if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(OwnedFd::from_raw_fd(fd))) }
        }
    }

    /// The next signal, if one waits.
    pub fn next(&self) -> Option<Signal> {
        let mut bytes = [0u8; size_of::<libc::signalfd_siginfo>()];
        let read = rustix::io::read(&self.0, &mut bytes).ok()?;
        let number = bytes.first_chunk::<4>().filter(|_| read == bytes.len())?;
        let number = libc::c_int::from_ne_bytes(*number);
        NUMBERS.iter().find(|(known, _)| *known == number).map(|(_, signal)| *signal)
    }
}

fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the call only writes to `action`, for which all zeroes are a valid value, too.
    let action = unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_read_instead_of_delivered() {
        // SAFETY: the default is no handler of ours. Tests may run under `nohup`.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) };
        let signals = Signals::take().unwrap();
        assert_eq!(signals.next(), None);
        for (number, signal) in NUMBERS {
            // SAFETY: raises a signal that this thread has blocked.
            unsafe { libc::raise(number) };
            assert_eq!(signals.next(), Some(signal));
        }
        assert_eq!(signals.next(), None);
    }

    #[test]
    fn a_write_beyond_a_limit_fails_and_ends_nothing() {
        take_limits_as_errors();
        let signals = Signals::take().unwrap();
        for number in IGNORED {
            // SAFETY: raises a signal that is ignored; the process would end here if it were not.
            unsafe { libc::raise(number) };
        }
        assert_eq!(signals.next(), None);
    }
}

//! Descriptors that the parent process left open for this one and named on the command line.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_setfd};

/// Takes over descriptor `number`. It closes with the result, and this process's children do not get it.
///
/// # Errors
/// `EBADF` if nothing is open there; standard input, output and error are refused.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the number is only used for one call here, which fails if nothing is open there.
    fcntl_setfd(unsafe { BorrowedFd::borrow_raw(number) }, FdFlags::CLOEXEC)?;
    // SAFETY: the descriptor is open, and the parent handed it to this process to own; this is called once for each flag naming one.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    #[test]
    fn closed_and_standard_descriptors_are_refused() {
        for number in [-1, 0, 2, 1_000_000] {
            assert!(super::take(number).is_err(), "{number}");
        }
    }
}

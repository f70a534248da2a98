//! Descriptors that the parent process left open for this one and named on the command line.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// Takes over descriptor `number`. It closes with the result, and this process's children do not get it.
///
/// # Errors
/// `EBADF` if nothing is open there, or not since before this process began; standard input, output and error are refused.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the number is only used for two calls here, which fail if nothing is open there.
    let inherited = unsafe { BorrowedFd::borrow_raw(number) };
    // All that this process opens by itself closes on exec, and so does all that was taken over before: neither may have two owners.
    if fcntl_getfd(inherited)?.contains(FdFlags::CLOEXEC) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    fcntl_setfd(inherited, FdFlags::CLOEXEC)?;
    // SAFETY: the descriptor is open, came through exec, and has not been taken over before.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn a_descriptor_is_taken_once() {
        let (open, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        fcntl_setfd(&open, FdFlags::empty()).unwrap();
        let number = open.into_raw_fd();
        let taken = take(number).unwrap();
        assert!(take(number).is_err());
        drop(taken);
        assert!(take(number).is_err());
    }

    #[test]
    fn closed_and_standard_descriptors_are_refused() {
        for number in [-1, 0, 2, 1_000_000] {
            assert!(take(number).is_err(), "{number}");
        }
    }
}

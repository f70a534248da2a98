//! Descriptors that the parent process left open for this one and named on the command line.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd};

/// Takes over descriptor `number`. It closes with the result, and this process's children do not get it.
///
/// Of standard input, output and error, which the rest of the program may use too, the result is a duplicate.
///
/// # Errors
/// `EBADF` if nothing is open there, or not since before this process began.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the number is only used for three calls here, which fail if nothing is open there.
    let inherited = unsafe { BorrowedFd::borrow_raw(number) };
    // All that this process opens by itself closes on exec, and so does all that was taken over before: neither may have two owners.
    if fcntl_getfd(inherited)?.contains(FdFlags::CLOEXEC) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    if number <= libc::STDERR_FILENO {
        return Ok(fcntl_dupfd_cloexec(inherited, libc::STDERR_FILENO + 1)?);
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
    fn closed_descriptors_are_refused() {
        for number in [RawFd::MIN, -1, 1_000_000] {
            assert!(take(number).is_err(), "{number}");
        }
    }

    #[test]
    fn standard_descriptors_stay_where_they_are() {
        use std::os::fd::AsRawFd;
        for number in 0..=2 {
            let (first, second) = (take(number).unwrap(), take(number).unwrap());
            assert!(first.as_raw_fd() > 2 && second.as_raw_fd() > 2);
        }
    }
}

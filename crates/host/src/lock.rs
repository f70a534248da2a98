//! Open file description locks: advisory locks that belong to the open file and not to the process, so that two opens in one process
//! exclude each other, too.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Who may hold a lock besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Other holders of this kind.
    Shared,
    /// Nobody.
    Exclusive,
}

/// Locks the first `len` bytes of `file`, or all of it, however large it grows, if `len` is 0. Never waits.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] if somebody else holds it; otherwise the file system's refusal.
pub fn acquire(file: &File, len: u64, kind: Kind) -> io::Result<()> {
    let kind = match kind {
        Kind::Shared => libc::F_RDLCK,
        Kind::Exclusive => libc::F_WRLCK,
    };
    set(file, kind, len).map_err(|error| match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => io::ErrorKind::WouldBlock.into(),
        _ => error,
    })
}

/// Gives all locks on `file` back.
///
/// # Errors
/// The file system's.
pub fn release(file: &File) -> io::Result<()> {
    set(file, libc::F_UNLCK, 0)
}

fn set(file: &File, kind: libc::c_int, len: u64) -> io::Result<()> {
    let range = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: i64::try_from(len).unwrap_or(0),
        l_pid: 0,
    };
    // SAFETY: the descriptor is open and the kernel only reads `range`.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const range) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_opens_of_one_file_exclude_each_other() {
        let path = std::env::temp_dir().join(format!("host-lock-{}", std::process::id()));
        let open =
            || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let (a, b) = (open(), open());
        acquire(&a, 0, Kind::Exclusive).unwrap();
        assert_eq!(acquire(&b, 1, Kind::Shared).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        release(&a).unwrap();
        acquire(&b, 1, Kind::Shared).unwrap();
        acquire(&a, 1, Kind::Shared).unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}

//! UNIX stream sockets at paths: connecting without waiting, and making room for a new one.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use thiserror::Error;

/// What keeps a socket from being made at a path.
#[derive(Debug, Error)]
pub enum InTheWay {
    /// Something else is there, and stays.
    #[error("There is a file that is no socket: use a path of its own")]
    File,
    /// Another program listens there.
    #[error("Another program listens there: end it, or use a path of its own")]
    Program,
    /// What is there cannot be looked at or removed.
    #[error("The socket of an earlier run cannot be replaced")]
    Stale(#[from] io::Error),
}

/// Removes the socket that a process has left at `path` when it did not end well; anything else there is somebody's. Two processes that
/// do this at the same moment may both believe the place to be theirs: who cannot have that needs a lock besides.
///
/// # Errors
/// [`InTheWay`]; nothing is removed then.
pub fn make_room(path: &Path) -> Result<(), InTheWay> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(InTheWay::File),
        Ok(_) => {}
    }
    match connect(path) {
        Err(Errno::CONNREFUSED) => Ok(std::fs::remove_file(path)?),
        // Its queue is full, or it is a socket of another type that somebody holds.
        Ok(_) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(InTheWay::Program),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

/// Connects to whoever listens at `path`. Never waits, and neither will the connection.
///
/// # Errors
/// The kernel's; `EAGAIN` if too many others wait to be accepted there.
pub fn connect(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    #[test]
    fn room_is_made_of_what_nobody_serves() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        make_room(&at("missing")).unwrap();
        drop(UnixListener::bind(at("left")).unwrap());
        make_room(&at("left")).unwrap();
        assert!(!at("left").exists());
        std::fs::write(at("file"), "precious").unwrap();
        assert!(matches!(make_room(&at("file")), Err(InTheWay::File)));
        let _listener = UnixListener::bind(at("served")).unwrap();
        let _datagrams = UnixDatagram::bind(at("datagrams")).unwrap();
        for name in ["served", "datagrams"] {
            assert!(matches!(make_room(&at(name)), Err(InTheWay::Program)), "{name}");
        }
        assert!(matches!(make_room(&at("file/below")), Err(InTheWay::Stale(_))));
        for name in ["file", "served", "datagrams"] {
            assert!(at(name).exists(), "{name}");
        }
    }
}

//! UNIX sockets: between processes of one host, and the only way for descriptors.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::{TransportError, somebody_came, unless_gone, wake_every_tick};
use crate::connection::{Connection, Link, Watch};
use crate::endpoint::{Accept, Dial};

pub(super) struct Dialler(PathBuf);

impl Dialler {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

impl Dial for Dialler {
    fn dial(&self, watch: &Watch) -> io::Result<Connection> {
        let stream = UnixStream::from(host::unix_socket::connect(&self.0)?);
        // The process that has made the listening socket: the one behind a relay is another.
        let peer = rustix::net::sockopt::socket_peercred(&stream)?.pid;
        connection(stream, peer.as_raw_nonzero().get().cast_unsigned(), watch)
    }
}

/// A listening socket. The last use of it removes it.
pub(super) struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    pub(super) fn bind(path: &Path) -> Result<Self, TransportError> {
        host::unix_socket::make_room(path)
            .map_err(|source| TransportError::InTheWay { path: path.to_owned(), source })?;
        let bind = || {
            let listener = UnixListener::bind(path)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener =
            bind().map_err(|source| TransportError::Listen { at: path.display().to_string(), source })?;
        Ok(Self { listener, path: path.to_owned() })
    }
}

impl Accept for Listener {
    fn accept(&mut self, watch: &Watch) -> io::Result<Option<Connection>> {
        if !somebody_came(&self.listener)? {
            return Ok(None);
        }
        let accepted = unless_gone(self.listener.accept())?;
        accepted.map(|(stream, _)| connection(stream, std::process::id(), watch)).transpose()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!("migration: the socket {} stays: {error}", self.path.display());
        }
    }
}

struct UnixLink {
    stream: UnixStream,
    witness: u32,
}

fn connection(stream: UnixStream, witness: u32, watch: &Watch) -> io::Result<Connection> {
    stream.set_nonblocking(false)?;
    wake_every_tick(&stream)?;
    Ok(Connection::new(Box::new(UnixLink { stream, witness }), watch.clone()))
}

impl Read for UnixLink {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.read(bytes)
    }
}

impl Write for UnixLink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Link for UnixLink {
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.stream.as_fd())
    }

    fn witness(&self) -> u32 {
        self.witness
    }
}

//! Ways to the other side: UNIX and TCP sockets.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::MigrationUrl;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::connection::TICK;
use crate::{Accept, Connection, Dial, Link, Watch};

/// The way to who waits at `url`.
///
/// # Errors
/// TLS.
pub fn dial(url: &MigrationUrl, tls: Option<&Path>) -> io::Result<Arc<dyn Dial>> {
    if tls.is_some() {
        return Err(ErrorKind::Unsupported.into());
    }
    Ok(Arc::new(Way(url.clone())))
}

/// Waits at `url`.
///
/// # Errors
/// The kernel's.
pub fn listen(url: &MigrationUrl, tls: Option<&Path>) -> io::Result<Box<dyn Accept>> {
    if tls.is_some() {
        return Err(ErrorKind::Unsupported.into());
    }
    Ok(match url {
        MigrationUrl::Tcp(host, port) => {
            let listener = TcpListener::bind((host.as_str(), *port))?;
            listener.set_nonblocking(true)?;
            Box::new(Tcp(listener))
        }
        MigrationUrl::Unix(path) => {
            let listener = UnixListener::bind(path)?;
            listener.set_nonblocking(true)?;
            Box::new(Unix(listener, path.clone()))
        }
    })
}

struct Way(MigrationUrl);

impl Dial for Way {
    fn dial(&self, watch: &Watch) -> io::Result<Connection> {
        Ok(match &self.0 {
            MigrationUrl::Tcp(host, port) => tcp(TcpStream::connect((host.as_str(), *port))?, watch)?,
            MigrationUrl::Unix(path) => unix(UnixStream::connect(path)?, watch)?,
        })
    }
}

fn tcp(stream: TcpStream, watch: &Watch) -> io::Result<Connection> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TICK))?;
    stream.set_write_timeout(Some(TICK))?;
    Ok(Connection::new(Box::new(TcpLink(stream)), watch.clone()))
}

fn unix(stream: UnixStream, watch: &Watch) -> io::Result<Connection> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TICK))?;
    stream.set_write_timeout(Some(TICK))?;
    Ok(Connection::new(Box::new(UnixLink(stream)), watch.clone()))
}

fn is_ready(socket: impl AsFd) -> io::Result<bool> {
    let timeout = Timespec { tv_sec: 0, tv_nsec: TICK.subsec_nanos().into() };
    let mut fds = [PollFd::new(&socket, PollFlags::IN)];
    Ok(poll(&mut fds, Some(&timeout))? > 0)
}

struct Tcp(TcpListener);

impl Accept for Tcp {
    fn accept(&mut self, watch: &Watch) -> io::Result<Option<Connection>> {
        if !is_ready(&self.0)? {
            return Ok(None);
        }
        tcp(self.0.accept()?.0, watch).map(Some)
    }
}

struct Unix(UnixListener, PathBuf);

impl Accept for Unix {
    fn accept(&mut self, watch: &Watch) -> io::Result<Option<Connection>> {
        if !is_ready(&self.0)? {
            return Ok(None);
        }
        unix(self.0.accept()?.0, watch).map(Some)
    }
}

impl Drop for Unix {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.1);
    }
}

struct TcpLink(TcpStream);
struct UnixLink(UnixStream);

impl Read for TcpLink {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }
}

impl Write for TcpLink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Link for TcpLink {
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn witness(&self) -> u32 {
        0
    }
}

impl Read for UnixLink {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }
}

impl Write for UnixLink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Link for UnixLink {
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    fn witness(&self) -> u32 {
        0
    }
}

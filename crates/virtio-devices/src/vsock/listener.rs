//! The host's side: the socket where clients ask for the guest, and those of programs that the guest asks for.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use host::own_file::OwnFile;
use host::unix_socket::{self, InTheWay};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use thiserror::Error;

/// Why there is no socket.
#[derive(Debug, Error)]
#[error("Error binding to the host-side Unix socket '{}'", .path.display())]
pub struct BindError {
    path: PathBuf,
    pub(super) source: BindCause,
}

/// What was in the way.
#[derive(Debug, Error)]
pub enum BindCause {
    /// Something is there already.
    #[error(transparent)]
    InTheWay(#[from] InTheWay),
    /// The kernel refused.
    #[error("The socket cannot be bound")]
    Bind(#[from] io::Error),
}

/// The front's end of the socket: removes its file at last.
pub(super) struct Socket {
    file: OwnFile,
    /// Open until the file is removed, so that no other one can be taken for it.
    pub(super) listener: Arc<UnixListener>,
}

impl Socket {
    /// Listens at `path`. A socket that an ended process has left there is replaced.
    pub(super) fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |source| BindError { path: path.into(), source };
        unix_socket::make_room(path).map_err(|e| failed(e.into()))?;
        let listener = UnixListener::bind(path).map_err(|e| failed(e.into()))?;
        let socket = Self { file: OwnFile::made_at(path.into()), listener: Arc::new(listener) };
        socket.listener.set_nonblocking(true).map_err(|e| failed(e.into()))?;
        Ok(socket)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = self.file.remove() {
            tracing::warn!("The vsock socket '{}' stays behind: {error}", self.file.path().display());
        }
    }
}

/// Bytes of a path that the kernel takes for a socket: its `sun_path` less the final zero.
const MAX_PATH: usize = 107;

/// Digits of the longest port for which a program's path is still one that the kernel takes.
pub(super) fn digits(socket: &Path) -> usize {
    MAX_PATH.saturating_sub(socket.as_os_str().len() + 1)
}

/// The next client, if one waits.
pub(super) fn accept(listener: &UnixListener) -> io::Result<Option<UnixStream>> {
    match rustix::net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        Ok(client) => Ok(Some(client.into())),
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Connects to the program that serves `port` for the guest, at the socket's path with the port behind it. Never waits:
/// [`io::ErrorKind::WouldBlock`] if too many others wait to be accepted there.
pub(super) fn dial(socket: &Path, port: u32) -> io::Result<UnixStream> {
    let mut path = socket.as_os_str().to_owned();
    path.push(format!("_{port}"));
    let stream: OwnedFd = unix_socket::connect(Path::new(&path))?;
    Ok(stream.into())
}

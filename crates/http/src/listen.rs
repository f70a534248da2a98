//! The listening socket and its lock (`spec/rest-api.md` §1). Called on the main thread, before any other thread exists.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use host::lock;
use rustix::net::{AddressFamily, SocketType, sockopt};
use sandbox::{Access, Grant};
use thiserror::Error;

/// Where to listen.
#[derive(Debug)]
pub enum Listen {
    /// Bind a socket here, under the lock `PATH.lock`.
    Path(PathBuf),
    /// A UNIX stream socket that listens already; nothing is locked or unlinked.
    Fd(OwnedFd),
}

/// Why there is nothing to listen on.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another process holds the lock.
    #[error("API socket \"{}\" is already in use by another running instance", .0.display())]
    InUse(PathBuf),
    /// The lock file cannot be opened or locked.
    #[error("Failed to lock \"{}\"", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// What was left at the path cannot be removed.
    #[error("Failed to remove the stale API socket \"{}\"", path.display())]
    Stale {
        /// The socket.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The socket cannot be bound.
    #[error("Failed to bind the API socket \"{}\"", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The descriptor is of another kind.
    #[error("The API socket's file descriptor is not a listening UNIX stream socket")]
    NotListening,
    /// The socket cannot be made ready.
    #[error("Failed to set up the API socket")]
    Setup(#[from] io::Error),
}

/// A socket on which clients can connect already. The lock is held as long as this lives.
#[derive(Debug)]
pub struct Bound {
    pub(crate) listener: UnixListener,
    pub(crate) place: Option<Place>,
}

/// The socket's file, ours as long as the lock is held.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    _lock: File,
}

impl Place {
    /// What unlinking the socket takes.
    pub(crate) fn grant(&self) -> Grant {
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        Grant { path: parent.unwrap_or(Path::new(".")).into(), access: Access::Remove }
    }
}

/// Makes the socket accept connections; [`crate::serve`] answers them.
///
/// # Errors
/// [`BindError`]; nothing at the path is touched unless the lock is ours.
pub fn bind(listen: Listen) -> Result<Bound, BindError> {
    let bound = match listen {
        Listen::Path(path) => bind_path(path)?,
        Listen::Fd(fd) => Bound { listener: adopt(fd)?, place: None },
    };
    bound.listener.set_nonblocking(true)?;
    Ok(bound)
}

fn bind_path(path: PathBuf) -> Result<Bound, BindError> {
    let lock = take_lock(&path)?;
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(BindError::Stale { path, source });
        }
        _ => {}
    }
    match UnixListener::bind(&path) {
        Ok(listener) => Ok(Bound { listener, place: Some(Place { path, _lock: lock }) }),
        Err(source) => Err(BindError::Bind { path, source }),
    }
}

/// The lock file stays for ever: unlinking it would let two processes hold locks on two files of one name.
fn take_lock(socket: &Path) -> Result<File, BindError> {
    let mut path = OsString::from(socket);
    path.push(".lock");
    let path = PathBuf::from(path);
    let file = match File::options().read(true).write(true).create(true).truncate(false).open(&path) {
        Ok(file) => file,
        Err(source) => return Err(BindError::Lock { path, source }),
    };
    match lock::acquire(&file, 0, lock::Kind::Exclusive) {
        Ok(()) => Ok(file),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(BindError::InUse(socket.into())),
        Err(source) => Err(BindError::Lock { path, source }),
    }
}

fn adopt(fd: OwnedFd) -> Result<UnixListener, BindError> {
    let is_ours = sockopt::socket_domain(&fd) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(&fd) == Ok(SocketType::STREAM)
        && sockopt::socket_acceptconn(&fd) == Ok(true);
    if !is_ours {
        return Err(BindError::NotListening);
    }
    // Inherited descriptors are not close-on-exec, and children must not hold the API open.
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).map_err(io::Error::from)?;
    Ok(UnixListener::from(fd))
}

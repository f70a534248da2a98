//! The listening socket and its lock (`spec/rest-api.md` §1). Called on the main thread, before any other thread exists.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use host::lock;
use host::own_file::OwnFile;
use host::unix_socket::{InTheWay, make_room};
use rustix::net::{AddressFamily, SocketType, sockopt};
use sandbox::{Access, Grant};
use thiserror::Error;

/// Bytes of a path that the kernel takes for a socket: its `sun_path` less the final zero.
const MAX_PATH: usize = 107;

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
    /// A socket without a name would be everybody's.
    #[error("The API socket's path is empty: give the path at which it is to be made")]
    Empty,
    /// The kernel's addresses are short.
    #[error(
        "The API socket's path \"{}\" has {} bytes, and the kernel takes {MAX_PATH}: use a shorter one, or a relative one",
        .0.display(),
        .0.as_os_str().len()
    )]
    TooLong(PathBuf),
    /// Something else is at the path, and stays there.
    #[error("\"{}\" is no socket: give the API socket a path of its own", .0.display())]
    Occupied(PathBuf),
    /// Another program listens there.
    #[error(
        "Another program listens on \"{}\": end it, or give the API socket a path of its own",
        .0.display()
    )]
    Served(PathBuf),
    /// What was left at the path cannot be looked at or removed.
    #[error("Failed to replace the API socket \"{}\" of an earlier run", path.display())]
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
    pub(crate) file: Option<SocketFile>,
}

/// The socket's file, ours as long as the lock is held. Dropped before a good end, it takes with it what this start has made.
#[derive(Debug)]
pub(crate) struct SocketFile {
    file: OwnFile,
    is_bound: bool,
    lock: Lock,
}

impl SocketFile {
    /// What unlinking the socket takes.
    pub(crate) fn grant(&self) -> Grant {
        Grant::directory_of(self.file.path(), Access::Remove)
    }

    /// Unlinks the socket at the end of a process that was of use. The lock file stays for the next one.
    ///
    /// # Errors
    /// The path and the kernel's reason, if the socket is still there.
    pub(crate) fn leave(mut self) -> Result<(), (PathBuf, io::Error)> {
        self.is_bound = false;
        self.lock.is_new = false;
        self.file.remove().map_err(|source| (self.file.path().into(), source))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_bound {
            // Nobody is left to be told that it stays, and the next start replaces it.
            let _ = self.file.remove();
        }
    }
}

/// Makes the socket accept connections; [`crate::serve`] answers them.
///
/// # Errors
/// [`BindError`]; nothing at the path is touched unless the lock is ours, and then only a socket on which nobody listens.
pub fn bind(listen: Listen) -> Result<Bound, BindError> {
    let bound = match listen {
        Listen::Path(path) => bind_path(path)?,
        Listen::Fd(fd) => Bound { listener: adopt(fd)?, file: None },
    };
    bound.listener.set_nonblocking(true)?;
    Ok(bound)
}

fn bind_path(path: PathBuf) -> Result<Bound, BindError> {
    match path.as_os_str().len() {
        0 => return Err(BindError::Empty),
        length if length > MAX_PATH => return Err(BindError::TooLong(path)),
        _ => {}
    }
    let lock = Lock::take(&path)?;
    make_room(&path).map_err(|error| in_the_way(&path, error))?;
    match UnixListener::bind(&path) {
        Ok(listener) => {
            let file = SocketFile { file: OwnFile::made_at(path), is_bound: true, lock };
            Ok(Bound { listener, file: Some(file) })
        }
        Err(source) => Err(BindError::Bind { path, source }),
    }
}

fn in_the_way(path: &Path, error: InTheWay) -> BindError {
    match error {
        InTheWay::File => BindError::Occupied(path.into()),
        InTheWay::Program => BindError::Served(path.into()),
        InTheWay::Stale(source) => BindError::Stale { path: path.into(), source },
    }
}

/// The lock on `PATH.lock`. Dropped, it takes the file with it if this start has made it.
#[derive(Debug)]
struct Lock {
    file: File,
    path: PathBuf,
    is_new: bool,
}

impl Lock {
    fn take(socket: &Path) -> Result<Self, BindError> {
        let mut path = OsString::from(socket);
        path.push(".lock");
        let path = PathBuf::from(path);
        loop {
            let failed = |source| BindError::Lock { path: path.clone(), source };
            let (file, is_new) = open_lock(&path).map_err(failed)?;
            let lock = Self { file, path: path.clone(), is_new };
            match lock::acquire(&lock.file, 0, lock::Kind::Exclusive) {
                Ok(()) if lock.is_at_its_path() => return Ok(lock),
                // A start that failed has unlinked the file between our open and our lock.
                Ok(()) => lock.forget(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    lock.forget();
                    return Err(BindError::InUse(socket.into()));
                }
                Err(source) => return Err(failed(source)),
            }
        }
    }

    /// Whether the lock keeps others out: it does as long as they find the same file.
    fn is_at_its_path(&self) -> bool {
        let place = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let (ours, theirs) = (self.file.metadata().map(place), self.path.metadata().map(place));
        matches!((ours, theirs), (Ok(ours), Ok(theirs)) if ours == theirs)
    }

    /// Leaves a file that has become another's.
    fn forget(mut self) {
        self.is_new = false;
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.is_new && self.is_at_its_path() {
            // While the lock is still held, so that nobody else's is unlinked. An empty file that stays does no harm.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The lock's file, and whether it was made now.
fn open_lock(path: &Path) -> io::Result<(File, bool)> {
    let mut options = File::options();
    options.read(true).write(true);
    match options.clone().create_new(true).open(path) {
        Ok(file) => Ok((file, true)),
        // Or was removed just now.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            options.create(true).truncate(false).open(path).map(|file| (file, false))
        }
        Err(error) => Err(error),
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

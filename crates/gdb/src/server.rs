//! The `gdb` thread: one client after the other.
//!
//! [`bind`], [`serve`] and [`Server::stop`] are called on the main thread.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use device::Events;
use gdbstub::stub::GdbStub;
use host::EventFd;
use host::own_file::OwnFile;
use host::unix_socket::{InTheWay, make_room};
use libc::{
    SYS_accept4, SYS_epoll_create1, SYS_eventfd2, SYS_getsockopt, SYS_newfstatat, SYS_recvfrom, SYS_sendto,
    SYS_setsockopt, SYS_statx, SYS_unlink, SYS_unlinkat,
};
use machine::DebugDesk;
use sandbox::call::{Call, any, ioctl};
use sandbox::{Access, Grant, Profile, groups};
use thiserror::Error;

use crate::session::Session;
use crate::target::Loop;
use crate::wire::{Waiting, Wire};

/// Accepting clients and talking with them; unlinking the socket at the end.
const CLIENTS: &[Call] = &[
    any(SYS_accept4),
    any(SYS_epoll_create1),
    any(SYS_eventfd2),
    any(SYS_getsockopt),
    any(SYS_newfstatat),
    any(SYS_recvfrom),
    any(SYS_sendto),
    any(SYS_setsockopt),
    any(SYS_statx),
    any(SYS_unlink),
    any(SYS_unlinkat),
    ioctl(libc::FIONBIO as u32),
];

static PROFILE: Profile = Profile::new("gdb", &[groups::EPOLL, CLIENTS]);

/// Why debuggers have nowhere to connect.
#[derive(Debug, Error)]
pub enum BindError {
    /// Something is at the path.
    #[error("The debugger's socket \"{}\" cannot be made", path.display())]
    Occupied {
        /// The socket.
        path: PathBuf,
        /// What is there.
        #[source]
        source: InTheWay,
    },
    /// The kernel refuses it.
    #[error("Failed to bind the debugger's socket \"{}\"", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// The thread did not start.
#[derive(Debug, Error)]
#[error("Failed to start the debugger's thread")]
pub struct ServeError(#[from] io::Error);

/// A socket to which debuggers can connect already. Dropped, it takes the file with it.
#[derive(Debug)]
pub struct Bound {
    listener: UnixListener,
    file: OwnFile,
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Err(error) = self.file.remove() {
            tracing::warn!("The debugger's socket is still there: {error}");
        }
    }
}

/// The running stub. Dropping it leaves the thread alone, as a failing process must.
pub struct Server {
    desk: Arc<DebugDesk>,
    end: Arc<EventFd>,
    thread: JoinHandle<()>,
}

/// Listens at `path`, where no other program may do so.
///
/// # Errors
/// [`BindError`].
pub fn bind(path: &Path) -> Result<Bound, BindError> {
    make_room(path).map_err(|source| BindError::Occupied { path: path.into(), source })?;
    let refused = |source| BindError::Bind { path: path.into(), source };
    let listener = UnixListener::bind(path).map_err(refused)?;
    let file = OwnFile::made_at(path.into());
    listener.set_nonblocking(true).map_err(refused)?;
    Ok(Bound { listener, file })
}

/// Serves debuggers on a thread of its own. Control puts its machines on [`Server::desk`].
///
/// # Errors
/// [`ServeError`].
pub fn serve(bound: Bound, events: Events) -> Result<Server, ServeError> {
    let (desk, end) = (Arc::new(DebugDesk::new(events)?), Arc::new(host::event_fd()?));
    let stub = Stub { bound, desk: desk.clone(), end: end.clone() };
    let grants = [Grant::directory_of(stub.bound.file.path(), Access::Remove)];
    let thread = sandbox::spawn_within(&PROFILE, "gdb", &grants, move || stub.run())?;
    Ok(Server { desk, end, thread })
}

impl Server {
    /// Where control and this stub meet.
    pub fn desk(&self) -> Arc<DebugDesk> {
        self.desk.clone()
    }

    /// Ends the session under way and unlinks the socket, at the end of the process.
    pub fn stop(self) {
        // Its counter is far from full.
        let _ = self.end.write(1);
        // A panic was reported by the panic hook.
        let _ = self.thread.join();
    }
}

struct Stub {
    bound: Bound,
    desk: Arc<DebugDesk>,
    end: Arc<EventFd>,
}

impl Stub {
    fn run(self) {
        if let Err(error) = self.serve() {
            tracing::error!("No debugger can connect any more: {error}");
        }
    }

    fn serve(&self) -> io::Result<()> {
        let (listener, end) = (self.bound.listener.as_raw_fd(), self.end.as_raw_fd());
        let coming = Waiting::new(&[listener, end])?;
        while !coming.ready(true)?.contains(&end) {
            match self.bound.listener.accept() {
                Ok((stream, _)) => self.talk(stream),
                // The client is gone already.
                Err(e)
                    if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn talk(&self, stream: UnixStream) {
        tracing::info!("A debugger has connected");
        let begun = Wire::new(stream, self.end.clone()).and_then(|wire| {
            let session = Session::begin(self.desk.clone(), &wire, self.end.clone())?;
            Ok(session.map(|session| (session, wire)))
        });
        let (mut session, wire) = match begun {
            Ok(Some(begun)) => begun,
            Ok(None) => return,
            Err(error) => return tracing::error!("The debugger cannot be served: {error}"),
        };
        // A client that sees its connection end finds the guest as it is to be then.
        let open = wire.keep_open();
        match GdbStub::new(wire).run_blocking::<Loop>(&mut session) {
            Ok(reason) => tracing::info!("The debugger has left: {reason:?}"),
            Err(error) => tracing::warn!("The debugger is gone: {error}"),
        }
        if let Err(error) = session.end() {
            tracing::warn!("The debugger's breakpoints may be left in the guest: {error}");
        }
        drop(open);
    }
}

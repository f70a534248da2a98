//! Sockets between guest and host (Virtio 1.2 §5.10; `spec/devices.md` §7, §12 and §15 "virtio-vsock"): a guest's streams become UNIX
//! sockets of the host's.
//!
//! ```text
//!  a client on the host ──▶ SOCKET ─ "CONNECT 52\n" ─▶ port 52 of the guest      it gets "OK PORT\n", then the stream begins
//!  a program of the guest's ─▶ port 80 of the host ─▶ SOCKET_80, where a program of the host's listens
//! ```
//! One thread, named by the device id, serves the three queues and all streams ([`muxer`]). No stream can hold up another: sockets never
//! block, what a slow program of the host's does not take is kept up to the buffer that the guest knows of, and what a slow guest does
//! not take stays in the host's socket. A pause leaves all streams as they are. A restored device has none: RSTs and an event tell.
//!
//! rust-vmm's `virtio-vsock` was weighed for the packets: it takes the guest's bytes from one buffer behind the header, where
//! newer drivers use several; refuses buffers that cross from one memory region into the next; and keeps the header's
//! fields behind a chain in RAM. What is left, the header's layout, is a page.

mod backlog;
mod connection;
mod credit;
mod dials;
mod front;
mod handshake;
mod listener;
mod muxer;
mod packet;
mod span;
mod state;
mod table;
mod worker;

use std::io;
use std::time::Duration;

use config::plan;
use pci::{BarKind, BuildContext, Built};
use sandbox::call::{Call, any, equal};
use sandbox::{Profile, groups};
use thiserror::Error;
use virtio::built;

pub use front::Front;
pub use listener::{BindCause, BindError};
pub use state::State;
pub use table::Ports;

use listener::Socket;

/// How long a guest may take to answer a request, and how long one that ends a connection waits for the host to take the rest. The host
/// may take longer: the rest is kept for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Digits of the largest port.
const MAX_DIGITS: usize = 10;

/// Taking clients in, and connecting to programs of the host's.
const STREAMS: &[Call] = &[
    any(libc::SYS_accept4),
    any(libc::SYS_connect),
    any(libc::SYS_recvfrom),
    any(libc::SYS_sendto),
    any(libc::SYS_shutdown),
    equal(libc::SYS_socket, 0, libc::AF_UNIX),
    any(libc::SYS_timerfd_settime),
];

/// Its thread.
static PROFILE: Profile = Profile::new("vsock", &[groups::EPOLL, STREAMS]);

/// Its threads' profiles. What building it asks of the control thread is among that one's own.
pub static PROFILES: &[&Profile] = &[&PROFILE];

/// Why a vsock device cannot be built.
#[derive(Debug, Error)]
pub enum Error {
    /// Its socket.
    #[error("Cannot create virtio-vsock backend")]
    Socket(#[from] BindError),
    /// Its thread.
    #[error("Cannot start the thread of vsock device '{id}'")]
    Thread {
        /// The device id.
        id: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// Binds the socket, builds the device and parks its thread.
///
/// # Errors
/// [`Error::Socket`] says what is in the way of the socket, [`Error::Thread`] that there is no thread or descriptor left.
pub fn build(vsock: &plan::Vsock, context: &BuildContext<'_>) -> Result<Built, Error> {
    let id = context.id;
    let digits = listener::digits(&vsock.socket);
    if digits < MAX_DIGITS {
        tracing::warn!(
            "{id}: the path of the vsock socket is so long that the guest reaches ports of at most {digits} digits: use a shorter one"
        );
    }
    let front = Front::new(id, vsock, Socket::bind(&vsock.socket)?, PATIENCE);
    let front = front.map_err(|source| Error::Thread { id: id.into(), source })?;
    Ok(built(front, BarKind::Memory64, context))
}

#[cfg(test)]
mod tests;

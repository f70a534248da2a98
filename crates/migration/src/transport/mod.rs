//! What carries a migration: UNIX sockets, TCP, TLS over TCP.

mod tcp;
mod tls;
mod unix;

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use config::MigrationUrl;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use thiserror::Error;

use crate::connection::TICK;
use crate::endpoint::{Accept, Dial};

/// How long a connection and its handshake may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Why a migration has no way to go.
#[derive(Debug, Error)]
pub enum TransportError {
    /// The name of the other host.
    #[error("Cannot find the host '{host}': check its name, or use its address")]
    Resolve {
        /// The name.
        host: String,
        /// The resolver's reason.
        #[source]
        source: io::Error,
    },
    /// The address to listen at.
    #[error("Cannot listen at {at} for the migration: see whether the address is this host's and free")]
    Listen {
        /// Address or path.
        at: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// What lies at the socket's path.
    #[error("Cannot listen at {}", .path.display())]
    InTheWay {
        /// The path.
        path: PathBuf,
        /// What it is.
        #[source]
        source: host::unix_socket::InTheWay,
    },
    /// A file of `tls_dir`.
    #[error("Cannot use '{}' of tls_dir: it has to be PEM, and readable", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The certificates in `tls_dir` do not fit each other.
    #[error("Cannot use the certificates of tls_dir")]
    Tls(#[from] rustls::Error),
    /// The certificates that the other side's must be signed by.
    #[error("Cannot use ca-cert.pem of tls_dir")]
    Roots(#[from] rustls::server::VerifierBuilderError),
    /// What certificates cannot be made out to.
    #[error("'{0}' is no name that a certificate could have: use the other host's name or address")]
    ServerName(String),
}

/// The way to a destination. Names are looked up here and now, so that later connections of the same migration go to the same host.
///
/// # Errors
/// [`TransportError`].
pub fn dial(url: &MigrationUrl, tls_dir: Option<&Path>) -> Result<Arc<dyn Dial>, TransportError> {
    Ok(match url {
        MigrationUrl::Unix(path) => Arc::new(unix::Dialler::new(path)),
        MigrationUrl::Tcp(host, port) => {
            let tls = tls_dir.map(|dir| tls::Client::new(dir, host)).transpose()?;
            Arc::new(tcp::Dialler::new(host, *port, tls)?)
        }
    })
}

/// The place where a source comes to.
///
/// # Errors
/// [`TransportError`].
pub fn listen(url: &MigrationUrl, tls_dir: Option<&Path>) -> Result<Box<dyn Accept>, TransportError> {
    Ok(match url {
        MigrationUrl::Unix(path) => Box::new(unix::Listener::bind(path)?),
        MigrationUrl::Tcp(host, port) => {
            let tls = tls_dir.map(tls::Server::new).transpose()?;
            Box::new(tcp::Listener::bind(host, *port, tls)?)
        }
    })
}

/// Whether somebody came within a tick.
fn somebody_came(listener: impl AsFd) -> io::Result<bool> {
    let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
    let mut wait = [PollFd::new(&listener, PollFlags::IN)];
    match poll(&mut wait, Some(&tick)) {
        Ok(ready) => Ok(ready != 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whoever came may have gone again before it was accepted.
fn unless_gone<T>(accepted: io::Result<T>) -> io::Result<Option<T>> {
    match accepted {
        Ok(accepted) => Ok(Some(accepted)),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {
                Ok(None)
            }
            _ => Err(error),
        },
    }
}

/// Makes a thread that waits for `socket` look up every now and then.
fn wake_every_tick(socket: impl AsFd) -> io::Result<()> {
    for wait in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(&socket, wait, Some(TICK))?;
    }
    Ok(())
}

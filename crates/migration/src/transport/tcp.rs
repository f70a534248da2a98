//! TCP: between hosts. A host that vanishes is noticed by keepalive, or because it acknowledges nothing.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::net::sockopt;

use super::tls;
use super::{CONNECT_LIMIT, TransportError, somebody_came, unless_gone, wake_every_tick};
use crate::connection::{Connection, Link, Watch};
use crate::endpoint::{Accept, Dial};

/// Silence after which the other host is asked whether it is there, and the time between questions.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(15));
/// How long sent bytes may stay unacknowledged, in ms.
const USER_TIMEOUT_MS: u32 = 120_000;

pub(super) struct Dialler {
    addresses: Vec<SocketAddr>,
    tls: Option<tls::Client>,
}

impl Dialler {
    pub(super) fn new(host: &str, port: u16, tls: Option<tls::Client>) -> Result<Self, TransportError> {
        Ok(Self { addresses: resolve(host, port)?, tls })
    }
}

impl Dial for Dialler {
    /// The first address that answers. If none does, it is the last one's error.
    fn dial(&self, watch: &Watch) -> io::Result<Connection> {
        let mut failed = io::Error::from(ErrorKind::AddrNotAvailable);
        for address in &self.addresses {
            match TcpStream::connect_timeout(address, CONNECT_LIMIT) {
                Ok(stream) => {
                    let witness = witness(stream.local_addr()?, stream.peer_addr()?);
                    set_options(&stream)?;
                    return match &self.tls {
                        Some(tls) => tls.connect(stream, watch),
                        None => Ok(connection(stream, witness, watch)),
                    };
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

pub(super) struct Listener {
    listener: TcpListener,
    tls: Option<tls::Server>,
}

impl Listener {
    pub(super) fn bind(host: &str, port: u16, tls: Option<tls::Server>) -> Result<Self, TransportError> {
        let addresses = resolve(host, port)?;
        let bind = || {
            let listener = TcpListener::bind(&addresses[..])?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener =
            bind().map_err(|source| TransportError::Listen { at: format!("{host}:{port}"), source })?;
        Ok(Self { listener, tls })
    }

    #[cfg(test)]
    pub(super) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }
}

impl Accept for Listener {
    fn accept(&mut self, watch: &Watch) -> io::Result<Option<Connection>> {
        if !somebody_came(&self.listener)? {
            return Ok(None);
        }
        let Some((stream, peer)) = unless_gone(self.listener.accept())? else { return Ok(None) };
        stream.set_nonblocking(false)?;
        let witness = witness(peer, stream.local_addr()?);
        set_options(&stream)?;
        match &self.tls {
            Some(tls) => tls.accept(stream, watch).map(Some),
            None => Ok(Some(connection(stream, witness, watch))),
        }
    }
}

fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, TransportError> {
    let found = (host, port).to_socket_addrs();
    found.map(Iterator::collect).map_err(|source| TransportError::Resolve { host: host.to_owned(), source })
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    wake_every_tick(stream)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE.0)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE.1)?;
    Ok(sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT_MS)?)
}

/// Source's and destination's address, in one number (FNV-1a). A relay has an address of its own on either side, so that the two ends of a
/// relayed connection see other pairs. So they do behind address translation, which only makes the source more careful.
fn witness(source: SocketAddr, destination: SocketAddr) -> u32 {
    let text = [source, destination].map(|address| {
        let ip = address.ip().to_canonical();
        format!("{ip} {};", address.port())
    });
    let hash = text
        .concat()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.max(1)
}

struct TcpLink {
    stream: TcpStream,
    witness: u32,
}

fn connection(stream: TcpStream, witness: u32, watch: &Watch) -> Connection {
    Connection::new(Box::new(TcpLink { stream, witness }), watch.clone())
}

impl Read for TcpLink {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.read(bytes)
    }
}

impl Write for TcpLink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
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
        self.witness
    }
}

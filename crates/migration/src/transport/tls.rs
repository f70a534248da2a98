//! TLS 1.3 over TCP, in which both sides show certificates (`spec/lifecycle.md` §7, `tls_dir`).
//!
//! | file | whose |
//! |---|---|
//! | `ca-cert.pem` | both sides': what signs the other's certificate |
//! | `server-cert.pem`, `server-key.pem` | the receiver's |
//! | `client-cert.pem`, `client-key.pem` | the sender's |
//!
//! The receiver's certificate must be made out to the host in the sender's URL.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::ops::{Deref, DerefMut};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConfig, ServerConnection,
    SideData, StreamOwned,
};

use super::{CONNECT_LIMIT, TransportError};
use crate::connection::{Connection, Link, LinkError, Watch};

pub(super) struct Client {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Client {
    pub(super) fn new(dir: &Path, host: &str) -> Result<Self, TransportError> {
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| TransportError::ServerName(host.to_owned()))?;
        let (chain, key) = identity(dir, "client")?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots(dir)?)
            .with_client_auth_cert(chain, key)?;
        Ok(Self { config: Arc::new(config), name })
    }

    pub(super) fn connect(&self, stream: TcpStream, watch: &Watch) -> io::Result<Connection> {
        let session =
            ClientConnection::new(Arc::clone(&self.config), self.name.clone()).map_err(io::Error::other)?;
        shake_hands(session, stream, watch)
    }
}

pub(super) struct Server(Arc<ServerConfig>);

impl Server {
    pub(super) fn new(dir: &Path) -> Result<Self, TransportError> {
        let (chain, key) = identity(dir, "server")?;
        let clients = WebPkiClientVerifier::builder_with_provider(roots(dir)?, provider()).build()?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)?;
        Ok(Self(Arc::new(config)))
    }

    pub(super) fn accept(&self, stream: TcpStream, watch: &Watch) -> io::Result<Connection> {
        let session = ServerConnection::new(Arc::clone(&self.0)).map_err(io::Error::other)?;
        shake_hands(session, stream, watch)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(dir: &Path, whose: &str) -> Result<Identity, TransportError> {
    let path = dir.join(format!("{whose}-key.pem"));
    let key = PrivateKeyDer::from_pem_file(&path).map_err(|source| TransportError::Pem { path, source })?;
    Ok((certificates(dir, &format!("{whose}-cert.pem"))?, key))
}

fn certificates(dir: &Path, name: &str) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    let path = dir.join(name);
    let read = CertificateDer::pem_file_iter(&path).and_then(Iterator::collect);
    read.map_err(|source| TransportError::Pem { path, source })
}

fn roots(dir: &Path) -> Result<Arc<RootCertStore>, TransportError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(dir, "ca-cert.pem")? {
        roots.add(certificate)?;
    }
    Ok(Arc::new(roots))
}

struct TlsLink<S>(S);

fn shake_hands<C, D>(session: C, stream: TcpStream, watch: &Watch) -> io::Result<Connection>
where
    C: DerefMut + Deref<Target = ConnectionCommon<D>> + Send + 'static,
    D: SideData + 'static,
{
    let mut stream = StreamOwned::new(session, stream);
    let started = Instant::now();
    while stream.conn.is_handshaking() {
        match stream.conn.complete_io(&mut stream.sock) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        if watch.is_cancelled() {
            return Err(io::Error::other(LinkError::Cancelled));
        }
        if started.elapsed() >= CONNECT_LIMIT {
            return Err(io::Error::other(LinkError::Silent(CONNECT_LIMIT.as_secs())));
        }
    }
    Ok(Connection::new(Box::new(TlsLink(stream)), watch.clone()))
}

impl<S: Read> Read for TlsLink<S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }
}

impl<S: Write> Write for TlsLink<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<S: Read + Write + Send> Link for TlsLink<S> {
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Whoever can cut a connection that TLS protects can also say that nobody listens: that proves nothing here.
    fn witness(&self) -> u32 {
        0
    }
}

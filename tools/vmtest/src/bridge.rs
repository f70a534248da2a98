//! The REST socket on a TCP port, for clients that know no UNIX sockets or that run outside the lab.

use crate::outside;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// A port that clients reach at `127.0.0.1`, outside the lab too.
pub struct Bridge {
    listener: TcpListener,
    /// Bytes of replies.
    carried: Arc<AtomicU64>,
}

impl Bridge {
    /// Takes a port: the one that leads into the lab if this is one.
    ///
    /// # Panics
    /// It is taken.
    pub fn open() -> Self {
        let place = match outside::port_of_the_lab() {
            Some(port) => (Ipv4Addr::UNSPECIFIED, port),
            None => (Ipv4Addr::LOCALHOST, 0),
        };
        let listener = TcpListener::bind(place).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { listener, carried: Arc::default() }
    }

    /// Its port.
    ///
    /// # Panics
    /// The kernel does not say.
    pub fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// The next client that waits, if one does.
    pub fn next(&self) -> Option<TcpStream> {
        self.listener.accept().ok().map(|(client, _)| client)
    }

    /// How many bytes of replies went over it: a measure of what its clients do.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    /// Carries bytes between a client and the socket at `path` until both have said all they had to say.
    pub fn carry(&self, client: TcpStream, path: &Path) {
        self.carry_and(client, path, || ());
    }

    /// As [`Bridge::carry`]; `then` is called once the reply has begun.
    pub fn carry_and(&self, client: TcpStream, path: &Path, then: impl FnOnce() + Send + 'static) {
        let server = UnixStream::connect(path);
        let carried = Arc::clone(&self.carried);
        thread::spawn(move || both_ways(&client, &server?, &carried, then));
    }

    /// Carries every client to the socket at `path` for as long as the test runs.
    ///
    /// # Panics
    /// The port cannot be waited on.
    pub fn serve(self, path: PathBuf) {
        self.listener.set_nonblocking(false).unwrap();
        thread::spawn(move || {
            while let Some(client) = self.next() {
                self.carry(client, &path);
            }
        });
    }
}

fn both_ways(
    client: &TcpStream,
    server: &UnixStream,
    carried: &AtomicU64,
    then: impl FnOnce(),
) -> io::Result<()> {
    client.set_nonblocking(false)?;
    // Requests are small, and each waits for its reply.
    client.set_nodelay(true)?;
    thread::scope(|scope| {
        scope.spawn(|| {
            let carried = io::copy(&mut &*client, &mut &*server);
            server.shutdown(Shutdown::Write).and(carried)
        });
        let counted = &mut Counted { to: client, carried };
        let begun = carry_first(counted, server);
        then();
        let carried = begun.and_then(|()| io::copy(&mut &*server, counted));
        client.shutdown(Shutdown::Both).and(carried).map(drop)
    })
}

/// The reply's first bytes, or its absence.
fn carry_first(client: &mut impl Write, mut server: &UnixStream) -> io::Result<()> {
    let mut first = [0; 4096];
    let read = server.read(&mut first)?;
    client.write_all(&first[..read])
}

/// Counts what is written to a client.
struct Counted<'a> {
    to: &'a TcpStream,
    carried: &'a AtomicU64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.carried.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

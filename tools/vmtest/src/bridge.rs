//! The REST socket on a TCP port of the loopback interface, for clients that know no UNIX sockets.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

/// A free port.
pub struct Bridge(TcpListener);

impl Bridge {
    /// Takes a port.
    ///
    /// # Panics
    /// There is none.
    pub fn open() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    /// Where it is.
    ///
    /// # Panics
    /// The kernel does not say.
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The next client that waits, if one does.
    pub fn next(&self) -> Option<TcpStream> {
        self.0.accept().ok().map(|(client, _)| client)
    }
}

/// Carries bytes between a client and the socket at `path` until both have said all they had to say.
pub fn carry(client: TcpStream, path: &Path) {
    carry_and(client, path, || ());
}

/// As [`carry`]; `then` is called once the reply has begun.
pub fn carry_and(client: TcpStream, path: &Path, then: impl FnOnce() + Send + 'static) {
    let server = UnixStream::connect(path);
    thread::spawn(move || both_ways(&client, &server?, then));
}

fn both_ways(client: &TcpStream, server: &UnixStream, then: impl FnOnce()) -> io::Result<()> {
    client.set_nonblocking(false)?;
    // Requests are small, and each waits for its reply.
    client.set_nodelay(true)?;
    thread::scope(|scope| {
        scope.spawn(|| {
            let carried = io::copy(&mut &*client, &mut &*server);
            server.shutdown(Shutdown::Write).and(carried)
        });
        let begun = carry_first(client, server);
        then();
        let carried = begun.and_then(|()| io::copy(&mut &*server, &mut &*client));
        client.shutdown(Shutdown::Both).and(carried).map(drop)
    })
}

/// The reply's first bytes, or its absence.
fn carry_first(mut client: &TcpStream, mut server: &UnixStream) -> io::Result<()> {
    let mut first = [0; 4096];
    let read = server.read(&mut first)?;
    client.write_all(&first[..read])
}

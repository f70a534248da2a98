//! The REST socket on a TCP port of the loopback interface, for clients that know no UNIX sockets.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;

/// Listens on a free port and carries bytes between its clients and the socket at `path`, as long as the process lives.
///
/// # Panics
/// There is no port.
pub fn open(path: &Path) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let path = path.to_owned();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let path = path.clone();
            thread::spawn(move || carry(client, path));
        }
    });
    address
}

/// Returns when both sides have said all they had to say.
fn carry(client: TcpStream, path: PathBuf) -> io::Result<()> {
    // Requests are small, and each waits for its reply.
    client.set_nodelay(true)?;
    let server = UnixStream::connect(path)?;
    let (mut requests, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let carried = io::copy(&mut requests, &mut to_server);
        to_server.shutdown(Shutdown::Write).and(carried)
    });
    io::copy(&mut &server, &mut &client)?;
    client.shutdown(Shutdown::Write)
}

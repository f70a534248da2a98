//! How a client on the host says what it wants: `CONNECT PORT\n`, before anything else.

use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// Bytes of a command at most, with its end.
const COMMAND_LIMIT: usize = 32;
const VERB: &[u8] = b"connect ";

/// A client that has not said what it wants yet.
pub(super) struct Handshake {
    pub(super) stream: UnixStream,
    command: [u8; COMMAND_LIMIT],
    len: usize,
}

/// How far a handshake has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// There is more to come.
    Waiting,
    /// The client wants this port of the guest's.
    Port(u32),
    /// It wants something that nobody knows, or is gone.
    Refused,
}

impl Handshake {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, command: [0; COMMAND_LIMIT], len: 0 }
    }

    /// Reads what there is of the command and nothing behind its end: that is for the guest.
    pub(super) fn read(&mut self) -> Progress {
        loop {
            let room = self.command.get_mut(self.len..).unwrap_or_default();
            let seen = match recv(&self.stream, &mut *room, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
                // No room is left, or the client is gone.
                Ok((0, _)) => return Progress::Refused,
                Ok((count, _)) => room.get_mut(..count).unwrap_or_default(),
                Err(Errno::AGAIN) => return Progress::Waiting,
                Err(Errno::INTR) => continue,
                Err(_) => return Progress::Refused,
            };
            let end = seen.iter().position(|byte| *byte == b'\n');
            let wanted = end.map_or(seen.len(), |end| end + 1);
            let taken = recv(&self.stream, seen.get_mut(..wanted).unwrap_or_default(), RecvFlags::DONTWAIT);
            if !matches!(taken, Ok((count, _)) if count == wanted) {
                // It was all there a moment ago, and nobody else reads here.
                return Progress::Refused;
            }
            self.len += wanted;
            if end.is_some() {
                let command = self.command.get(..self.len).unwrap_or_default();
                return port(command).map_or(Progress::Refused, Progress::Port);
            }
        }
    }
}

/// The port that a command names.
fn port(command: &[u8]) -> Option<u32> {
    let (verb, number) = command.split_at_checked(VERB.len())?;
    let number = number.trim_ascii();
    let is_number = number.iter().all(u8::is_ascii_digit);
    if !verb.eq_ignore_ascii_case(VERB) || !is_number {
        return None;
    }
    std::str::from_utf8(number).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn commands() {
        for (command, wanted) in [
            (&b"CONNECT 52\n"[..], Progress::Port(52)),
            (b"connect 0\n", Progress::Port(0)),
            (b"Connect \t 4294967295  \r\n", Progress::Port(u32::MAX)),
            (b"CONNECT 00000000000000000000052\n", Progress::Port(52)),
            (b"CONNECT 4294967296\n", Progress::Refused),
            (b"CONNECT +1\n", Progress::Refused),
            (b"CONNECT 5 2\n", Progress::Refused),
            (b"CONNECT \n", Progress::Refused),
            (b"CONNECT\n", Progress::Refused),
            (b"CONNECT52\n", Progress::Refused),
            (b"GET / HTTP/1.1\r\n", Progress::Refused),
            (b"\n", Progress::Refused),
            (b"CONNECT 000000000000000000000052\n", Progress::Refused),
            (b"\xff\xffNNECT 52\n", Progress::Refused),
        ] {
            let (mut client, ours) = UnixStream::pair().unwrap();
            client.write_all(command).unwrap();
            let mut handshake = Handshake::new(ours);
            assert_eq!(handshake.read(), wanted, "{:?}", String::from_utf8_lossy(command));
        }
    }

    #[test]
    fn nothing_behind_the_command_is_taken() {
        let (mut client, ours) = UnixStream::pair().unwrap();
        let mut handshake = Handshake::new(ours);
        assert_eq!(handshake.read(), Progress::Waiting);
        for byte in b"CONNECT 1024" {
            client.write_all(&[*byte]).unwrap();
            assert_eq!(handshake.read(), Progress::Waiting);
        }
        client.write_all(b"\nhello\n").unwrap();
        assert_eq!(handshake.read(), Progress::Port(1024));
        drop(client);
        let mut rest = String::new();
        handshake.stream.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "hello\n");
    }

    #[test]
    fn a_client_that_leaves_is_refused() {
        let (mut client, ours) = UnixStream::pair().unwrap();
        let mut handshake = Handshake::new(ours);
        client.write_all(b"CONN").unwrap();
        drop(client);
        assert_eq!(handshake.read(), Progress::Refused);
    }
}

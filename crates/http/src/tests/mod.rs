//! The door as a client sees it: bytes over a real UNIX socket, with a fake control loop behind.

mod calls;
mod descriptors;
mod events;
mod limits;
mod metrics;
mod pages;
mod socket;
mod strict_client;
mod transport;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use api::testing::FakeLoop;
pub(crate) use api::testing::{fake_api, succeed};
use api::{Command, EventLog};

use crate::server::{Limits, Server, serve_within};
use crate::{Listen, bind};

pub(crate) const PING: &str = "GET /api/v1/vmm.ping HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A server, what is behind it, and where it listens.
pub(crate) struct House {
    pub(crate) server: Option<Server>,
    pub(crate) path: PathBuf,
    /// What has happened, as far as clients may know.
    pub(crate) events: Arc<EventLog>,
    fake: Option<FakeLoop>,
    _dir: tempfile::TempDir,
}

impl House {
    /// Commands succeed.
    pub(crate) fn new() -> Self {
        Self::within(Limits::default())
    }

    pub(crate) fn within(limits: Limits) -> Self {
        Self::with(limits, succeed)
    }

    pub(crate) fn with(limits: Limits, answer: impl FnMut(Command) + Send + 'static) -> Self {
        let (client, inbox) = fake_api();
        let events = client.reads().events().clone();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let bound = bind(Listen::Path(path.clone())).unwrap();
        let server = Some(serve_within(bound, client, limits).unwrap());
        Self { server, path, events, fake: Some(FakeLoop::new(inbox, answer)), _dir: dir }
    }

    pub(crate) fn connect(&self) -> Peer {
        Peer::new(UnixStream::connect(&self.path).unwrap())
    }

    /// One request on a connection of its own.
    pub(crate) fn ask(&self, request: &str) -> Reply {
        self.connect().ask(request)
    }

    /// The control loop goes away, and every command it still has.
    pub(crate) fn end_loop(&mut self) {
        self.fake = None;
    }
}

/// A request with a body.
pub(crate) fn put(name: &str, body: &str) -> String {
    format!("PUT /api/v1/{name} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A client.
pub(crate) struct Peer {
    pub(crate) socket: UnixStream,
    unread: Vec<u8>,
}

/// What a client got.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    /// A header's value; names are compared as they stand, as clients in the field do.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

impl Peer {
    pub(crate) fn new(socket: UnixStream) -> Self {
        Self { socket, unread: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).unwrap();
    }

    pub(crate) fn ask(&mut self, request: &str) -> Reply {
        self.send(request);
        self.reply()
    }

    /// As [`Peer::ask`], of a server that may turn its clients away without a word.
    pub(crate) fn try_ask(&mut self, request: &str) -> Option<Reply> {
        // Sent in vain if the server has gone already; what it said before can still be read.
        let _ = self.socket.write_all(request.as_bytes());
        let is_there = !self.unread.is_empty() || self.read_more();
        is_there.then(|| self.reply())
    }

    /// The next reply to a request other than HEAD.
    pub(crate) fn reply(&mut self) -> Reply {
        let mut reply = self.head();
        let length: usize = reply.header("Content-Length").map_or(0, |length| length.parse().unwrap());
        while self.unread.len() < length {
            assert!(self.read_more(), "the body ends early");
        }
        reply.body = String::from_utf8(self.unread.drain(..length).collect()).unwrap();
        reply
    }

    /// The next reply's head alone.
    pub(crate) fn head(&mut self) -> Reply {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.read_more(), "no reply, only {:?}", String::from_utf8_lossy(&self.unread));
        };
        let head = String::from_utf8(self.unread.drain(..end).collect()).unwrap();
        assert!(head.len() < 1023);
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(head.lines().next(), Some(format!("HTTP/1.1 {status} ").as_str()));
        Reply { status, head, body: String::new() }
    }

    /// Whether the server has closed the connection and sent nothing more.
    pub(crate) fn is_over(&mut self) -> bool {
        self.unread.is_empty() && !self.read_more()
    }

    fn read_more(&mut self) -> bool {
        let mut bytes = [0; 65536];
        match self.socket.read(&mut bytes) {
            Ok(0) => false,
            Ok(read) => {
                self.unread.extend_from_slice(&bytes[..read]);
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}"),
        }
    }
}

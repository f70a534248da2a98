//! A small blocking client of the REST socket. Small on purpose: it must also send what a well-behaved client never
//! would, and show the very bytes of a reply.

use crate::wait::{self, Patient};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::Value;
use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// The most that one message can carry.
const DESCRIPTORS: usize = 253;

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Status line and headers, as sent.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Reply {
    /// The body as JSON.
    ///
    /// # Panics
    /// It is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// Insists on a status code.
    ///
    /// # Panics
    /// It is another.
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }
}

/// Client of one socket; one connection per request. Clones share the transcript.
#[derive(Debug, Clone)]
pub struct Client {
    path: PathBuf,
    transcript: Arc<Mutex<String>>,
    loud: bool,
}

impl Client {
    /// A client of the socket at `path`.
    pub fn new(path: PathBuf) -> Self {
        Self { path, transcript: Arc::default(), loud: false }
    }

    /// The same client, printing each request and reply.
    pub fn loud(self) -> Self {
        Self { loud: true, ..self }
    }

    /// Every request and reply so far.
    pub fn transcript(&self) -> String {
        self.transcript.lock().map(|text| text.clone()).unwrap_or_default()
    }

    /// GET, for example of `vm.info`.
    ///
    /// # Panics
    /// No reply comes.
    pub fn get(&self, action: &str) -> Reply {
        self.request("GET", action, None).unwrap_or_else(|e| panic!("GET {action}: {e}"))
    }

    /// PUT without a body.
    ///
    /// # Panics
    /// No reply comes.
    pub fn put(&self, action: &str) -> Reply {
        self.request("PUT", action, None).unwrap_or_else(|e| panic!("PUT {action}: {e}"))
    }

    /// PUT with a body.
    ///
    /// # Panics
    /// No reply comes.
    pub fn put_json(&self, action: &str, body: &Value) -> Reply {
        self.request("PUT", action, Some(body)).unwrap_or_else(|e| panic!("PUT {action}: {e}"))
    }

    /// PUT with a body and descriptors, all in one message.
    ///
    /// # Panics
    /// No reply comes.
    pub fn put_with(&self, action: &str, body: &Value, descriptors: &[BorrowedFd<'_>]) -> Reply {
        let request = request_text("PUT", action, Some(body));
        let reply = self.exchange_with(request.as_bytes(), descriptors);
        self.note("PUT", &format!("{action} with {} descriptors", descriptors.len()), Some(body), &reply);
        reply.unwrap_or_else(|e| panic!("PUT {action}: {e}"))
    }

    /// The guest's description.
    ///
    /// # Panics
    /// There is none.
    pub fn info(&self) -> Value {
        self.get("vm.info").expect(200).json()
    }

    /// `vm.info`'s state, if there is a VM.
    pub fn state(&self) -> Option<String> {
        self.silent_info()?["state"].as_str().map(str::to_owned)
    }

    /// The path of the pty of `serial` or `console`.
    pub fn pty(&self, section: &str) -> Option<PathBuf> {
        self.silent_info()?["config"][section]["file"].as_str().map(PathBuf::from)
    }

    /// Leaves no line in the transcript: for conditions that are asked often.
    fn silent_info(&self) -> Option<Value> {
        let reply = self.exchange(request_text("GET", "vm.info", None).as_bytes()).ok()?;
        serde_json::from_str(&reply.body).ok()
    }

    /// True once somebody answers.
    pub fn answers(&self) -> bool {
        self.exchange(request_text("GET", "vmm.ping", None).as_bytes()).is_ok_and(|reply| reply.status == 200)
    }

    /// One request and its reply.
    ///
    /// # Errors
    /// The socket does not take the request or closes without a reply.
    pub fn request(&self, method: &str, action: &str, body: Option<&Value>) -> io::Result<Reply> {
        let reply = self.exchange(request_text(method, action, body).as_bytes());
        self.note(method, action, body, &reply);
        reply
    }

    fn note(&self, method: &str, action: &str, body: Option<&Value>, reply: &io::Result<Reply>) {
        let shown = match reply {
            Ok(reply) => format!("{} {}", reply.status, reply.body),
            Err(e) => format!("no reply: {e}"),
        };
        let asked = body.map(Value::to_string).unwrap_or_default();
        let lines = format!("{method} {action} {asked}\n  -> {}\n", shown.trim_end());
        if self.loud {
            print!("{lines}");
        }
        if let Ok(mut transcript) = self.transcript.lock() {
            transcript.push_str(&lines);
        }
    }

    /// Sends these bytes on a new connection and reads one reply.
    ///
    /// # Errors
    /// The socket does not take them or closes without a reply.
    pub fn exchange(&self, request: &[u8]) -> io::Result<Reply> {
        self.exchange_with(request, &[])
    }

    fn exchange_with(&self, request: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<Reply> {
        let stream = UnixStream::connect(&self.path)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)), "too many descriptors");
        }
        let sent = sendmsg(&stream, &[IoSlice::new(request)], &mut control, SendFlags::NOSIGNAL)?;
        (&stream).write_all(&request[sent..])?;
        read_reply(&mut BufReader::new(Patient::new(stream, wait::BOOT)))
    }
}

/// A request as `curl` would send it.
pub fn request_text(method: &str, action: &str, body: Option<&Value>) -> String {
    let head = format!("{method} /api/v1/{action} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n");
    match body.map(Value::to_string) {
        Some(body) => {
            format!("{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        }
        None => head + "\r\n",
    }
}

/// Reads one reply, body and all.
///
/// # Errors
/// The connection ends or the reply is malformed.
pub fn read_reply(stream: &mut impl BufRead) -> io::Result<Reply> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("the reply ended in {head:?}")));
        }
    }
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, head.clone());
    let status = head.split(' ').nth(1).and_then(|code| code.trim().parse().ok()).ok_or_else(malformed)?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let length = length.map_or(Ok(0), |text| text.trim().parse::<usize>()).map_err(|_| malformed())?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Reply { status, head, body: String::from_utf8_lossy(&body).into_owned() })
}

//! The REST API's client: one request per connection to a UNIX socket (`spec/cli.md` §2, wire format).
//!
//! Descriptors travel with the request's first byte (SCM_RIGHTS), so that the server has them before it looks at the body.

use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use api::{Method, Verb};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};

use crate::events::{self, EventsError};
use crate::payload::Payload;
use crate::remote::{Each, Remote, RemoteError};

/// Bytes of status line and headers together.
const HEAD_LIMIT: u64 = 64 << 10;
/// Bytes of a reply's body: far above the `vm.info` of the largest VM.
const BODY_LIMIT: u64 = 64 << 20;
/// Descriptors of one message; the kernel's own limit.
const FD_LIMIT: usize = 253;

/// A VMM behind a UNIX socket.
pub(crate) struct Rest {
    path: PathBuf,
    deadline: Option<Instant>,
}

impl Rest {
    /// The VMM that listens at `path`. No call waits for it beyond `deadline`; without one, calls last as long as the VMM needs: a
    /// migration may take hours.
    pub(crate) fn new(path: PathBuf, deadline: Option<Instant>) -> Self {
        Self { path, deadline }
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let Some(deadline) = self.deadline else { return UnixStream::connect(&self.path) };
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let stream = UnixStream::from(socket);
        // Zero would mean no limit.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left))?;
        // That of connecting, too: the queue of a VMM that is stopped may be full.
        stream.set_write_timeout(Some(left))?;
        rustix::net::connect(&stream, &SocketAddrUnix::new(&self.path)?)?;
        Ok(stream)
    }

    /// The stream of events (`GET /api/v1/events`).
    fn stream(&self, all: bool) -> Result<impl BufRead, RemoteError> {
        let stream =
            self.connect().map_err(|source| RemoteError::Connect { path: self.path.clone(), source })?;
        // A reply to HTTP/1.0 comes without chunks.
        let since = if all { "Last-Event-ID: 0\r\n" } else { "" };
        let request = format!("GET {}events HTTP/1.0\r\nHost: localhost\r\n{since}\r\n", api::ROOT);
        (&stream).write_all(request.as_bytes()).map_err(RemoteError::Send)?;
        let mut stream = BufReader::new(stream);
        match read_head(&mut stream)? {
            Head { status: 200, .. } => Ok(stream),
            Head { status, length } => {
                let body = read_body(&mut stream, length.unwrap_or_default())?;
                Err(RemoteError::Refused { status, body })
            }
        }
    }
}

impl Remote for Rest {
    fn events(&self, all: bool, each: &mut Each<'_>) -> Result<(), EventsError> {
        events::follow(self.stream(all)?, each)
    }

    fn call(&self, verb: &str, payload: &Payload) -> Result<Option<Vec<u8>>, RemoteError> {
        let stream =
            self.connect().map_err(|source| RemoteError::Connect { path: self.path.clone(), source })?;
        let sent = send(&stream, &request(verb, payload.body.as_deref()), payload);
        // A server that refuses a request closes before it has read all of it: its reply says more than the broken pipe.
        match (read_reply(BufReader::new(&stream)), sent) {
            (Ok((200 | 204, body)), _) => Ok(body),
            (Ok((status, body)), _) => Err(RemoteError::Refused { status, body: body.unwrap_or_default() }),
            (Err(_), Err(error)) => Err(RemoteError::Send(error)),
            (Err(error), Ok(())) => Err(error),
        }
    }
}

fn request(verb: &str, body: Option<&[u8]>) -> Vec<u8> {
    let method = Verb::find(verb).map_or(Method::Put, |verb| verb.method);
    let head = format!("{method} {}{verb} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n", api::ROOT);
    let mut bytes = head.into_bytes();
    if let Some(body) = body {
        bytes.extend(format!("Content-Length: {}\r\n", body.len()).bytes());
    }
    bytes.extend(b"\r\n");
    bytes.extend(body.unwrap_or_default());
    bytes
}

fn send(mut stream: &UnixStream, bytes: &[u8], payload: &Payload) -> io::Result<()> {
    let mut sent = 0;
    if !payload.fds.is_empty() {
        let fds: Vec<BorrowedFd<'_>> = payload.fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FD_LIMIT))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more than 253 descriptors"));
        }
        sent = rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    }
    stream.write_all(bytes.get(sent..).unwrap_or_default())
}

/// The first final reply: its status and body.
fn read_reply(mut from: impl BufRead) -> Result<(u16, Option<Vec<u8>>), RemoteError> {
    loop {
        let head = read_head(&mut from)?;
        if head.status == 100 {
            continue;
        }
        let body = match head.length {
            Some(length) if head.status != 204 => Some(read_body(&mut from, length)?),
            _ => None,
        };
        return Ok((head.status, body));
    }
}

struct Head {
    status: u16,
    length: Option<u64>,
}

fn read_head(from: &mut impl BufRead) -> Result<Head, RemoteError> {
    let mut from = from.take(HEAD_LIMIT);
    let status = status(&read_line(&mut from)?)?;
    let mut length = None;
    loop {
        let line = read_line(&mut from)?;
        if line.is_empty() {
            return Ok(Head { status, length });
        }
        let (name, value) = line.split_once(':').ok_or(RemoteError::Malformed("a header without a colon"))?;
        if name.eq_ignore_ascii_case("Content-Length") {
            let value =
                value.trim().parse().map_err(|_| RemoteError::Malformed("Content-Length is no number"))?;
            if length.is_some_and(|other| other != value) {
                return Err(RemoteError::Malformed("two different values of Content-Length"));
            }
            length = Some(value);
        } else if name.eq_ignore_ascii_case("Transfer-Encoding") {
            return Err(RemoteError::Malformed("an unexpected Transfer-Encoding"));
        }
    }
}

fn status(line: &str) -> Result<u16, RemoteError> {
    let mut words = line.split(' ');
    let http = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
    let status = words.next().and_then(|word| word.parse().ok()).filter(|status| (100..600).contains(status));
    status.filter(|_| http).ok_or(RemoteError::Malformed("no status line"))
}

fn read_line(from: &mut impl BufRead) -> Result<String, RemoteError> {
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line).map_err(RemoteError::Receive)?;
    if line.pop() != Some(b'\n') {
        return Err(RemoteError::Malformed("it ends within its headers"));
    }
    let line = String::from_utf8(line).map_err(|_| RemoteError::Malformed("its headers are no text"))?;
    Ok(line.trim_end_matches('\r').to_owned())
}

fn read_body(from: &mut impl BufRead, length: u64) -> Result<Vec<u8>, RemoteError> {
    if length > BODY_LIMIT {
        return Err(RemoteError::Malformed("its body is larger than 64 MiB"));
    }
    let mut body = Vec::new();
    let read = from.take(length).read_to_end(&mut body).map_err(RemoteError::Receive)?;
    if u64::try_from(read) != Ok(length) {
        return Err(RemoteError::Malformed("it ends within its body"));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str) -> Result<(u16, Option<Vec<u8>>), String> {
        read_reply(text.as_bytes()).map_err(|e| e.to_string())
    }

    #[test]
    fn replies_with_and_without_body() {
        let head = "HTTP/1.1 200 \r\nServer: x\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 500";
        assert_eq!(reply(head), Ok((200, Some(b"{}".to_vec()))));
        assert_eq!(reply("HTTP/1.1 204 No Content\r\n\r\n"), Ok((204, None)));
        assert_eq!(reply("HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"), Ok((200, Some(Vec::new()))));
        assert_eq!(reply("HTTP/1.1 100 \r\n\r\nHTTP/1.1 404 x\n\n"), Ok((404, None)));
    }

    #[test]
    fn a_full_queue_is_waited_for_no_longer_than_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stopped");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let _waiting = UnixStream::connect(&path).unwrap();
        let error = Rest::new(path, Some(Instant::now())).connect().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn hostile_replies_are_refused() {
        let long = format!("HTTP/1.1 200 \r\nX: {}", "a".repeat(1 << 17));
        for (text, why) in [
            ("", "ends within its headers"),
            ("HTTP/1.1 200", "ends within its headers"),
            ("HTTP/1.1 200 \r\nno colon\r\n\r\n", "without a colon"),
            ("SSH-2.0-x\r\n\r\n", "no status line"),
            ("HTTP/1.1 99999 \r\n\r\n", "no status line"),
            ("HTTP/1.1 200 \r\nContent-Length: -1\r\n\r\n", "no number"),
            ("HTTP/1.1 200 \r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "two different"),
            ("HTTP/1.1 200 \r\nContent-Length: 18446744073709551615\r\n\r\n", "larger than 64 MiB"),
            ("HTTP/1.1 200 \r\nContent-Length: 9\r\n\r\n{}", "ends within its body"),
            ("HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding"),
            (long.as_str(), "ends within its headers"),
        ] {
            let error = reply(text).unwrap_err();
            assert!(error.contains(why), "{text:.60}: {error}");
        }
    }
}

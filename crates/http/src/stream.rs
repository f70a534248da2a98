//! A client's socket under hyper, with what hyper leaves open: a time limit for a request's head alone, and replies of our own where
//! hyper refuses a request by itself.
//!
//! Descriptors (SCM_RIGHTS) belong to the request whose bytes they arrive with: they wait here until the exchange takes them.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::StatusCode;
use hyper::rt::ReadBufCursor;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tokio::io::{AsyncWrite, Interest};
use tokio::net::UnixStream;
use tokio::time::{Sleep, sleep};

/// Bytes read at once: more than any ordinary request.
const CHUNK: usize = 16 << 10;

/// How hyper asks for the rest of a request, and how it is written here: no status line has a reason phrase.
const HYPERS_CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
const CONTINUE: &[u8] = b"HTTP/1.1 100 \r\n\r\n";

/// How far the request under way is, told by the two who know: the stream and the exchange.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<AtomicU8>);

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const EXCHANGE: u8 = 2;
const REPLY: u8 = 3;

impl Progress {
    /// Bytes arrived: the first ones of a head, unless an exchange is under way.
    fn bytes_arrived(&self) {
        let _ = self.0.compare_exchange(IDLE, HEAD, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether a head has begun and not ended.
    fn in_head(&self) -> bool {
        self.0.load(Ordering::Relaxed) == HEAD
    }

    /// The head is complete.
    pub(crate) fn exchange_began(&self) {
        self.0.store(EXCHANGE, Ordering::Relaxed);
    }

    /// The reply is there, and is what will be written next.
    pub(crate) fn exchange_ended(&self) {
        self.0.store(REPLY, Ordering::Relaxed);
    }

    /// Whether the next write starts with a reply's head.
    fn at_reply(&self) -> bool {
        self.0.load(Ordering::Relaxed) == REPLY
    }

    /// Bytes were written: of a reply, or to ask for the rest of a request.
    fn bytes_written(&self) {
        let _ = self.0.compare_exchange(REPLY, IDLE, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Descriptors of the request under way. One more than a call may have tells that there were too many; the rest is closed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrived(Arc<Mutex<Vec<OwnedFd>>>);

impl Arrived {
    fn add(&self, descriptors: impl Iterator<Item = OwnedFd>) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = (api::MAX_DESCRIPTORS + 1).saturating_sub(waiting.len());
        waiting.extend(descriptors.take(room));
    }

    /// Hands them over, in the order in which they were sent.
    pub(crate) fn take(&self) -> Vec<OwnedFd> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Why hyper, or the time limit, ended a connection. The client is told so by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// hyper cannot read the request, and this is the status it found for that.
    Unreadable(StatusCode),
    /// The head took too long.
    Late,
}

/// The socket. hyper reads and writes it until it is done; then the connection says the last word.
pub(crate) struct Stream {
    pub(crate) socket: UnixStream,
    pub(crate) refusal: Option<Refusal>,
    progress: Progress,
    arrived: Arrived,
    head_time: Duration,
    head_timer: Option<Pin<Box<Sleep>>>,
    /// Bytes of [`CONTINUE`] that are written already, while it is under way.
    continued: usize,
}

impl Stream {
    pub(crate) fn new(socket: UnixStream, progress: Progress, arrived: Arrived, head_time: Duration) -> Self {
        Self { socket, refusal: None, progress, arrived, head_time, head_timer: None, continued: 0 }
    }

    /// Reads into `chunk`, and takes the descriptors that come with these bytes.
    fn poll_receive(&mut self, cx: &mut Context<'_>, chunk: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.poll_read_ready(cx))?;
            match self.socket.try_io(Interest::READABLE, || receive(&self.socket, chunk, &self.arrived)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return Poll::Ready(received),
            }
        }
    }

    /// Pending as long as more of a head may still come. An idle connection may stay for ever.
    fn poll_head_time(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.progress.in_head() {
            self.head_timer = None;
            return Poll::Pending;
        }
        let timer = self.head_timer.get_or_insert_with(|| Box::pin(sleep(self.head_time)));
        ready!(timer.as_mut().poll(cx));
        self.head_timer = None;
        self.refusal = Some(Refusal::Late);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Writes what hyper has to say, up to a `100 Continue` or that alone.
    fn poll_write_reply(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // No body has such a line in it: JSON has no raw line ends, and our documents no carriage returns.
        match bytes.windows(HYPERS_CONTINUE.len()).position(|window| window == HYPERS_CONTINUE) {
            Some(0) => self.poll_write_continue(cx),
            Some(before) => self.poll_write_plain(cx, bytes.get(..before).unwrap_or_default()),
            None => self.poll_write_plain(cx, bytes),
        }
    }

    /// Claims the length that hyper's line has once all of ours is written.
    fn poll_write_continue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        while let Some(rest) = CONTINUE.get(self.continued..).filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, rest))?;
            self.continued += written;
        }
        self.continued = 0;
        Poll::Ready(Ok(HYPERS_CONTINUE.len()))
    }

    /// Replies say HTTP/1.1, whatever the request said; hyper would repeat an HTTP/1.0.
    fn poll_write_plain(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let version_1_1 = match bytes.strip_prefix(b"HTTP/1.0 ") {
            Some(rest) if self.progress.at_reply() => Some([b"HTTP/1.1 ", rest].concat()),
            _ => None,
        };
        let bytes = version_1_1.as_deref().unwrap_or(bytes);
        let written = ready!(Pin::new(&mut self.socket).poll_write(cx, bytes))?;
        self.progress.bytes_written();
        Poll::Ready(Ok(written))
    }
}

fn receive(socket: &UnixStream, chunk: &mut [u8], arrived: &Arrived) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(api::MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(chunk)];
    let received = rustix::net::recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            arrived.add(descriptors);
        }
    }
    Ok(received.bytes)
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut chunk = [0; CHUNK];
        let room = buffer.remaining().min(CHUNK);
        match self.poll_receive(cx, chunk.get_mut(..room).unwrap_or_default()) {
            Poll::Ready(Ok(read)) => {
                if read > 0 {
                    self.progress.bytes_arrived();
                    buffer.put_slice(chunk.get(..read).unwrap_or_default());
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.poll_head_time(cx),
        }
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some((replies, status)) = split_refusal(bytes) else {
            return self.poll_write_reply(cx, bytes);
        };
        if !replies.is_empty() {
            let written = ready!(self.poll_write_reply(cx, replies))?;
            if written < replies.len() {
                return Poll::Ready(Ok(written));
            }
        }
        self.refusal = Some(Refusal::Unreadable(status));
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Does nothing: the connection may have a last word, and shuts the socket down after it.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Splits hyper's own refusal off the end of what it writes.
///
/// hyper writes it as a head without body, always last. It is told from our replies by the `Server` header, which all of ours have,
/// and from what our bodies may hold by its last header: JSON has no raw line ends in it, and chunks of events end otherwise.
fn split_refusal(bytes: &[u8]) -> Option<(&[u8], StatusCode)> {
    const START: &[u8] = b"HTTP/1.";
    if !bytes.ends_with(b"\r\nContent-Length: 0\r\n\r\n") {
        return None;
    }
    let start = bytes.windows(START.len()).rposition(|window| window == START)?;
    let (replies, head) = bytes.split_at_checked(start)?;
    let is_ours = head.windows(9).any(|window| window == b"\r\nServer:");
    let status = StatusCode::from_bytes(head.get(9..12)?).ok()?;
    (!is_ours && status.is_client_error()).then_some((replies, status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hypers_own_refusals_are_split_off() {
        const OURS: &[u8] = b"HTTP/1.1 404 \r\nServer: x\r\n\r\n";
        const HYPERS: &[u8] =
            b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        const CHUNKS: &[u8] = b"9a\r\ndata: {\"id\":\"HTTP/1.1 400 x\"}\n\n\r\n0\r\n\r\n";
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        assert_eq!(split_refusal(HYPERS), Some((&b""[..], status)));
        assert_eq!(split_refusal(&[OURS, HYPERS].concat()), Some((OURS, status)));
        for bytes in [OURS, b"", b"\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"[\"HTTP/1.1 400\"]", CHUNKS]
        {
            assert_eq!(split_refusal(bytes), None);
        }
    }
}

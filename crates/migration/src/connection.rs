//! One connection of a migration: whole messages, read and written with limits in time and size.
//!
//! Sockets wake their thread every [`TICK`], so that a wait can end because it was cancelled, because it took too long, or because the
//! other side has come back on another connection.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use thiserror::Error;

use crate::wire::{HEAD_LEN, REASON_LIMIT, Request, Response, Status};

/// How often a waiting thread looks whether it is to go on.
pub const TICK: Duration = Duration::from_millis(50);
/// Bytes written or read at once.
pub(crate) const CHUNK_LEN: usize = 256 << 10;
/// Bytes per second that any connection must manage.
const SLOWEST_RATE: u64 = 64 << 10;
/// Descriptors that one message may bring; what is more than one is refused.
const FD_ROOM: usize = 8;

/// Why a message did not come through.
#[derive(Debug, Error)]
pub enum LinkError {
    /// An end of stream between or within messages.
    #[error("The other side closed the connection: see its log")]
    Closed,
    /// The kernel's or TLS' reason.
    #[error("The connection broke")]
    Broken(#[source] io::Error),
    /// A limit in time.
    #[error("The other side was silent for {0} s: see whether it still runs")]
    Silent(u64),
    /// This side gave up.
    #[error("The migration was cancelled")]
    Cancelled,
    /// The other side has opened another connection to settle what happens.
    #[error("The other side has given this connection up for another one")]
    Superseded,
    /// The other side said no.
    #[error("The other side refused: {0}")]
    Refused(String),
    /// What came is no message of this protocol.
    #[error("The other side does not speak this protocol: {0}")]
    Nonsense(String),
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // TLS tells an end without a farewell apart; the stream is over either way.
            ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Broken(error),
        }
    }
}

/// Bytes both ways, in order. Reads and writes return with `WouldBlock` after a [`TICK`] at the latest.
pub trait Link: Read + Write + Send {
    /// The UNIX socket that descriptors can travel over, if it is one.
    fn socket(&self) -> Option<BorrowedFd<'_>>;

    /// A number that is the same at both ends if nobody relays between them; 0 if that cannot be known.
    fn witness(&self) -> u32;
}

/// What all connections of one migration have in common at this end.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    cancelled: Arc<AtomicBool>,
    superseded: Arc<AtomicBool>,
    moved: Arc<AtomicU64>,
}

impl Watch {
    /// A watch that `cancelled` ends.
    pub fn new(cancelled: Arc<AtomicBool>) -> Self {
        Self { cancelled, ..Self::default() }
    }

    /// A watch of its own for other connections of the same migration.
    pub(crate) fn beside(&self) -> Self {
        Self { moved: Arc::clone(&self.moved), ..Self::default() }
    }

    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    pub(crate) fn supersede(&self, yes: bool) {
        self.superseded.store(yes, Ordering::Release);
    }

    /// Bytes that came or went on any connection.
    pub(crate) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }
}

/// How long a wait may take.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// The whole message must be through after this time.
    Within(Duration),
    /// Some connection of the migration must have moved bytes in this time.
    Quiet(Duration),
}

impl Limit {
    /// For a message with `len` bytes.
    pub fn for_bytes(len: u64) -> Self {
        Self::Within(Duration::from_secs(30) + Duration::from_secs(len / SLOWEST_RATE))
    }
}

/// What may end a wait, besides time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heeds {
    Cancel,
    Nothing,
    /// And cancelling too.
    Successor,
}

struct Patience {
    watch: Watch,
    limit: Limit,
    heeds: Heeds,
    since: Instant,
    moved: u64,
}

impl Patience {
    fn check(&mut self) -> Result<(), LinkError> {
        if self.heeds != Heeds::Nothing && self.watch.is_cancelled() {
            return Err(LinkError::Cancelled);
        }
        if self.heeds == Heeds::Successor && self.watch.superseded.load(Ordering::Acquire) {
            return Err(LinkError::Superseded);
        }
        let limit = match self.limit {
            Limit::Within(limit) => limit,
            Limit::Quiet(limit) => {
                let moved = self.watch.moved();
                if moved != self.moved {
                    (self.moved, self.since) = (moved, Instant::now());
                }
                limit
            }
        };
        let waited = self.since.elapsed();
        if waited < limit { Ok(()) } else { Err(LinkError::Silent(waited.as_secs())) }
    }
}

/// One end of a connection.
pub struct Connection {
    link: Box<dyn Link>,
    watch: Watch,
    heeds: Heeds,
}

impl Connection {
    /// A connection over `link` whose waits end when `watch` is cancelled.
    pub fn new(link: Box<dyn Link>, watch: Watch) -> Self {
        Self { link, watch, heeds: Heeds::Cancel }
    }

    /// From now on it is too late to cancel.
    pub(crate) fn heed_nothing(&mut self) {
        self.heeds = Heeds::Nothing;
    }

    /// From now on waits end also when `watch` says that the other side has come back on another connection.
    pub(crate) fn heed_successor(&mut self, watch: Watch) {
        self.watch = watch;
        self.heeds = Heeds::Successor;
    }

    /// From now on `watch` is the one that can end waits.
    pub(crate) fn watch_with(&mut self, watch: Watch) {
        self.watch = watch;
    }

    pub(crate) fn witness(&self) -> u32 {
        self.link.witness()
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// [`LinkError`]; part of it may have been written.
    pub fn write(&mut self, bytes: &[u8], limit: Limit) -> Result<(), LinkError> {
        let mut patience = self.patience(limit);
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.link.write(rest) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(count) => {
                    self.watch.moved.fetch_add(count as u64, Ordering::Relaxed);
                    rest = rest.get(count..).unwrap_or_default();
                }
                Err(error) if is_tick(&error) => {}
                Err(error) => return Err(error.into()),
            }
            patience.check()?;
        }
        self.flush(limit)
    }

    /// TLS keeps what the socket did not take.
    fn flush(&mut self, limit: Limit) -> Result<(), LinkError> {
        let mut patience = self.patience(limit);
        loop {
            match self.link.flush() {
                Ok(()) => return Ok(()),
                Err(error) if is_tick(&error) => patience.check()?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Fills `bytes`.
    ///
    /// # Errors
    /// [`LinkError`]; part of it may have been read.
    pub fn read(&mut self, bytes: &mut [u8], limit: Limit) -> Result<(), LinkError> {
        let mut patience = self.patience(limit);
        let mut have = 0;
        while have < bytes.len() {
            match self.link.read(bytes.get_mut(have..).unwrap_or_default()) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(count) => {
                    self.watch.moved.fetch_add(count as u64, Ordering::Relaxed);
                    have += count;
                    if have == bytes.len() {
                        break;
                    }
                }
                Err(error) if is_tick(&error) => {}
                Err(error) => return Err(error.into()),
            }
            patience.check()?;
        }
        Ok(())
    }

    /// Reads `len` bytes, which must be no more than `most`. Memory is taken as they come.
    ///
    /// # Errors
    /// [`LinkError::Nonsense`] names `what` if it is too long.
    pub fn read_payload(&mut self, what: &str, len: u64, most: u64) -> Result<Vec<u8>, LinkError> {
        if len > most {
            return Err(LinkError::Nonsense(format!("{what} of {len} bytes is longer than {most} bytes")));
        }
        let limit = Limit::for_bytes(len);
        let mut bytes = Vec::new();
        let mut rest = usize::try_from(len).unwrap_or(usize::MAX);
        while rest != 0 {
            let part = rest.min(CHUNK_LEN);
            let have = bytes.len();
            bytes.resize(have + part, 0);
            self.read(bytes.get_mut(have..).unwrap_or_default(), limit)?;
            rest -= part;
        }
        Ok(bytes)
    }

    /// Writes the head of a request.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn ask(&mut self, request: Request) -> Result<(), LinkError> {
        self.write(&request.encode(), Limit::for_bytes(0))
    }

    /// Reads the head of the next request.
    ///
    /// # Errors
    /// [`LinkError::Nonsense`] if there is no such command.
    pub fn next_request(&mut self, limit: Limit) -> Result<Request, LinkError> {
        let mut head = [0; HEAD_LEN];
        self.read(&mut head, limit)?;
        Request::decode(head).map_err(|number| LinkError::Nonsense(format!("there is no command {number}")))
    }

    /// Writes the head of a response.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn respond(&mut self, response: Response) -> Result<(), LinkError> {
        self.write(&response.encode(), Limit::for_bytes(0))
    }

    /// Answers that it was refused; with the reason only if the other side is `ours` and reads it.
    pub(crate) fn refuse(&mut self, reason: &str, ours: bool) -> Result<(), LinkError> {
        let reason = if ours { reason.as_bytes() } else { &[] };
        let reason = reason.get(..usize::try_from(REASON_LIMIT).unwrap_or(0)).unwrap_or(reason);
        let head = Response::error(reason.len() as u64).encode();
        self.write(&[&head, reason].concat(), Limit::for_bytes(0))
    }

    /// Reads the answer to a request.
    ///
    /// # Errors
    /// [`LinkError::Refused`] with the other side's reason.
    pub fn answer(&mut self, limit: Limit) -> Result<Response, LinkError> {
        let mut head = [0; HEAD_LEN];
        self.read(&mut head, limit)?;
        let response = Response::decode(head)
            .map_err(|status| LinkError::Nonsense(format!("there is no status {status}")))?;
        match response.status {
            Status::Ok => Ok(response),
            Status::Error => {
                // A reason that does not arrive changes nothing.
                let reason = self.read_payload("a reason", response.length, REASON_LIMIT).unwrap_or_default();
                Err(LinkError::Refused(printable(&reason)))
            }
        }
    }

    /// Writes `bytes`, with `fd` beside the first of them.
    ///
    /// # Errors
    /// [`LinkError::Broken`] also if this is no UNIX socket.
    pub(crate) fn write_with_fd(&mut self, bytes: &[u8], fd: BorrowedFd<'_>) -> Result<(), LinkError> {
        let limit = Limit::for_bytes(0);
        let mut patience = self.patience(limit);
        let sent = loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = [fd];
            control.push(SendAncillaryMessage::ScmRights(&fds));
            let socket = self.link.socket().ok_or_else(no_unix_socket)?;
            match rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
                Ok(sent) => break sent,
                Err(error) if is_tick(&error.into()) => patience.check()?,
                Err(error) => return Err(LinkError::Broken(error.into())),
            }
        };
        self.write(bytes.get(sent..).unwrap_or_default(), limit)
    }

    /// Fills `bytes`, and takes the descriptor that comes with them.
    ///
    /// # Errors
    /// [`LinkError::Nonsense`] if none comes, or more than one.
    pub(crate) fn read_with_fd(&mut self, bytes: &mut [u8]) -> Result<OwnedFd, LinkError> {
        let limit = Limit::for_bytes(0);
        let mut patience = self.patience(limit);
        let mut fds: Vec<OwnedFd> = Vec::new();
        let read = loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FD_ROOM))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let socket = self.link.socket().ok_or_else(no_unix_socket)?;
            let parts = &mut [IoSliceMut::new(bytes)];
            match rustix::net::recvmsg(socket, parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(message) => {
                    for part in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(more) = part {
                            fds.extend(more);
                        }
                    }
                    break message.bytes;
                }
                Err(error) if is_tick(&error.into()) => patience.check()?,
                Err(error) => return Err(LinkError::Broken(error.into())),
            }
        };
        if read == 0 {
            return Err(LinkError::Closed);
        }
        self.read(bytes.get_mut(read..).unwrap_or_default(), limit)?;
        let count = fds.len();
        match (fds.pop(), count) {
            (Some(fd), 1) => Ok(fd),
            _ => Err(LinkError::Nonsense(format!(
                "a slot of memory came with {count} descriptors, not with one"
            ))),
        }
    }

    fn patience(&self, limit: Limit) -> Patience {
        let (since, moved) = (Instant::now(), self.watch.moved());
        Patience { watch: self.watch.clone(), limit, heeds: self.heeds, since, moved }
    }
}

/// The wait may go on. `TimedOut` is no tick: so the kernel says that a TCP peer is gone.
fn is_tick(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn no_unix_socket() -> LinkError {
    LinkError::Broken(io::Error::new(ErrorKind::Unsupported, "descriptors travel over UNIX sockets only"))
}

/// A reason comes from outside and goes into logs.
fn printable(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "see its log".to_owned();
    }
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

//! The other end of a stream: who is there, what it takes, and which descriptors to wait for.
//!
//! ```text
//!  pty:     closed --- timer sees no HUP ---> open          socket:  nobody --- accept ---> client
//!             ^---- HUP, or reading fails ----'                        ^-- gone both ways --' (a new one replaces it)
//! ```

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::own_file::OwnFile;
use host::{ControlOperation, Epoll, EpollEvent, EventSet, TimerFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;

use crate::ring::Ring;

/// How often a pseudo-terminal without a user is looked at: the kernel does not say when its slave is opened.
const PTY_CHECK: Duration = Duration::from_millis(500);
/// How long a writer waits, once, for a peer that has stopped taking output before the oldest output is given up.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// How long a peer that goes on taking output may keep the end of a stream waiting.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A descriptor that takes output for as long as the stream lives.
pub(crate) struct Out {
    pub(crate) fd: OwnedFd,
    pub(crate) writing: Writing,
}

/// How a descriptor is written to without waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Writing {
    /// The open file is ours and in non-blocking mode.
    NonBlocking,
    /// Non-blocking mode would be others' too, but each message can ask for it.
    Socket,
    /// The open file is others' too: it is asked for room first, and given no more than surely fits.
    Polled { at_most: usize },
}

/// A file to be removed at last.
pub(crate) struct Unlink(pub(crate) OwnFile);

impl Drop for Unlink {
    fn drop(&mut self) {
        // Nobody is left to be told that it stays.
        let _ = self.0.remove();
    }
}

/// A client of a socket. Its two directions end on their own.
pub(crate) struct Client {
    stream: UnixStream,
    /// It has said all it will.
    silent: bool,
    /// It takes no more output.
    deaf: bool,
}

pub(crate) enum Peer {
    Fixed { out: Option<Out>, input: Option<OwnedFd> },
    Pty { master: OwnedFd, timer: TimerFd, open: bool },
    Socket { listener: UnixListener, client: Option<Client>, _unlink: Unlink },
}

/// A watched descriptor and what it is watched for.
type Watched = Option<(RawFd, EventSet)>;

const INPUT: usize = 0;
const OUTPUT: usize = 1;
const LISTENER: usize = 2;
const TIMER: usize = 3;

/// A peer with the output kept for it and the descriptors watched for it.
pub(crate) struct Link {
    peer: Peer,
    ring: Ring,
    epoll: Arc<Epoll>,
    /// By token: [`INPUT`] (for pty and socket both directions) and [`OUTPUT`].
    watched: [Watched; 2],
    wants_input: bool,
    /// A thread calls [`Link::service`]; without, output that was kept goes out with the next.
    attended: bool,
    /// Bytes that nobody took and that are gone, since this was last told.
    dropped: u64,
    /// The peer took something since it was last waited for.
    patient: bool,
}

impl Link {
    pub(crate) fn new(peer: Peer, epoll: Arc<Epoll>, attended: bool) -> io::Result<Self> {
        let standing = match &peer {
            Peer::Fixed { .. } => None,
            Peer::Pty { timer, .. } => Some((timer.as_raw_fd(), TIMER)),
            Peer::Socket { listener, .. } => Some((listener.as_raw_fd(), LISTENER)),
        };
        if let Some((fd, token)) = standing {
            epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, token as u64))?;
        }
        let ring = Ring::default();
        let mut link = Self {
            peer,
            ring,
            epoll,
            watched: [None; 2],
            wants_input: true,
            attended,
            dropped: 0,
            patient: true,
        };
        link.set_pty_open(false);
        link.watch();
        Ok(link)
    }

    pub(crate) fn size(&self) -> Option<(u16, u16)> {
        match &self.peer {
            Peer::Fixed { out, .. } => host::terminal::size(&out.as_ref()?.fd),
            Peer::Pty { master, .. } => host::terminal::size(master),
            Peer::Socket { .. } => None,
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.flush();
        if self.discards() {
            return;
        }
        let mut rest = bytes;
        if self.ring.is_empty() {
            rest = rest.get(self.send(bytes)..).unwrap_or_default();
        }
        let stays = !self.attended && !rest.is_empty();
        if (stays || self.ring.overflows(rest.len())) && self.patient {
            self.patient = false;
            self.wait_for_writer();
            self.flush();
        }
        if !rest.is_empty() && !self.discards() {
            self.dropped += self.ring.push(rest);
            self.flush();
        }
        self.watch();
    }

    fn discards(&self) -> bool {
        matches!(self.peer, Peer::Fixed { out: None, .. })
    }

    pub(crate) fn service(&mut self, input: &mut [u8]) -> usize {
        self.wants_input = !input.is_empty();
        // Input that waited for room is read in this very turn.
        self.watch();
        let mut ready = [EpollEvent::default(); 4];
        let count = self.epoll.wait(0, &mut ready).unwrap_or(0);
        let mut got = 0;
        for event in ready.iter().take(count) {
            let set = event.event_set();
            match usize::try_from(event.data()).unwrap_or(usize::MAX) {
                INPUT => {
                    if set.contains(EventSet::OUT) {
                        self.flush();
                    }
                    got = self.input_ready(set, input);
                }
                OUTPUT => self.flush(),
                LISTENER => self.accept(),
                TIMER => got = self.look_for_user(input),
                _ => {}
            }
        }
        self.watch();
        got
    }

    fn input_ready(&mut self, set: EventSet, input: &mut [u8]) -> usize {
        if set.contains(EventSet::IN) && self.wants_input {
            return self.receive(input);
        }
        if set.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            self.input_gone();
        }
        0
    }

    fn receive(&mut self, input: &mut [u8]) -> usize {
        let Some(fd) = self.reader() else { return 0 };
        match rustix::io::read(fd, &mut *input) {
            Ok(0) => self.input_gone(),
            Ok(count) => return count,
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A pseudo-terminal whose slave was closed gives EIO.
            Err(_) => self.input_gone(),
        }
        0
    }

    fn reader(&self) -> Option<BorrowedFd<'_>> {
        match &self.peer {
            Peer::Fixed { input, .. } => input.as_ref().map(AsFd::as_fd),
            Peer::Pty { master, .. } => Some(master.as_fd()),
            Peer::Socket { client, .. } => client.as_ref().map(|c| c.stream.as_fd()),
        }
    }

    /// Where output can go now, and how.
    fn writer(&self) -> Option<(BorrowedFd<'_>, Writing)> {
        match &self.peer {
            Peer::Fixed { out, .. } => out.as_ref().map(|out| (out.fd.as_fd(), out.writing)),
            Peer::Pty { master, open, .. } => open.then(|| (master.as_fd(), Writing::NonBlocking)),
            Peer::Socket { client, .. } => {
                client.as_ref().filter(|c| !c.deaf).map(|c| (c.stream.as_fd(), Writing::Socket))
            }
        }
    }

    /// Whether there is a peer that takes output, after at most [`PATIENCE`].
    fn wait_for_writer(&self) -> bool {
        self.writer().is_some_and(|(fd, _)| {
            let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
            poll(&mut polled, Some(&PATIENCE)).is_ok_and(|count| count != 0)
        })
    }

    /// Sends what was kept, as far as the peer takes it.
    fn flush(&mut self) {
        while !self.ring.is_empty() {
            let count = self.send_some(self.ring.front());
            self.ring.consume(count.unwrap_or(0));
            if !self.took(count) {
                return;
            }
        }
        self.tell_of_dropped();
    }

    fn tell_of_dropped(&mut self) {
        let dropped = std::mem::take(&mut self.dropped);
        if dropped != 0 {
            // A full disk drops every byte that a guest says.
            tracing::warn!(target: "guest", "{dropped} bytes of console output were dropped: nobody took them in time");
        }
    }

    /// Bytes dropped since this was last told.
    #[cfg(test)]
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Sends `bytes` as far as the peer takes them and returns how many.
    fn send(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            let count = self.send_some(rest);
            sent += count.unwrap_or(0);
            if !self.took(count) {
                break;
            }
        }
        sent
    }

    fn send_some(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let (fd, writing) = self.writer().ok_or(Errno::AGAIN)?;
        match writing {
            Writing::NonBlocking => rustix::io::write(fd, bytes),
            Writing::Socket => rustix::net::send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            Writing::Polled { at_most } => {
                let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
                if poll(&mut polled, Some(&Timespec::default()))? == 0 {
                    return Err(Errno::AGAIN);
                }
                rustix::io::write(fd, bytes.get(..at_most).unwrap_or(bytes))
            }
        }
    }

    /// Whether the peer may take more after this answer.
    fn took(&mut self, answer: Result<usize, Errno>) -> bool {
        match answer {
            Ok(0) | Err(Errno::AGAIN) => false,
            Ok(_) => {
                self.patient = true;
                true
            }
            Err(Errno::INTR) => true,
            Err(error) => {
                self.output_gone(error);
                false
            }
        }
    }

    fn output_gone(&mut self, error: Errno) {
        match &mut self.peer {
            // A full disk may have room again; what was to be written is lost either way.
            Peer::Fixed { .. } if matches!(error, Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => {
                self.dropped += self.ring.clear();
            }
            Peer::Fixed { .. } => {
                tracing::warn!(target: "guest", "Console output is dropped from now on: {error}");
                self.forget(OUTPUT);
                self.ring = Ring::default();
                if let Peer::Fixed { out, .. } = &mut self.peer {
                    *out = None;
                }
            }
            Peer::Pty { .. } => self.set_pty_open(false),
            Peer::Socket { client, .. } => {
                if let Some(client) = client {
                    client.deaf = true;
                }
                self.let_client_go();
            }
        }
    }

    fn input_gone(&mut self) {
        match &mut self.peer {
            Peer::Fixed { .. } => {
                self.forget(INPUT);
                if let Peer::Fixed { input, .. } = &mut self.peer {
                    *input = None;
                }
            }
            Peer::Pty { .. } => self.set_pty_open(false),
            Peer::Socket { client, .. } => {
                if let Some(client) = client {
                    client.silent = true;
                }
                self.let_client_go();
            }
        }
    }

    fn let_client_go(&mut self) {
        if matches!(&self.peer, Peer::Socket { client: Some(c), .. } if c.silent && c.deaf) {
            self.replace_client(None);
        }
    }

    fn replace_client(&mut self, new: Option<Client>) {
        self.forget(INPUT);
        if let Peer::Socket { client, .. } = &mut self.peer {
            *client = new;
        }
    }

    fn accept(&mut self) {
        let Peer::Socket { listener, .. } = &self.peer else { return };
        match listener.accept().and_then(|(stream, _)| stream.set_nonblocking(true).map(|()| stream)) {
            Ok(stream) => {
                self.replace_client(Some(Client { stream, silent: false, deaf: false }));
                self.flush();
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(e) => {
                // Trying again at once would spin.
                tracing::error!("The console socket takes no more clients: {e}");
                let fd = listener.as_raw_fd();
                let _ = self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
            }
        }
    }

    fn set_pty_open(&mut self, now: bool) {
        let Peer::Pty { timer, open, .. } = &mut self.peer else { return };
        *open = now;
        let set = if now { timer.clear() } else { timer.reset(PTY_CHECK, Some(PTY_CHECK)) };
        if let Err(e) = set {
            tracing::error!("A console's pseudo-terminal cannot be looked after: {e}");
        }
        if now {
            self.flush();
        }
    }

    /// The timer of a closed pseudo-terminal has fired.
    fn look_for_user(&mut self, input: &mut [u8]) -> usize {
        let Peer::Pty { master, timer, .. } = &mut self.peer else { return 0 };
        let _ = timer.wait();
        let mut polled = [PollFd::from_borrowed_fd(master.as_fd(), PollFlags::IN)];
        let _ = poll(&mut polled, Some(&Timespec::default()));
        let seen = polled.first().map_or(PollFlags::empty(), PollFd::revents);
        if !seen.intersects(PollFlags::HUP | PollFlags::ERR) {
            self.set_pty_open(true);
        } else if seen.contains(PollFlags::IN) && self.wants_input {
            // Typed before the user left, while the guest had no room.
            return self.receive(input);
        }
        0
    }

    /// What must be watched as things are now.
    fn wanted(&self) -> [Watched; 2] {
        let backlog = !self.ring.is_empty();
        let set = |input: bool, output: bool| {
            let mut set = EventSet::empty();
            set.set(EventSet::IN, input);
            set.set(EventSet::OUT, output);
            set
        };
        let only_if_any = |(fd, set): (RawFd, EventSet)| (!set.is_empty()).then_some((fd, set));
        match &self.peer {
            Peer::Fixed { out, input } => [
                input.as_ref().and_then(|i| only_if_any((i.as_raw_fd(), set(self.wants_input, false)))),
                out.as_ref().and_then(|o| only_if_any((o.fd.as_raw_fd(), set(false, backlog)))),
            ],
            // Even with nothing to watch for, a hang-up is reported.
            Peer::Pty { master, open, .. } => {
                [open.then(|| (master.as_raw_fd(), set(self.wants_input, backlog))), None]
            }
            Peer::Socket { client, .. } => {
                let watch = |c: &Client| {
                    let set = set(self.wants_input && !c.silent, backlog && !c.deaf);
                    only_if_any((c.stream.as_raw_fd(), set))
                };
                [client.as_ref().and_then(watch), None]
            }
        }
    }

    fn watch(&mut self) {
        let wanted = self.wanted();
        for (token, (now, wanted)) in self.watched.iter_mut().zip(wanted).enumerate() {
            if *now == wanted {
                continue;
            }
            let (operation, (fd, set)) = match (*now, wanted) {
                (None, Some(new)) => (ControlOperation::Add, new),
                (Some(_), Some(new)) => (ControlOperation::Modify, new),
                (Some(old), None) => (ControlOperation::Delete, old),
                (None, None) => continue,
            };
            // Fails only where there is nothing to wait for (`/dev/null`) or no memory.
            let _ = self.epoll.ctl(operation, fd, EpollEvent::new(set, token as u64));
            *now = wanted;
        }
    }

    /// To be called before a watched descriptor is closed: its number may come back as another's.
    fn forget(&mut self, token: usize) {
        if let Some((fd, set)) = self.watched.get_mut(token).and_then(Option::take) {
            let _ = self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::new(set, 0));
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // A guest's last words are often the ones that matter, but a peer that takes them one by one must not keep us here.
        let begin = Instant::now();
        while !self.ring.is_empty() && begin.elapsed() < LAST_WORDS && self.wait_for_writer() {
            self.flush();
        }
        self.tell_of_dropped();
    }
}

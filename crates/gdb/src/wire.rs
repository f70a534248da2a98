//! The connection with a client, byte by byte as `gdbstub` wants it. Nothing here waits longer than the VMM lives.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use gdbstub::conn::{Connection, ConnectionExt};
use host::{ControlOperation, Epoll, EpollEvent, EventFd, EventSet};

/// How long a client may take to read a reply.
const PATIENCE: Duration = Duration::from_secs(10);

/// Descriptors of which one is waited for.
pub(crate) struct Waiting(Epoll);

impl Waiting {
    /// For any of these to be readable, or to hang up.
    pub(crate) fn new(readable: &[RawFd]) -> io::Result<Self> {
        let waiting = Self(Epoll::new()?);
        readable.iter().try_for_each(|fd| waiting.add(*fd, EventSet::IN))?;
        Ok(waiting)
    }

    /// And for this one to hang up, whether or not it is readable.
    pub(crate) fn add_hang_up(&self, fd: RawFd) -> io::Result<()> {
        self.add(fd, EventSet::READ_HANG_UP)
    }

    fn add(&self, fd: RawFd, events: EventSet) -> io::Result<()> {
        self.0.ctl(ControlOperation::Add, fd, EpollEvent::new(events, fd as u64))
    }

    /// Which are readable now; if it `waits`, at least one.
    pub(crate) fn ready(&self, waits: bool) -> io::Result<Vec<RawFd>> {
        let mut events = [EpollEvent::default(); 8];
        loop {
            match self.0.wait(if waits { -1 } else { 0 }, &mut events) {
                Ok(count) => return Ok(events[..count].iter().map(|event| event.data() as RawFd).collect()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// A connected client.
pub(crate) struct Wire {
    stream: Arc<UnixStream>,
    end: Arc<EventFd>,
    waiting: Waiting,
    input: VecDeque<u8>,
    output: Vec<u8>,
}

impl Wire {
    /// `end` is readable when the VMM ends.
    pub(crate) fn new(stream: UnixStream, end: Arc<EventFd>) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let waiting = Waiting::new(&[stream.as_raw_fd(), end.as_raw_fd()])?;
        Ok(Self { stream: Arc::new(stream), end, waiting, input: VecDeque::new(), output: Vec::new() })
    }

    /// The connection stays open as long as anybody has this.
    pub(crate) fn keep_open(&self) -> Arc<UnixStream> {
        self.stream.clone()
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Whether a byte has come that was not read yet, without asking the kernel.
    pub(crate) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Waits for bytes, if it `waits`, and takes what has come.
    fn fill(&mut self, waits: bool) -> io::Result<()> {
        let ready = self.waiting.ready(waits)?;
        if ready.contains(&self.end.as_raw_fd()) {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        if ready.contains(&self.raw_fd()) {
            let mut bytes = [0; 4096];
            let count = Read::read(&mut &*self.stream, &mut bytes)?;
            if count == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.input.extend(&bytes[..count]);
        }
        Ok(())
    }
}

impl Connection for Wire {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.output.push(byte);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let output = std::mem::take(&mut self.output);
        Write::write_all(&mut &*self.stream, &output)
    }
}

impl ConnectionExt for Wire {
    fn read(&mut self) -> io::Result<u8> {
        loop {
            match self.input.pop_front() {
                Some(byte) => return Ok(byte),
                None => self.fill(true)?,
            }
        }
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        if self.input.is_empty() {
            self.fill(false)?;
        }
        Ok(self.input.front().copied())
    }
}

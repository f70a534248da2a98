//! Postcopy: the thread that sends pages when the destination asks for them.

use std::io::ErrorKind;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sandbox::{Profile, groups};

use super::{SendError, link};
use crate::connection::{CHUNK_LEN, Connection, Limit, LinkError, TICK, Watch};
use crate::endpoint::Dial;
use crate::limits::Limits;
use crate::profile::CONNECT;
use crate::ranges::{Range, contain};
use crate::sides::SourceMemory;
use crate::wire::{Command, FAULT_LIMIT, RANGE_LEN, Request, Response, Role, decode_ranges};

/// The thread that sends pages. It makes connections anew when one breaks.
pub(crate) static PROFILE: Profile = Profile::new("migrate-send-postcopy", &[CONNECT, groups::READ_FILES]);

pub(super) struct PageServer {
    watch: Watch,
    thread: JoinHandle<Result<(), LinkError>>,
}

struct Serving {
    dial: Arc<dyn Dial>,
    memory: Arc<dyn SourceMemory>,
    ranges: Vec<Range>,
    /// The session's name, if the destination takes another connection after a break.
    again: Option<u32>,
    limits: Limits,
    watch: Watch,
}

impl PageServer {
    pub(super) fn start(
        dial: Arc<dyn Dial>,
        memory: Arc<dyn SourceMemory>,
        ranges: Vec<Range>,
        again: Option<u32>,
        limits: Limits,
    ) -> Result<Self, SendError> {
        let watch = Watch::default();
        let serving = Serving { dial, memory, ranges, again, limits, watch: watch.clone() };
        let mut connection = serving.dial.dial(&serving.watch).map_err(SendError::Dial)?;
        connection
            .write(&Role::Fault.encode(), Limit::for_bytes(0))
            .map_err(link("open the connection for page faults"))?;
        let thread = sandbox::spawn(&PROFILE, "migrate-send-postcopy", move || serving.run(connection))
            .map_err(SendError::Thread)?;
        Ok(Self { watch, thread })
    }

    /// Waits until the destination has all that it wants. Answers why it cannot get it, if so.
    pub(super) fn finish(self) -> Option<LinkError> {
        match self.thread.join() {
            Ok(served) => served.err(),
            Err(_) => Some(LinkError::Closed),
        }
    }

    /// The guest goes on here: nobody gets another page.
    pub(super) fn stop(self) {
        self.watch.cancel();
        // How it ended says nothing any more.
        let _ = self.thread.join();
    }
}

impl Serving {
    fn run(&self, mut connection: Connection) -> Result<(), LinkError> {
        loop {
            let broken = match self.serve(&mut connection) {
                Ok(()) => return Ok(()),
                Err(error @ (LinkError::Cancelled | LinkError::Nonsense(_))) => return Err(error),
                Err(error) => error,
            };
            connection = match self.again {
                Some(tag) => self.connect_again(tag)?,
                // So the reference's destination says that it has all.
                None if matches!(broken, LinkError::Closed) => return Ok(()),
                None => return Err(broken),
            };
        }
    }

    /// Until the destination has all pages.
    fn serve(&self, connection: &mut Connection) -> Result<(), LinkError> {
        // A destination that wants nothing for long gets a new connection, which shows whether it is there.
        let quiet = if self.again.is_some() { self.limits.quiet } else { Duration::MAX };
        loop {
            let request = connection.next_request(Limit::Quiet(quiet))?;
            match request.command {
                Command::Abandon => {
                    // The reference does not wait for it.
                    let _ = connection.respond(Response::ok(0));
                    return Ok(());
                }
                Command::PageFault if request.length == RANGE_LEN as u64 => {
                    let range = connection.read_payload("a page fault", request.length, request.length)?;
                    self.send(connection, &range)?;
                }
                command => {
                    connection.refuse("only page faults are served here", self.again.is_some())?;
                    return Err(LinkError::Nonsense(format!(
                        "{command:?} of {} bytes where a page fault was due",
                        request.length
                    )));
                }
            }
        }
    }

    fn send(&self, connection: &mut Connection, range: &[u8]) -> Result<(), LinkError> {
        let range = decode_ranges(range).and_then(|ranges| ranges.first().copied()).unwrap_or_default();
        let (base, len) = range;
        if len == 0 || len > FAULT_LIMIT || !contain(&self.ranges, range) {
            connection.refuse("the page is no RAM", self.again.is_some())?;
            return Err(LinkError::Nonsense(format!("a page fault for {len} bytes at {base:#x}")));
        }
        let limit = Limit::for_bytes(len);
        connection.respond(Response::ok(len))?;
        let mut chunk = vec![0; CHUNK_LEN.min(usize::try_from(len).unwrap_or(CHUNK_LEN))];
        for at in (0..len).step_by(CHUNK_LEN) {
            let part = usize::try_from(len - at).unwrap_or(CHUNK_LEN).min(CHUNK_LEN);
            let bytes = chunk.get_mut(..part).unwrap_or_default();
            if let Err(error) = self.memory.read(base + at, bytes) {
                // The answer has begun: what is missing of it tells the destination.
                return Err(LinkError::Nonsense(format!("its own RAM cannot be read: {error}")));
            }
            connection.write(bytes, limit)?;
        }
        Ok(())
    }

    fn connect_again(&self, tag: u32) -> Result<Connection, LinkError> {
        let started = Instant::now();
        loop {
            let broken = match self.try_again(tag) {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            let gone = matches!(&broken, LinkError::Broken(error) if is_gone(error.kind()));
            if gone || self.watch.is_cancelled() || started.elapsed() >= self.limits.fault_again {
                return Err(broken);
            }
            std::thread::park_timeout(TICK);
        }
    }

    fn try_again(&self, tag: u32) -> Result<Connection, LinkError> {
        let mut connection = self.dial.dial(&self.watch)?;
        let hello = [&Role::FaultAgain.encode()[..], &Request::start(tag).encode()].concat();
        connection.write(&hello, Limit::Within(self.limits.start))?;
        connection.answer(Limit::Within(self.limits.start))?;
        Ok(connection)
    }
}

/// The destination's process has ended, and with it the guest.
fn is_gone(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionRefused | ErrorKind::NotFound)
}

//! One connection: a stream of the host's, and what the guest knows of it.
//!
//! ```text
//!  of the host's:   Asking ── REQUEST ──▶ Asked ── RESPONSE of the guest ──▶ Open
//!  of the guest's:                                 RESPONSE is due ────────▶ Open
//! ```
//! Either direction ends on its own. A connection that is over leaves the table at once ([`Verdict`]); the guest hears of it by a RST.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use host::EventSet;
use memory::DmaView;
use rustix::net::{SendFlags, send};
use virtio::Fault;

use super::backlog::Backlog;
use super::credit::{ToGuest, ToHost};
use super::packet::{HEADER_LEN, Header, MAX_PAYLOAD, Op, RECEIVES_NO_MORE, SENDS_NO_MORE};
use super::span::{End, Span};

/// What is left of a connection whose guest has gone: bytes that a slow program has not taken yet.
pub(super) struct Rest {
    pub(super) stream: UnixStream,
    backlog: Backlog,
}

impl Rest {
    /// Sends what the stream takes now; true once that was all, or it takes nothing ever again.
    pub(super) fn flush(&mut self) -> bool {
        self.backlog.send(&self.stream).is_err() || self.backlog.is_empty()
    }
}

/// What becomes of a connection.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on.
    Stays,
    /// It is over, and the guest is to be told by a RST.
    Reset,
    /// It is over for the guest, which is to be told so; the host has not taken all of it yet.
    Left,
    /// It is over, and the guest knows or has never heard of it.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The guest will be asked.
    Asking,
    /// The guest has been asked.
    Asked,
    Open,
}

/// Who has said that a direction has ended.
#[derive(Clone, Copy, Debug, Default)]
struct Ended {
    guest_sends: bool,
    guest_receives: bool,
    host_sends: bool,
    host_receives: bool,
}

/// What the guest is to be told, one packet each.
#[derive(Clone, Copy, Debug, Default)]
struct Due {
    response: bool,
    shutdown: bool,
    credit: bool,
}

/// A connection. See the module.
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    phase: Phase,
    ended: Ended,
    due: Due,
    to_guest: ToGuest,
    to_host: ToHost,
    backlog: Backlog,
    /// The stream may have bytes, or its end.
    is_readable: bool,
    /// The stream's other end is gone.
    is_hung_up: bool,
    /// The guest has been asked for credit since it last gave some.
    has_asked: bool,
    /// When patience ends with a guest that does not answer, or a host that does not take what is left.
    pub(super) deadline: Option<Instant>,
    /// Waits for its turn to tell the guest something.
    pub(super) is_queued: bool,
}

impl Connection {
    /// The host asks the guest, which must have answered by `deadline`.
    pub(super) fn from_host(stream: UnixStream, deadline: Instant) -> Self {
        Self::new(stream, Phase::Asking, Some(deadline))
    }

    /// The guest has asked for it, by `request`, and somebody listens.
    pub(super) fn from_guest(stream: UnixStream, request: &Header) -> Self {
        let mut connection = Self::new(stream, Phase::Open, None);
        connection.due.response = true;
        connection.to_guest.update(request);
        connection
    }

    fn new(stream: UnixStream, phase: Phase, deadline: Option<Instant>) -> Self {
        Self {
            stream,
            phase,
            ended: Ended::default(),
            due: Due::default(),
            to_guest: ToGuest::default(),
            to_host: ToHost::default(),
            backlog: Backlog::default(),
            is_readable: true,
            is_hung_up: false,
            has_asked: false,
            deadline,
            is_queued: false,
        }
    }

    /// Whether the guest knows of it.
    pub(super) fn is_known(&self) -> bool {
        self.phase != Phase::Asking
    }

    /// The connection's worth of [`Verdict::Reset`].
    pub(super) fn reset(&self) -> Verdict {
        if self.is_known() { Verdict::Reset } else { Verdict::Gone }
    }

    /// The thread has stood still: who is waited for gets the whole time, and nothing that happened meanwhile was heard of.
    pub(super) fn resume(&mut self, deadline: Instant) {
        self.deadline = self.deadline.map(|_| deadline);
        self.is_readable = true;
    }

    /// Whether the guest has gone, and left something that the stream has not taken yet.
    pub(super) fn is_left_behind(&self) -> bool {
        self.ended.guest_sends && self.ended.guest_receives && !self.backlog.is_empty()
    }

    /// What the guest has left behind.
    pub(super) fn into_rest(self) -> Rest {
        Rest { stream: self.stream, backlog: self.backlog }
    }

    /// The stream has news.
    pub(super) fn look(&mut self, ready: EventSet) -> Verdict {
        let gone = EventSet::HANG_UP | EventSet::ERROR;
        self.is_hung_up |= ready.intersects(gone);
        self.is_readable |= ready.intersects(EventSet::IN | EventSet::READ_HANG_UP | gone);
        // What it has sent before is for the guest still, if that reads.
        if self.is_hung_up
            && (self.phase != Phase::Open || self.ended.host_sends || self.ended.guest_receives)
        {
            return self.reset();
        }
        if ready.contains(EventSet::OUT) { self.flush() } else { Verdict::Stays }
    }

    /// A packet of the guest's for it. `local_port` is the one it has on the host's side; `patience` is how long the host may take for
    /// what is left when the guest has gone.
    ///
    /// # Errors
    /// [`Fault::Protocol`] if its bytes do not lie in RAM.
    pub(super) fn take(
        &mut self,
        op: Op,
        header: &Header,
        local_port: u32,
        (span, ram): (&Span, &DmaView),
        patience: Duration,
    ) -> Result<Verdict, Fault> {
        self.to_guest.update(header);
        if self.to_guest.room() > 0 {
            self.has_asked = false;
        }
        match (op, self.phase) {
            (Op::Reset, _) => return Ok(Verdict::Gone),
            (Op::Response, Phase::Asked) => return Ok(self.open(local_port)),
            (Op::Data, Phase::Open) if !self.ended.guest_sends => {
                return self.deliver(span, header.len as usize, ram);
            }
            (Op::Shutdown, Phase::Open) => return Ok(self.end(header.flags, patience)),
            (Op::CreditUpdate, Phase::Open) => {}
            (Op::CreditRequest, Phase::Open) => self.due.credit = true,
            _ => return Ok(self.reset()),
        }
        Ok(Verdict::Stays)
    }

    /// The guest has accepted: whoever asked on the host gets the port it has now.
    fn open(&mut self, local_port: u32) -> Verdict {
        let answer = format!("OK {local_port}\n");
        match send(&self.stream, answer.as_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(count) if count == answer.len() => {
                self.phase = Phase::Open;
                self.deadline = None;
                Verdict::Stays
            }
            _ => Verdict::Reset,
        }
    }

    /// The guest's bytes go to the stream, and what that does not take is kept.
    fn deliver(&mut self, span: &Span, len: usize, ram: &DmaView) -> Result<Verdict, Fault> {
        self.to_host.receive(len);
        if self.ended.host_receives {
            // Sent before the guest has heard that nobody takes it.
            self.to_host.forward(len);
            return Ok(Verdict::Stays);
        }
        let mut sent = 0;
        if self.backlog.is_empty() {
            let moved = span.send(&self.stream, (HEADER_LEN, len), ram)?;
            if moved.end == End::Closed {
                self.to_host.forward(len);
                self.lose_receiver();
                return Ok(Verdict::Stays);
            }
            sent = moved.count;
            self.to_host.forward(sent);
        }
        if sent < len {
            if !self.backlog.keep(span, (HEADER_LEN + sent, len - sent), ram)? {
                // It has sent more than it was allowed to.
                return Ok(Verdict::Reset);
            }
            // Unless the stream is seen to be full, nothing tells when it is not any more.
            return Ok(self.flush());
        }
        self.due.credit |= self.to_host.is_worth_telling();
        Ok(Verdict::Stays)
    }

    /// The guest ends one direction or both.
    fn end(&mut self, flags: u32, patience: Duration) -> Verdict {
        self.ended.guest_sends |= flags & SENDS_NO_MORE != 0;
        if flags & RECEIVES_NO_MORE != 0 && !self.ended.guest_receives {
            self.ended.guest_receives = true;
            // The other end is gone: nobody is left who would hear of it.
            let _ = self.stream.shutdown(Shutdown::Read);
        }
        if self.ended.guest_sends && self.ended.guest_receives {
            self.deadline.get_or_insert_with(|| Instant::now() + patience);
        }
        self.flush()
    }

    /// Sends what was kept; once there is nothing left, what has ended on the guest's side ends here.
    fn flush(&mut self) -> Verdict {
        let waiting = self.backlog.len();
        match self.backlog.send(&self.stream) {
            Ok(sent) => self.to_host.forward(sent),
            Err(_) => {
                self.to_host.forward(waiting);
                self.lose_receiver();
            }
        }
        self.due.credit |= self.to_host.is_worth_telling();
        if self.ended.guest_sends && self.backlog.is_empty() {
            if self.ended.guest_receives {
                return Verdict::Reset;
            }
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        Verdict::Stays
    }

    /// Nobody takes what the guest sends. What was sent to it is read on.
    fn lose_receiver(&mut self) {
        self.backlog.clear();
        self.due.shutdown |= !self.ended.host_receives;
        self.ended.host_receives = true;
        self.due.credit |= self.to_host.is_worth_telling();
    }

    /// Whether there may be something to tell the guest.
    pub(super) fn has_news(&self) -> bool {
        match self.phase {
            Phase::Asking => true,
            Phase::Asked => false,
            Phase::Open => {
                let Due { response, shutdown, credit } = self.due;
                response
                    || shutdown
                    || credit
                    || self.may_read() && (self.to_guest.room() > 0 || !self.has_asked)
            }
        }
    }

    fn may_read(&self) -> bool {
        self.is_readable && !self.ended.host_sends && !self.ended.guest_receives
    }

    /// The next packet to the guest: fills in its purpose, and its bytes behind the room for the header in `span`. None if there is
    /// nothing to tell after all.
    ///
    /// # Errors
    /// [`Fault::Protocol`] if the guest's buffers do not lie in RAM.
    pub(super) fn tell(
        &mut self,
        header: &mut Header,
        (span, ram): (&Span, &DmaView),
    ) -> Result<Option<Verdict>, Fault> {
        let op = match self.phase {
            Phase::Asking => {
                self.phase = Phase::Asked;
                Some(Op::Request)
            }
            Phase::Asked => None,
            Phase::Open if std::mem::take(&mut self.due.response) => Some(Op::Response),
            Phase::Open => self.tell_of_stream(header, (span, ram))?,
        };
        let Some(op) = op else { return Ok(None) };
        header.op = op as u16;
        self.to_host.tell(header);
        self.due.credit = false;
        Ok(Some(if op == Op::Reset { Verdict::Gone } else { Verdict::Stays }))
    }

    /// Bytes, ends, and credit, in this order.
    fn tell_of_stream(
        &mut self,
        header: &mut Header,
        (span, ram): (&Span, &DmaView),
    ) -> Result<Option<Op>, Fault> {
        let room = self.to_guest.room().min(MAX_PAYLOAD).min(span.len().saturating_sub(HEADER_LEN));
        if self.may_read() && room > 0 {
            let moved = span.receive(&self.stream, (HEADER_LEN, room), ram)?;
            self.is_readable = moved.end == End::Fine;
            if moved.end == End::Closed {
                self.ended.host_sends = true;
                self.due.shutdown = true;
            }
            if moved.count > 0 {
                self.to_guest.send(moved.count);
                header.len = moved.count as u32;
                return Ok(Some(Op::Data));
            }
        }
        if std::mem::take(&mut self.due.shutdown) {
            if self.ended.host_sends && (self.is_hung_up || self.ended.host_receives) {
                return Ok(Some(Op::Reset));
            }
            let Ended { host_sends, host_receives, .. } = self.ended;
            header.flags =
                u32::from(host_sends) * SENDS_NO_MORE + u32::from(host_receives) * RECEIVES_NO_MORE;
            return Ok(Some(Op::Shutdown));
        }
        if self.may_read() && self.to_guest.room() == 0 && !std::mem::replace(&mut self.has_asked, true) {
            return Ok(Some(Op::CreditRequest));
        }
        Ok(self.due.credit.then_some(Op::CreditUpdate))
    }
}

//! All connections of a guest over one queue in each direction.
//!
//! What is to be told to the guest waits without being made into packets: connections queue for their turn, one packet each, and only
//! ports are kept of those that are over. So a guest that takes nothing costs nothing, and no stream waits for another.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use config::plan;
use host::EventSet;
use memory::DmaView;
use virtio::{Fault, Watch};

use super::connection::{Connection, Verdict};
use super::dials::Dials;
use super::handshake::Progress;
use super::listener;
use super::packet::{HOST_CID, Header, Op, STREAM};
use super::span::Span;
use super::table::{MAX_CONNECTIONS, Peer, Ports, Table};

/// RSTs that may wait before the guest is not listened to any more: each of its packets may ask for one.
const MAX_RESETS: usize = 256;
/// RSTs and connections there can be at the same time: those asked for by packets, one of each connection, and as many connections anew.
pub(super) const MAX_KNOWN: usize = MAX_RESETS + 2 * MAX_CONNECTIONS;
/// Ports of connections that the host asks for: this one and those above it, below bit 31.
const FIRST_LOCAL_PORT: u32 = 1 << 30;

/// What streams are watched for. What they are ready for is remembered, so that nothing has to be said to the kernel as it comes and goes.
const EVERYTHING: EventSet =
    EventSet::IN.union(EventSet::OUT).union(EventSet::READ_HANG_UP).union(EventSet::EDGE_TRIGGERED);

/// A RST that waits for its turn.
struct Reset {
    ports: Ports,
    /// The type of the packet that it answers.
    kind: u16,
}

/// See the module.
pub(super) struct Muxer {
    guest_cid: u64,
    socket: PathBuf,
    /// How long a guest may take to answer, and how long one that ends a connection waits for the host to take the rest.
    patience: Duration,
    table: Table,
    dials: Dials,
    /// Connections with news for the guest, each once.
    queued: VecDeque<u32>,
    resets: VecDeque<Reset>,
    next_port: u32,
    /// Somebody is waited for.
    pub(super) is_waiting: bool,
}

impl Muxer {
    pub(super) fn new(vsock: &plan::Vsock, patience: Duration) -> Self {
        Self {
            guest_cid: vsock.cid.into(),
            socket: vsock.socket.clone(),
            patience,
            table: Table::default(),
            dials: Dials::default(),
            queued: VecDeque::new(),
            resets: VecDeque::new(),
            next_port: FIRST_LOCAL_PORT,
            is_waiting: false,
        }
    }

    /// Ends all connections without a word to the guest, which has reset the device.
    pub(super) fn clear(&mut self) {
        self.table = Table::default();
        self.dials = Dials::default();
        self.queued.clear();
        self.resets.clear();
        (self.next_port, self.is_waiting) = (FIRST_LOCAL_PORT, false);
    }

    /// What the guest believes to be connected, or must be told that it is not.
    pub(super) fn known(&self) -> BTreeSet<Ports> {
        let known = self.table.iter().filter(|(_, connection)| connection.is_known());
        let resets = self.resets.iter().map(|reset| reset.ports);
        known.map(|(ports, _)| ports).chain(self.dials.ports()).chain(resets).collect()
    }

    /// Tells the guest that these are over: their streams have stayed in another process.
    pub(super) fn forget(&mut self, known: impl IntoIterator<Item = Ports>) {
        self.clear();
        self.resets.extend(known.into_iter().map(|ports| Reset { ports, kind: STREAM }));
    }

    /// Watches all streams, after [`Muxer::stop`] or for the first time.
    pub(super) fn start(&mut self, watch: &Watch) {
        let deadline = Instant::now() + self.patience;
        for token in self.table.tokens() {
            let Some(peer) = self.table.get(token) else { continue };
            let watched = watch.add(peer.stream(), token, EVERYTHING);
            if let Peer::Connection(_, connection) = peer {
                connection.resume(deadline);
                let verdict = if watched.is_ok() { Verdict::Stays } else { connection.reset() };
                self.settle(token, verdict);
            }
        }
        self.dials.resume(deadline);
        self.is_waiting |= self.dials.len() > 0;
    }

    /// Watches none.
    pub(super) fn stop(&mut self, watch: &Watch) {
        for token in self.table.tokens() {
            if let Some(peer) = self.table.get(token) {
                let _ = watch.remove(peer.stream());
            }
        }
    }

    /// A client of the host's has come.
    pub(super) fn welcome(&mut self, stream: UnixStream, watch: &Watch) {
        let token = self.table.add_handshake(stream);
        let watched = self.table.get(token).map(|peer| watch.add(peer.stream(), token, EVERYTHING));
        if !matches!(watched, Some(Ok(()))) {
            self.table.remove(token);
        }
    }

    /// A stream is ready for something.
    pub(super) fn look(&mut self, token: u32, ready: EventSet, watch: &Watch) {
        match self.table.get(token) {
            None => {}
            Some(Peer::Connection(_, connection)) => {
                let verdict = connection.look(ready);
                self.settle(token, verdict);
            }
            Some(Peer::Rest(rest)) => {
                let is_over = rest.flush();
                if is_over {
                    self.table.remove(token);
                }
            }
            Some(Peer::Handshake(handshake)) => match handshake.read() {
                Progress::Waiting => {}
                Progress::Refused => drop(self.table.remove(token)),
                Progress::Port(port) => self.ask(token, port, watch),
            },
        }
    }

    /// A client wants `port` of the guest's.
    fn ask(&mut self, token: u32, port: u32, watch: &Watch) {
        let Some(Peer::Handshake(handshake)) = self.table.remove(token) else { return };
        if self.is_full() {
            return;
        }
        let ports = Ports { local: self.free_port(port), guest: port };
        let connection = Connection::from_host(handshake.stream, Instant::now() + self.patience);
        let token = self.table.add_connection(ports, connection);
        let watched = self.table.get(token).map(|peer| watch.change(peer.stream(), token, EVERYTHING));
        self.settle(token, if matches!(watched, Some(Ok(()))) { Verdict::Stays } else { Verdict::Gone });
    }

    /// A port for a connection to the guest's `guest`; there are more than connections.
    fn free_port(&mut self, guest: u32) -> u32 {
        loop {
            let local = self.next_port;
            self.next_port = (local + 1) & (FIRST_LOCAL_PORT - 1) | FIRST_LOCAL_PORT;
            let ports = Ports { local, guest };
            if self.table.find(ports).is_none() && !self.dials.has(ports) {
                return local;
            }
        }
    }

    /// Whether the guest must not be listened to before it has taken some of the answers.
    pub(super) fn is_congested(&self) -> bool {
        self.resets.len() >= MAX_RESETS
    }

    /// A packet of the guest's; `span` holds all of it.
    ///
    /// # Errors
    /// [`Fault::Protocol`] if its bytes do not lie in RAM.
    pub(super) fn take(
        &mut self,
        header: &Header,
        (span, ram): (&Span, &DmaView),
        watch: &Watch,
    ) -> Result<(), Fault> {
        if header.source_cid != self.guest_cid || header.destination_cid != HOST_CID {
            return Ok(());
        }
        let ports = Ports { local: header.destination_port, guest: header.source_port };
        let op = Op::from_number(header.op);
        let reset = Reset { ports, kind: header.kind };
        let known = if header.kind == STREAM { self.table.find(ports) } else { None };
        // Whatever it says before it has got an answer ends the wait for one.
        let has_waited = self.dials.remove(ports);
        match (known, op) {
            (Some(token), op) => {
                let Some((_, connection)) = self.table.connection(token) else { return Ok(()) };
                let verdict = match op {
                    Some(op) => connection.take(op, header, ports.local, (span, ram), self.patience)?,
                    None => connection.reset(),
                };
                self.settle(token, verdict);
            }
            (None, Some(Op::Reset)) => {}
            (None, Some(Op::Request)) if header.kind == STREAM && !has_waited => {
                self.connect(header, ports, watch);
            }
            (None, _) => self.resets.push_back(reset),
        }
        Ok(())
    }

    /// The guest wants a program of the host's.
    fn connect(&mut self, request: &Header, ports: Ports, watch: &Watch) {
        if self.is_full() {
            self.resets.push_back(Reset { ports, kind: STREAM });
            return;
        }
        let dialled = listener::dial(&self.socket, ports.local);
        if dialled.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.dials.add(ports, *request, Instant::now() + self.patience);
            self.is_waiting = true;
            return;
        }
        self.put_through(request, ports, dialled, watch);
    }

    /// Gives the guest the program that it wants, or the reason why not.
    fn put_through(
        &mut self,
        request: &Header,
        ports: Ports,
        dialled: io::Result<UnixStream>,
        watch: &Watch,
    ) {
        match dialled {
            Ok(stream) => {
                let token = self.table.add_connection(ports, Connection::from_guest(stream, request));
                let watched = self.table.get(token).map(|peer| watch.add(peer.stream(), token, EVERYTHING));
                let verdict = if matches!(watched, Some(Ok(()))) { Verdict::Stays } else { Verdict::Reset };
                self.settle(token, verdict);
            }
            Err(error) => {
                let port = ports.local;
                tracing::debug!(target: "guest", "The guest reaches nobody at vsock port {port}: {error}");
                self.resets.push_back(Reset { ports, kind: STREAM });
            }
        }
    }

    /// There is no room for one more.
    fn is_full(&self) -> bool {
        self.table.connections() + self.dials.len() >= MAX_CONNECTIONS
    }

    /// Tries again what can be tried again, and ends the patience with those whose time is up.
    pub(super) fn tick(&mut self, now: Instant, watch: &Watch) {
        for (dial, dialled) in self.dials.retry(now, |port| listener::dial(&self.socket, port)) {
            self.put_through(&dial.request, dial.ports, dialled, watch);
        }
        self.is_waiting = self.dials.len() > 0;
        for token in self.table.tokens() {
            let Some((_, connection)) = self.table.connection(token) else { continue };
            let is_over = connection.deadline.is_some_and(|deadline| deadline <= now);
            let verdict = match is_over {
                false => Verdict::Stays,
                true if connection.is_left_behind() => Verdict::Left,
                true => connection.reset(),
            };
            self.settle(token, verdict);
        }
    }

    /// Does what has been decided of a connection.
    fn settle(&mut self, token: u32, verdict: Verdict) {
        let Some((ports, connection)) = self.table.connection(token) else { return };
        if verdict == Verdict::Stays {
            self.is_waiting |= connection.deadline.is_some();
            if connection.has_news() && !std::mem::replace(&mut connection.is_queued, true) {
                self.queued.push_back(token);
            }
            return;
        }
        if connection.is_queued {
            self.queued.retain(|other| *other != token);
        }
        if verdict == Verdict::Left {
            self.table.retire(token);
        } else {
            self.table.remove(token);
        }
        if verdict != Verdict::Gone {
            self.resets.push_back(Reset { ports, kind: STREAM });
        }
    }

    /// Whether the guest may have to be told something.
    pub(super) fn has_news(&self) -> bool {
        !self.resets.is_empty() || !self.queued.is_empty()
    }

    /// The next packet for the guest, whose bytes are put into `span` behind the room for the header; none if there is nothing to tell
    /// after all, or `span` has no room for it.
    ///
    /// # Errors
    /// [`Fault::Protocol`] if `span` does not lie in RAM.
    pub(super) fn tell(&mut self, (span, ram): (&Span, &DmaView)) -> Result<Option<Header>, Fault> {
        if let Some(Reset { ports, kind }) = self.resets.pop_front() {
            return Ok(Some(Header { kind, op: Op::Reset as u16, ..self.header(ports) }));
        }
        let Some(token) = self.queued.pop_front() else { return Ok(None) };
        let Some((ports, _)) = self.table.connection(token) else { return Ok(None) };
        let mut header = self.header(ports);
        let Some((_, connection)) = self.table.connection(token) else { return Ok(None) };
        connection.is_queued = false;
        let told = connection.tell(&mut header, (span, ram))?;
        self.settle(token, told.unwrap_or(Verdict::Stays));
        Ok(told.map(|_| header))
    }

    fn header(&self, Ports { local, guest }: Ports) -> Header {
        Header {
            source_cid: HOST_CID,
            destination_cid: self.guest_cid,
            source_port: local,
            destination_port: guest,
            kind: STREAM,
            ..Header::default()
        }
    }
}

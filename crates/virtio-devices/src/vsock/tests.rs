//! A guest, played by hand, and programs of the host's.

mod hostile;
mod life;
mod streams;

use super::*;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use memory::{Bytes, GuestAddress, GuestRam};
use virtio::fake::{self, FakeInterrupt, FakeQueue, WRITE};
use virtio::{ActiveQueue, VirtioDevice};

use super::packet::{HEADER_LEN, Header, Op, STREAM};

const CID: u32 = 7;
const QUEUE_SIZE: u16 = 16;
const RECEIVED: u64 = 0x1_0000;
const SENT: u64 = 0x4_0000;
const OUTSIDE: u64 = 0x10_0000;
const BUFFER_LEN: u32 = 4096;
/// Longer than any test takes.
const EVER: Duration = Duration::from_secs(600);
/// Not at all.
const NONE: Duration = Duration::ZERO;
const FIRST: u32 = 1 << 30;

struct Guest {
    ram: GuestRam,
    rx: FakeQueue,
    tx: FakeQueue,
    events: FakeQueue,
    config: Arc<FakeInterrupt>,
    /// The device's side of them, between a pause and what follows.
    paused: Vec<ActiveQueue>,
    front: Front,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

/// One connection, as the guest sees it.
#[derive(Clone, Copy, Debug)]
struct Conversation {
    host: u32,
    guest: u32,
    /// Bytes that the guest has taken out of its buffer.
    forwarded: u32,
    buffer: u32,
}

fn conversation(host: u32, guest: u32) -> Conversation {
    Conversation { host, guest, forwarded: 0, buffer: 64 << 10 }
}

fn vsock(path: &Path) -> plan::Vsock {
    plan::Vsock { cid: CID, socket: path.into() }
}

fn front(path: &Path, patience: Duration) -> Front {
    let socket = Socket::bind(path).unwrap();
    Front::new("_vsock0", &vsock(path), socket, patience).unwrap()
}

impl Guest {
    /// A guest with buffers for all that comes.
    fn new(patience: Duration) -> Self {
        let mut guest = Self::without_buffers(patience);
        guest.start();
        guest.give_all();
        guest
    }

    /// A guest whose driver is not ready yet.
    fn without_buffers(patience: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock");
        let ram = memory::test_ram(&[(0, 0x10_0000)]);
        let queue = |base| FakeQueue::new(&ram, base, QUEUE_SIZE);
        let (rx, tx, events) = (queue(0), queue(0x4000), queue(0x8000));
        let front = front(&path, patience);
        Self { ram, rx, tx, events, config: Arc::default(), paused: Vec::new(), front, path, _dir: dir }
    }

    fn start(&mut self) {
        let (mut activation, config) = fake::activation(&self.ram, 0, &[&self.rx, &self.tx, &self.events]);
        if !self.paused.is_empty() {
            activation.queues = std::mem::take(&mut self.paused);
        }
        self.config = config;
        self.front.start(activation);
    }

    fn stop(&mut self) {
        self.front.stop();
        self.paused = self.front.stopped(Instant::now() + Duration::from_secs(30)).unwrap();
        assert_eq!(self.paused.len(), 3);
    }

    fn give_all(&mut self) {
        (0..QUEUE_SIZE).for_each(|_| self.give());
        self.rx.ring();
    }

    /// Offers the next buffer: each has a descriptor of its own, and so its place.
    fn give(&mut self) {
        let head = self.rx.next_head();
        self.rx.add(&[(RECEIVED + u64::from(head) * u64::from(BUFFER_LEN), BUFFER_LEN, WRITE)]);
    }

    /// The next packet, whose buffer is offered again.
    fn receive(&mut self) -> (Header, Vec<u8>) {
        let (head, len) = self.rx.wait_used();
        let address = RECEIVED + u64::from(head) * u64::from(BUFFER_LEN);
        let packet = self.bytes(address, len as usize);
        self.give();
        self.rx.ring();
        let (header, payload) = packet.split_first_chunk::<HEADER_LEN>().unwrap();
        let header = Header::from_bytes(header);
        assert_eq!((header.source_cid, header.destination_cid), (2, CID.into()));
        assert_eq!(header.len as usize, payload.len());
        (header, payload.into())
    }

    /// The next packet, which has this purpose.
    fn expect(&mut self, op: Op) -> (Header, Vec<u8>) {
        let (header, payload) = self.receive();
        assert_eq!(header.op, op as u16, "{header:?}");
        (header, payload)
    }

    /// The end of a connection that the host has left: its own direction may be seen to end first.
    fn expect_end(&mut self) {
        let (header, _) = self.receive();
        if header.op == Op::Shutdown as u16 {
            self.expect(Op::Reset);
        } else {
            assert_eq!(header.op, Op::Reset as u16, "{header:?}");
        }
    }

    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.ram.map().read_slice(&mut data, GuestAddress(at)).unwrap();
        data
    }

    /// Sends a packet as it is and waits until the device has seen it.
    fn send(&mut self, header: Header, payload: &[u8]) {
        self.ram.map().write_slice(&header.to_bytes(), GuestAddress(SENT)).unwrap();
        self.ram.map().write_slice(payload, GuestAddress(SENT + HEADER_LEN as u64)).unwrap();
        let head = self.tx.add(&[(SENT, (HEADER_LEN + payload.len()) as u32, 0)]);
        self.tx.ring();
        assert_eq!(self.tx.wait_used(), (head.into(), 0));
    }

    /// Sends a packet of a conversation.
    fn say(&mut self, to: Conversation, op: Op, payload: &[u8]) {
        self.send(Header { len: payload.len() as u32, ..header(to, op) }, payload);
    }

    fn shut_down(&mut self, to: Conversation, flags: u32) {
        self.send(Header { flags, ..header(to, Op::Shutdown) }, &[]);
    }

    /// A client of the host's that wants `port`; it has been accepted.
    fn accept(&mut self, port: u32) -> (UnixStream, Conversation) {
        let mut client = client(&self.path);
        client.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        let (request, _) = self.expect(Op::Request);
        assert_eq!((request.destination_port, request.kind), (port, STREAM));
        let conversation = conversation(request.source_port, port);
        self.say(conversation, Op::Response, &[]);
        let answer = format!("OK {}\n", request.source_port);
        assert_eq!(read(&mut client, answer.len()), answer.as_bytes());
        (client, conversation)
    }

    /// A program of the host's that listens on `port`.
    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(format!("{}_{port}", self.path.display())).unwrap()
    }

    /// The guest's connection to a program that listens; it has been accepted.
    fn connect(&mut self, listener: &UnixListener, to: Conversation) -> UnixStream {
        self.say(to, Op::Request, &[]);
        let (response, _) = self.expect(Op::Response);
        assert_eq!((response.source_port, response.destination_port), (to.host, to.guest));
        let stream = listener.accept().unwrap().0;
        stream.set_read_timeout(Some(EVER)).unwrap();
        stream
    }
}

fn header(Conversation { host, guest, forwarded, buffer }: Conversation, op: Op) -> Header {
    Header {
        source_cid: CID.into(),
        destination_cid: 2,
        source_port: guest,
        destination_port: host,
        kind: STREAM,
        op: op as u16,
        buf_alloc: buffer,
        fwd_cnt: forwarded,
        ..Header::default()
    }
}

fn client(path: &Path) -> UnixStream {
    UnixStream::connect(path).unwrap()
}

fn read(stream: &mut UnixStream, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    stream.read_exact(&mut data).unwrap();
    data
}

/// What comes until the stream ends.
fn read_all(stream: &mut UnixStream) -> Vec<u8> {
    let mut data = Vec::new();
    stream.read_to_end(&mut data).unwrap();
    data
}

//! Peers that speak nonsense: an error that names it, at once, and nothing is left of the machine.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::machine::{FakeDestination, FakeSource, RANGES, World};
use super::net::Net;
use super::{RECEIVE, SEND};
use crate::wire::{Command, HEAD_LEN, Request, Response, Role, encode_ranges};
use crate::{Left, ReceiveError, ReceiveSettings, Received, Watch};

/// What a destination makes of `bytes`, after which the source is gone.
fn receive(bytes: &[u8], settings: ReceiveSettings) -> (Result<Received, ReceiveError>, Vec<u8>) {
    let net = Net::new(Arc::new(World::default()));
    let mut destination = FakeDestination::new(Arc::clone(&net.world));
    let mut stream = net.raw();
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let received = crate::receive(net.listener(), &mut destination, settings, &Watch::default());
    assert!(!destination.is_there(), "{received:?}");
    let mut answers = Vec::new();
    // What it did not read resets the connection, after its answers.
    let _ = stream.read_to_end(&mut answers);
    (received, answers)
}

/// The errors' texts, in one line.
fn refusal(bytes: &[u8]) -> String {
    let (received, answers) = receive(bytes, RECEIVE);
    let error = received.unwrap_err();
    let error: &dyn std::error::Error = &error;
    let chain: Vec<String> =
        std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect();
    let text = chain.join(": ");
    // A source of ours is told the same.
    let told = String::from_utf8_lossy(&answers).contains(&text);
    assert!(told || text.contains("closed the connection"), "{text}");
    text
}

fn start() -> Vec<u8> {
    Request::start(5).encode().to_vec()
}

fn request(command: Command, length: u64) -> [u8; HEAD_LEN] {
    Request::new(command, length).encode()
}

fn configured() -> Vec<u8> {
    let config = b"a configuration";
    [&start()[..], &request(Command::Config, config.len() as u64), config].concat()
}

#[test]
fn nonsense_is_named() {
    let mut version = Request::start(5);
    version.extra[0] = 9;
    let (received, _) = receive(&version.encode(), RECEIVE);
    assert!(matches!(received, Err(ReceiveError::Version(9))));
    let (received, _) = receive(b"GET / HTTP/1.1\r\n\r\n", RECEIVE);
    assert!(received.unwrap_err().to_string().contains("broken off"));

    let after_start = |bytes: &[u8]| refusal(&[&start()[..], bytes].concat());
    assert!(after_start(&[0; 16]).contains("there is no command 0"));
    assert!(after_start(&request(Command::State, 0)).contains("sent State where that was not due"));
    assert!(after_start(&request(Command::MemoryFd, 5)).contains("sent MemoryFd with 5 bytes"));
    assert!(
        after_start(&request(Command::Config, 1 << 63))
            .contains("a configuration of 9223372036854775808 bytes")
    );
    assert!(after_start(&[&request(Command::Config, 4)[..], b"what"].concat()).contains("no such machine"));
    assert!(after_start(&request(Command::Config, 4)[..9]).contains("closed the connection"));
    // No descriptor comes with it.
    assert!(
        after_start(&[&request(Command::MemoryFd, 4)[..], &[7, 0, 0, 0]].concat())
            .contains("with 0 descriptors")
    );
}

#[test]
fn memory_outside_of_ram_is_refused_before_its_bytes_are_read() {
    let memory = |ranges: &[(u64, u64)]| {
        let table = encode_ranges(ranges);
        let request = Request::memory(table.len() as u64, false).encode();
        refusal(&[&configured()[..], &request, &table].concat())
    };
    for outside in [(RANGES[0].1, 1), (0, u64::MAX), (u64::MAX, 2), (RANGES[1].0, RANGES[1].1 + 1)] {
        assert!(memory(&[(0, 1), outside]).contains("is not in the machine's RAM"), "{outside:?}");
    }
    // Each of them lies in RAM, but all of them do not fit.
    assert!(memory(&[RANGES[0]; 3]).contains("is not in the machine's RAM"));
    let odd = refusal(&[&configured()[..], &request(Command::Memory, 17), &[0; 17]].concat());
    assert!(odd.contains("a table of memory of 17 bytes"), "{odd}");
    let long = refusal(&[&configured()[..], &request(Command::Memory, 1 << 40)].concat());
    assert!(long.contains("a table of memory of 1099511627776 bytes is longer"), "{long}");
}

#[test]
fn a_state_that_is_no_machine_is_refused() {
    let state = [&configured()[..], &request(Command::State, 3), b"abc"].concat();
    assert!(refusal(&state).contains("no such state"));
    let early = [&configured()[..], &request(Command::Complete, 0)].concat();
    assert!(refusal(&early).contains("sent Complete where that was not due"));
}

#[test]
fn a_source_that_gives_up_leaves_nothing() {
    let (received, answers) = receive(&[&configured()[..], &request(Command::Abandon, 0)].concat(), RECEIVE);
    assert!(matches!(received, Err(ReceiveError::Abandoned)));
    assert!(answers.ends_with(&Response::ok(0).encode()));
}

/// A source without our extensions cannot come back: what it leaves open is nobody's, as with the reference.
#[test]
fn a_source_of_the_reference_that_goes_leaves_nothing() {
    let state = [0x5a; 300];
    let bytes = [&configured()[..], &request(Command::State, 300), &state].concat();
    let reference = [&Request::start(0).encode()[..], &bytes[HEAD_LEN..]].concat();
    let (received, answers) = receive(&reference, RECEIVE);
    assert!(received.is_err());
    assert_eq!(answers.len() % HEAD_LEN, 0, "the reference reads no reasons");
}

/// What a source makes of a destination that answers with `bytes` and goes.
fn send(bytes: &[u8]) -> String {
    let net = Net::new(Arc::new(World::default()));
    let mut source = FakeSource::new(&net, 21);
    let listener = net.listener();
    let sent = std::thread::scope(|scope| {
        let sending = scope.spawn(|| crate::send(&mut source, &net.dial(), &SEND, &Watch::default()));
        let mut stream = loop {
            if let Some(stream) = net.take_raw() {
                break stream;
            }
            std::thread::yield_now();
        };
        stream.write_all(bytes).unwrap();
        drop(listener);
        stream.shutdown(Shutdown::Write).unwrap();
        // What the source says is taken, or it would hear of that before it has read the answers.
        while !sending.is_finished() {
            match stream.read(&mut [0; 4096]) {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => break,
            }
        }
        drop(stream);
        sending.join().unwrap()
    });
    let failure = sent.unwrap_err();
    assert!(matches!(failure.left, Left::AsBefore), "{failure:?}");
    assert!(source.is_running_now() && source.holds());
    let error: &dyn std::error::Error = &failure.error;
    std::iter::successors(Some(error), |error| error.source()).map(|error| format!("{error}. ")).collect()
}

#[test]
fn a_destination_that_speaks_nonsense_does_not_get_the_machine() {
    let ok = Response::ok(0).encode();
    assert!(send(&[]).contains("Cannot start the migration"));
    assert!(send(&[0; 16]).contains("there is no status 0"));
    assert!(send(&ok).contains("Cannot send the configuration"));
    let refused = [&ok[..], &Response::error(9).encode(), b"no\x1broom\n!"].concat();
    assert!(send(&refused).contains("refused: no room !"), "{}", send(&refused));
    let endless = [&ok[..], &Response::error(u64::MAX).encode()].concat();
    assert!(send(&endless).contains("refused: see its log"));
    // It has the state, and is not there to be asked: it never answered, so it never had the machine.
    assert!(send(&ok.repeat(9)).contains("Cannot "));
}

/// Strangers come to a destination that waits for page faults or memory.
#[test]
fn strangers_are_sent_away() {
    let net = Net::new(Arc::new(World::default()));
    let hello = |role: Role, tag| [&role.encode()[..], &Request::start(tag).encode()].concat();
    let source = FakeSource::new(&net, 22);
    let strangers: Vec<UnixStream> = [
        vec![0xff; 2],
        hello(Role::Settle, 0),
        hello(Role::Settle, 1),
        hello(Role::FaultAgain, 1),
        Role::Fault.encode().to_vec(),
        [&Role::Memory.encode()[..], &request(Command::Config, 4)].concat(),
    ]
    .iter()
    .map(|bytes| {
        let mut stream = net.raw_behind_first();
        stream.write_all(bytes).unwrap();
        stream
    })
    .collect();
    super::migrate(source, &net, &SEND, RECEIVE).assert_moved(true);
    drop(strangers);
}

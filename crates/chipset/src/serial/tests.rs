use super::*;
use device::Stateful;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use config::plan;

const DATA: u64 = 0;
const INTERRUPT_ENABLE: u64 = 1;
const INTERRUPT_ID: u64 = 2;
const LINE_CONTROL: u64 = 3;
const MODEM_CONTROL: u64 = 4;
const LINE_STATUS: u64 = 5;
const DATA_READY: u8 = 1;

#[derive(Default)]
struct Edges {
    count: Mutex<usize>,
    fired: Condvar,
}

impl Edges {
    fn wait(&self, count: usize) {
        let guard = self.count.lock().unwrap();
        let (guard, timeout) =
            self.fired.wait_timeout_while(guard, Duration::from_secs(20), |n| *n < count).unwrap();
        assert!(!timeout.timed_out(), "{} edges instead of {count}", *guard);
    }

    fn count(&self) -> usize {
        *self.count.lock().unwrap()
    }
}

impl InterruptLine for Edges {
    fn set_level(&self, level: bool) {
        *self.count.lock().unwrap() += usize::from(level);
        self.fired.notify_all();
    }
}

fn port(config: &plan::Stream) -> (Serial, Arc<Edges>) {
    let edges = Arc::new(Edges::default());
    (Serial::build(Stream::open(config).unwrap().unwrap(), edges.clone()).unwrap(), edges)
}

fn write(serial: &mut Serial, register: u64, value: u8) {
    assert_eq!(Device::write(serial, Access { region: 0, offset: register }, &[value]), Effect::None);
}

fn read(serial: &mut Serial, register: u64) -> u8 {
    let mut data = [0xff];
    serial.read(Access { region: 0, offset: register }, &mut data);
    data[0]
}

/// A port with a client on its socket.
fn connected() -> (Serial, Arc<Edges>, UnixStream, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let (mut serial, edges) = port(&plan::Stream::Socket(path.clone()));
    let mut client = UnixStream::connect(path).unwrap();
    write(&mut serial, DATA, b'!');
    let mut greeting = [0];
    client.read_exact(&mut greeting).unwrap();
    (serial, edges, client, dir)
}

#[test]
fn idle_registers() {
    let (mut serial, _) = port(&plan::Stream::Null);
    assert_eq!(read(&mut serial, LINE_STATUS), 0x60);
    assert_eq!(read(&mut serial, INTERRUPT_ID), 0xc1);
    assert_eq!(read(&mut serial, 6), 0xb0);
    write(&mut serial, LINE_CONTROL, 0x83);
    assert_eq!([read(&mut serial, 0), read(&mut serial, 1)], [12, 0]);
    let mut wide = [0xff; 2];
    serial.read(Access { region: 0, offset: 5 }, &mut wide);
    assert_eq!(wide, [0xff; 2]);
}

#[test]
fn output_reaches_the_file_with_an_interrupt_each() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let (mut serial, edges) = port(&plan::Stream::File(path.clone()));
    b"hi\n".iter().for_each(|byte| write(&mut serial, DATA, *byte));
    assert_eq!(edges.count(), 0);
    write(&mut serial, INTERRUPT_ENABLE, 2);
    assert_eq!((edges.count(), read(&mut serial, INTERRUPT_ID)), (1, 0xc2));
    write(&mut serial, DATA, b'.');
    assert_eq!(edges.count(), 2);
    assert_eq!(std::fs::read(path).unwrap(), b"hi\n.");
}

#[test]
fn a_single_line_feed_becomes_a_carriage_return() {
    let (mut serial, edges, mut client, _dir) = connected();
    write(&mut serial, INTERRUPT_ENABLE, 1);
    client.write_all(b"\n").unwrap();
    edges.wait(1);
    assert_eq!(read(&mut serial, DATA), b'\r');
    client.write_all(b"a\n").unwrap();
    edges.wait(2);
    assert_eq!([read(&mut serial, DATA), read(&mut serial, DATA)], *b"a\n");
}

#[test]
fn input_beyond_the_fifo_waits_and_none_is_lost() {
    let (mut serial, edges, mut client, _dir) = connected();
    let text: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8).collect();
    client.write_all(&text).unwrap();
    write(&mut serial, INTERRUPT_ENABLE, 1);
    let mut got = Vec::new();
    edges.wait(1);
    while got.len() < text.len() {
        if read(&mut serial, LINE_STATUS) & DATA_READY != 0 {
            got.push(read(&mut serial, DATA));
        } else {
            std::thread::yield_now();
        }
    }
    assert!(got == text);
}

/// As Linux does it: look why the interrupt came, take some bytes, and look again until nothing is pending.
fn interrupt_handler(serial: &mut Serial, at_most: usize) -> Vec<u8> {
    let mut got = Vec::new();
    while read(serial, INTERRUPT_ID) & 1 == 0 {
        for _ in 0..at_most {
            if read(serial, LINE_STATUS) & DATA_READY == 0 {
                break;
            }
            got.push(read(serial, DATA));
        }
    }
    got
}

#[test]
fn a_driver_that_takes_little_per_interrupt_gets_all() {
    let (mut serial, edges) = port(&plan::Stream::Null);
    write(&mut serial, INTERRUPT_ENABLE, 1);
    let text: Vec<u8> = (0..64).collect();
    for round in 1..4 {
        serial.shared.access(|core| core.feed(&text));
        assert_eq!(edges.count(), round);
        assert_eq!(read(&mut serial, INTERRUPT_ID), 0xc4);
        assert_eq!(interrupt_handler(&mut serial, 10), text);
        assert_eq!(read(&mut serial, INTERRUPT_ID), 0xc1);
    }
}

#[test]
fn a_long_paste_arrives_by_interrupts_alone() {
    let (mut serial, edges, mut client, _dir) = connected();
    write(&mut serial, INTERRUPT_ENABLE, 1);
    for length in [100, 250, 270, 300, 310, 800] {
        let text: Vec<u8> = (0..length).map(|i| b'a' + (i % 26) as u8).collect();
        let mut served = edges.count();
        client.write_all(&text).unwrap();
        let mut got = Vec::new();
        while got.len() < text.len() {
            edges.wait(served + 1);
            served = edges.count();
            got.extend(interrupt_handler(&mut serial, 256));
        }
        assert!(got == text, "{length}");
    }
}

#[test]
fn data_that_waits_is_told_when_the_driver_asks_to_be_told() {
    let (mut serial, edges) = port(&plan::Stream::Null);
    serial.shared.access(|core| core.feed(b"ab"));
    assert_eq!((edges.count(), read(&mut serial, INTERRUPT_ID)), (0, 0xc1));
    // The same register holds the divisor's upper half while its latch is open.
    write(&mut serial, LINE_CONTROL, 0x83);
    write(&mut serial, INTERRUPT_ENABLE, 1);
    assert_eq!((edges.count(), read(&mut serial, INTERRUPT_ID)), (0, 0xc1));
    write(&mut serial, LINE_CONTROL, 3);
    write(&mut serial, INTERRUPT_ENABLE, 1);
    assert_eq!((edges.count(), read(&mut serial, INTERRUPT_ID)), (1, 0xc4));
    write(&mut serial, INTERRUPT_ENABLE, 0);
    assert_eq!(read(&mut serial, INTERRUPT_ID), 0xc1);
}

#[test]
fn in_loopback_the_line_is_cut() {
    let (mut serial, edges, mut client, _dir) = connected();
    write(&mut serial, MODEM_CONTROL, 0x10);
    client.write_all(b"typed").unwrap();
    write(&mut serial, DATA, b'x');
    assert_eq!(read(&mut serial, DATA), b'x');
    assert_eq!(read(&mut serial, LINE_STATUS) & DATA_READY, 0);
    (0..70).for_each(|i| write(&mut serial, DATA, i));
    let looped: Vec<u8> = (0..64).map(|_| read(&mut serial, DATA)).collect();
    assert_eq!(looped, (0..64).collect::<Vec<u8>>());
    assert_eq!(read(&mut serial, LINE_STATUS) & DATA_READY, 0);
    write(&mut serial, INTERRUPT_ENABLE, 1);
    write(&mut serial, MODEM_CONTROL, 0);
    edges.wait(1);
    assert_eq!(read(&mut serial, DATA), b't');
}

#[test]
fn input_survives_a_restore_and_interrupts_again() {
    let (old, _) = port(&plan::Stream::Null);
    old.shared.access(|core| {
        core.write(1, 1);
        core.feed(b"typed");
    });
    let (mut new, edges) = port(&plan::Stream::Null);
    new.restore_saved(&old.to_saved().unwrap()).unwrap();
    edges.wait(1);
    let input: Vec<u8> = (0..5).map(|_| read(&mut new, DATA)).collect();
    assert_eq!(input, b"typed");
}

#[test]
fn contract_and_impossible_states() {
    let (mut serial, _) = port(&plan::Stream::Null);
    device::contract::check(&mut serial);
    let saved = serial.to_saved().unwrap();
    for field in ["fifo", "waiting"] {
        let mut broken = saved.clone();
        broken.state[field] = vec![0; 65].into();
        assert!(serial.restore_saved(&broken).is_err());
        assert_eq!(serial.to_saved().unwrap(), saved);
    }
}

#[test]
fn the_guest_is_told_where_it_is() {
    let (serial, _) = port(&plan::Stream::Null);
    let aml = serial.aml();
    let contains = |needle: &[u8]| aml.windows(needle.len()).any(|window| window == needle);
    let [Region { space: Space::Pio, base, len, .. }] = serial.regions()[..] else { panic!() };
    let (low, high) = (base as u8, (base >> 8) as u8);
    assert!(contains(b"COM1") && contains(&[0x47, 1, low, high, low, high, 0, len as u8]));
    assert!(contains(&[0x89, 6, 0, 3, 1, Serial::PIN, 0, 0, 0]), "an edge-triggered interrupt");
}

use super::front::SIZE;
use super::*;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use device::{Persist, Stateful};
use memory::{Bytes, GuestAddress, GuestRam};
use stream::Stream;
use virtio::VirtioDevice;
use virtio::fake::{self, FakeQueue, NEXT, WRITE};

const BUFFERS: u64 = 0x1_0000;
const OUTSIDE: u64 = 0x10_0000;

struct Rig {
    ram: GuestRam,
    rx: FakeQueue,
    tx: FakeQueue,
    front: Front,
}

fn rig(config: &plan::Stream) -> Rig {
    let ram = memory::test_ram(&[(0, 0x4_0000)]);
    let stream = Stream::open(config).unwrap().unwrap();
    let front = Front::new("__console", stream).unwrap();
    let (rx, tx) = (FakeQueue::new(&ram, 0, 16), FakeQueue::new(&ram, 0x4000, 16));
    Rig { ram, rx, tx, front }
}

impl Rig {
    fn start(&mut self, features: u64) -> std::sync::Arc<fake::FakeInterrupt> {
        let (activation, config) = fake::activation(&self.ram, features, &[&self.rx, &self.tx]);
        self.front.start(activation);
        config
    }

    fn stop(&mut self) {
        self.front.stop();
        assert_eq!(
            self.front.stopped(std::time::Instant::now() + std::time::Duration::from_secs(30)).unwrap().len(),
            2
        );
    }

    fn bytes(&self, at: u64, len: u32) -> Vec<u8> {
        let mut data = vec![0; len as usize];
        self.ram.map().read_slice(&mut data, GuestAddress(at)).unwrap();
        data
    }
}

fn on_file() -> (Rig, tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    (rig(&plan::Stream::File(path.clone())), dir, path)
}

/// A console on a pty and the open slave of it.
fn on_pty() -> (Rig, File) {
    let rig = rig(&plan::Stream::Pty);
    let path = rig.front.stream().slave().unwrap().to_owned();
    (rig, File::options().read(true).write(true).open(path).unwrap())
}

#[test]
fn what_it_is() {
    let rig = rig(&plan::Stream::Null);
    let info = rig.front.info();
    assert_eq!((info.device_type, info.features, info.config_len), (3, 1, 12));
    assert_eq!(info.queue_sizes, [256, 256]);
    let mut config = [0xff; 12];
    rig.front.read_config(0, &mut config);
    assert_eq!(config, [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn output_of_all_buffers_reaches_the_stream() {
    let (mut rig, _dir, path) = on_file();
    rig.start(0);
    rig.ram.map().write_slice(b"hello world", GuestAddress(BUFFERS)).unwrap();
    let head = rig.tx.add(&[(BUFFERS, 6, 0), (BUFFERS + 6, 5, 0)]);
    rig.tx.ring();
    assert_eq!(rig.tx.wait_used(), (head.into(), 0));
    assert_eq!(std::fs::read(&path).unwrap(), b"hello world");
    rig.tx.add(&[(BUFFERS, 0x2_0000, 0)]);
    rig.tx.ring();
    rig.tx.wait_used();
    assert_eq!(std::fs::metadata(path).unwrap().len(), 11 + 0x2_0000);
}

#[test]
fn typed_input_fills_buffers_and_waits_for_them() {
    let (mut rig, mut slave) = on_pty();
    rig.start(0);
    slave.write_all(b"first").unwrap();
    let head = rig.rx.add(&[(BUFFERS, 2, WRITE), (BUFFERS + 0x100, 64, WRITE)]);
    rig.rx.ring();
    assert_eq!(rig.rx.wait_used(), (head.into(), 5));
    assert_eq!((rig.bytes(BUFFERS, 2), rig.bytes(BUFFERS + 0x100, 3)), (b"fi".into(), b"rst".into()));
    slave.write_all(b"second").unwrap();
    for (wanted, text) in [(4, &b"seco"[..]), (2, &b"nd"[..])] {
        rig.rx.add(&[(BUFFERS, 4, WRITE)]);
        rig.rx.ring();
        assert_eq!(rig.rx.wait_used().1, wanted);
        assert_eq!(rig.bytes(BUFFERS, wanted), text);
    }
}

#[test]
fn a_pty_hears_the_guest() {
    let (mut rig, mut slave) = on_pty();
    rig.start(0);
    rig.ram.map().write_slice(b"login:", GuestAddress(BUFFERS)).unwrap();
    rig.tx.add(&[(BUFFERS, 6, 0)]);
    rig.tx.ring();
    let mut data = [0; 6];
    slave.read_exact(&mut data).unwrap();
    assert_eq!(&data, b"login:");
}

#[test]
fn input_without_buffers_is_saved_and_restored() {
    let mut old = rig(&plan::Stream::Null);
    old.start(0);
    old.stop();
    Persist::restore(&mut old.front, State { input: b"typed".into() }).unwrap();
    let saved = old.front.to_saved().unwrap();
    let mut new = rig(&plan::Stream::Null);
    new.front.restore_saved(&saved).unwrap();
    new.rx.add(&[(BUFFERS, 64, WRITE)]);
    new.start(0);
    assert_eq!(new.rx.wait_used(), (0, 5));
    assert_eq!(new.bytes(BUFFERS, 5), b"typed");
    new.stop();
    assert_eq!(Persist::save(&new.front), State::default());
    let too_much = State { input: vec![0; 4097] };
    assert!(Persist::restore(&mut new.front, too_much).is_err());
    new.front.restore_saved(&saved).unwrap();
    new.front.reset();
    assert_eq!(Persist::save(&new.front), State::default());
}

fn resize(slave: &File, columns: u16, rows: u16) {
    let size = rustix::termios::Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(slave.as_fd(), size).unwrap();
}

#[test]
fn a_new_size_interrupts_a_driver_that_asked_for_it() {
    let (mut rig, slave) = on_pty();
    let size = |rig: &Rig| {
        let mut config = [0; 4];
        rig.front.read_config(0, &mut config);
        config
    };
    resize(&slave, 80, 25);
    let config = rig.start(SIZE);
    // What it read before it was ready is out of date.
    assert_eq!((size(&rig), config.count()), ([80, 0, 25, 0], 1));
    resize(&slave, 132, 50);
    rig.front.resizer().refresh();
    rig.front.resizer().refresh();
    assert_eq!((size(&rig), config.count()), ([132, 0, 50, 0], 2));
    // While the machine is paused, nobody listens.
    rig.stop();
    resize(&slave, 90, 40);
    rig.front.resizer().refresh();
    let config = rig.start(SIZE);
    assert_eq!((size(&rig), config.count()), ([90, 0, 40, 0], 1));
    rig.stop();
    assert_eq!(rig.start(SIZE).count(), 0, "it has seen this one");
    rig.stop();
    let config = rig.start(0);
    resize(&slave, 100, 30);
    rig.front.resizer().refresh();
    assert_eq!((size(&rig), config.count()), ([100, 0, 30, 0], 0));
}

#[test]
fn hostile_output_breaks_only_the_device() {
    for chain in [
        vec![(OUTSIDE, 1, 0)],
        vec![(u64::MAX - 10, 100, 0)],
        vec![(BUFFERS, 0xffff_ffff, 0)],
        vec![(BUFFERS, 16, 0), (OUTSIDE, 16, 0)],
    ] {
        let (mut rig, _dir, _) = on_file();
        let config = rig.start(0);
        rig.tx.add(&chain);
        rig.tx.ring();
        config.wait(1);
        rig.stop();
    }
}

#[test]
fn chains_that_lead_nowhere_are_given_back() {
    let (mut rig, _dir, path) = on_file();
    rig.start(0);
    // A loop, only writable buffers, an empty buffer, a next beyond the table.
    for chain in [(BUFFERS, 1, NEXT, 0), (BUFFERS, 1, WRITE, 0), (BUFFERS, 0, 0, 0), (BUFFERS, 1, NEXT, 99)] {
        rig.tx.write_descriptor(0, chain);
        rig.tx.offer(0);
        rig.tx.ring();
        assert_eq!(rig.tx.wait_used(), (0, 0));
    }
    assert!(std::fs::read(path).unwrap().len() <= 17);
    rig.stop();
}

#[test]
fn hostile_input_buffers_break_only_the_device() {
    let (mut rig, mut slave) = on_pty();
    let config = rig.start(0);
    rig.rx.add(&[(OUTSIDE, 64, WRITE)]);
    rig.rx.ring();
    slave.write_all(b"x").unwrap();
    config.wait(1);
    rig.stop();
}

#[test]
fn the_contract_holds() {
    crate::tests::holds(
        Front::new("__console", Stream::open(&plan::Stream::Null).unwrap().unwrap()).unwrap(),
    );
}

use super::*;

use std::io::Write;

use memory::{Bytes, GuestAddress, GuestRam};
use virtio::VirtioDevice;
use virtio::fake::{self, FakeQueue, NEXT, WRITE};

const BUFFERS: u64 = 0x1_0000;
const OUTSIDE: u64 = 0x10_0000;

fn rig(src: &Path) -> (GuestRam, FakeQueue, Front, std::sync::Arc<fake::FakeInterrupt>) {
    let ram = memory::test_ram(&[(0, 0x4_0000)]);
    let queue = FakeQueue::new(&ram, 0, 16);
    let mut front = front(&plan::Rng { src: src.into() }, "__rng").unwrap();
    let (activation, config) = fake::activation(&ram, 0, &[&queue]);
    front.start(activation);
    (ram, queue, front, config)
}

#[test]
fn all_buffers_are_filled_in_order() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&(0..100).collect::<Vec<u8>>()).unwrap();
    let (ram, mut queue, _front, _) = rig(file.path());
    queue.add(&[(BUFFERS, 10, WRITE), (BUFFERS + 0x100, 20, WRITE)]);
    queue.ring();
    assert_eq!(queue.wait_used(), (0, 30));
    let mut data = [0; 20];
    ram.map().read_slice(&mut data, GuestAddress(BUFFERS + 0x100)).unwrap();
    assert_eq!(data.to_vec(), (10..30).collect::<Vec<u8>>());
    // The source ends before the buffer does.
    queue.add(&[(BUFFERS, 100, WRITE), (BUFFERS, 100, WRITE)]);
    queue.ring();
    assert_eq!(queue.wait_used().1, 70);
}

#[test]
fn an_immense_buffer_gets_a_bounded_answer() {
    let (_ram, mut queue, _front, _) = rig(Path::new("/dev/urandom"));
    queue.add(&[(BUFFERS, 0x1_0000, WRITE), (BUFFERS, 0x1_0000, WRITE)]);
    queue.ring();
    assert_eq!(queue.wait_used(), (0, 64 << 10));
}

#[test]
fn a_silent_source_gives_nothing_and_stops_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let _writer = File::options().read(true).write(true).open(&path).unwrap();
    let (_ram, mut queue, mut front, _) = rig(&path);
    queue.add(&[(BUFFERS, 16, WRITE)]);
    queue.ring();
    assert_eq!(queue.wait_used(), (0, 0));
    front.stop();
    assert_eq!(
        front.stopped(std::time::Instant::now() + std::time::Duration::from_secs(30)).unwrap().len(),
        1
    );
}

#[test]
fn hostile_chains() {
    let (_ram, mut queue, _front, config) = rig(Path::new("/dev/urandom"));
    // Nothing to write to; a loop; an empty buffer.
    for (chain, given) in
        [((BUFFERS, 8, 0, 0), 0), ((BUFFERS, 8, WRITE | NEXT, 0), 16 * 8), ((BUFFERS, 0, WRITE, 0), 0)]
    {
        queue.write_descriptor(0, chain);
        queue.offer(0);
        queue.ring();
        assert_eq!(queue.wait_used(), (0, given));
    }
    assert_eq!(config.count(), 0);
    queue.write_descriptor(0, (OUTSIDE, 8, WRITE, 0));
    queue.offer(0);
    queue.ring();
    config.wait(1);
}

#[test]
fn a_missing_source_is_named() {
    let error = front(&plan::Rng { src: "/nonexistent/rng".into() }, "__rng").err().unwrap();
    assert!(error.to_string().contains("/nonexistent/rng"));
}

#[test]
fn what_gives_no_bytes_is_no_source() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for path in [dir.path(), &socket, &dir.path().join("missing")] {
        let error = front(&plan::Rng { src: path.into() }, "__rng").err().unwrap();
        assert!(matches!(&error, Error::Source { path: named, .. } if named == path), "{error}");
    }
}

#[test]
fn the_contract_holds() {
    crate::tests::holds(front(&plan::Rng { src: "/dev/zero".into() }, "__rng").unwrap());
}

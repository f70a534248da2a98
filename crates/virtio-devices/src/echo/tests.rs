use super::*;

use std::sync::Arc;

use memory::{Bytes, GuestAddress, GuestRam};
use virtio::VirtioDevice;
use virtio::fake::{self, FakeInterrupt, FakeQueue, NEXT, WRITE};

const SAID: u64 = 0x1_0000;
const HEARD: u64 = 0x2_0000;
const OUTSIDE: u64 = 0x10_0000;

fn rig() -> (GuestRam, FakeQueue, Front, Arc<FakeInterrupt>) {
    let ram = memory::test_ram(&[(0, 0x4_0000)]);
    let queue = FakeQueue::new(&ram, 0, 16);
    let mut front = Front::new("_echo0", &Echo::default()).unwrap();
    let (activation, config) = fake::activation(&ram, 0, &[&queue]);
    front.start(activation);
    (ram, queue, front, config)
}

#[test]
fn what_is_said_is_heard_as_far_as_there_is_room() {
    let (ram, mut queue, _front, _) = rig();
    ram.map().write_slice(b"hello, guest", GuestAddress(SAID)).unwrap();
    for (room, heard) in [(100, 12), (7, 7), (0, 0)] {
        let head = queue.add(&[
            (SAID, 5, 0),
            (SAID + 5, 7, 0),
            (HEARD, room / 2, WRITE),
            (HEARD + 64, room - room / 2, WRITE),
        ]);
        queue.ring();
        assert_eq!(queue.wait_used(), (head.into(), heard));
    }
    let mut text = [0; 12];
    ram.map().read_slice(&mut text, GuestAddress(HEARD)).unwrap();
    assert_eq!(&text, b"hello, guest");
}

#[test]
fn an_immense_chain_gets_a_bounded_answer() {
    let (_ram, mut queue, _front, _) = rig();
    queue.add(&[(SAID, 0x1_0000, 0), (HEARD, 0x1_0000, WRITE)]);
    queue.ring();
    assert_eq!(queue.wait_used(), (0, 4096));
}

#[test]
fn hostile_chains() {
    let (_ram, mut queue, _front, config) = rig();
    // Nothing to read; nothing to write to; a loop.
    for chain in [(HEARD, 8, WRITE, 0), (SAID, 8, 0, 0), (SAID, 8, NEXT, 0)] {
        queue.write_descriptor(0, chain);
        queue.offer(0);
        queue.ring();
        assert_eq!(queue.wait_used(), (0, 0));
    }
    assert_eq!(config.count(), 0);
    queue.write_descriptor(0, (OUTSIDE, 8, 0, 0));
    queue.offer(0);
    queue.ring();
    config.wait(1);
}

#[test]
fn what_it_is() {
    let (_ram, _queue, front, _) = rig();
    assert_eq!((front.info().device_type, front.info().queue_sizes.as_slice()), (63, &[64][..]));
}

#[test]
fn the_contract_holds() {
    crate::tests::holds(Front::new("_echo0", &Echo::default()).unwrap());
}

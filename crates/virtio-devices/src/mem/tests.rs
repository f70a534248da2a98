use super::*;

use std::sync::Arc;

use device::{Persist, RestoreError};
use memory::{Bytes, GuestAddress, GuestRam};
use virtio::VirtioDevice;
use virtio::fake::{self, FakeInterrupt, FakeQueue, WRITE};

const ROOM: Range = (1 << 32, 8 * BLOCK);
const REQUEST: u64 = 0x1_0000;
const RESPONSE: u64 = 0x1_1000;
const MARK: u64 = u64::from_le_bytes(*b"occupied");

const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

const ACK: u16 = 0;
const NACK: u16 = 1;
const ERROR: u16 = 3;

struct Rig {
    ram: GuestRam,
    queue: FakeQueue,
    front: Front,
    config: Arc<FakeInterrupt>,
}

fn new_front(requested: u64) -> Front {
    front(&plan::Mem { requested, node: None }, ROOM, "mem0").unwrap()
}

impl Rig {
    /// A running device that may plug `requested` blocks.
    fn new(requested: u64) -> Self {
        let ram = memory::test_ram_with_room(&[(0, 0x10_0000)], "mem0", ROOM);
        let queue = FakeQueue::new(&ram, 0, 16);
        let mut front = new_front(requested * BLOCK);
        let (activation, config) = fake::activation(&ram, 0, &[&queue]);
        front.start(activation);
        Self { ram, queue, front, config }
    }

    /// Makes a request for blocks from `first` on; the type and the state of the response come out.
    fn request(&mut self, kind: u16, first: u64, blocks: u16) -> (u16, u16) {
        self.request_at(kind, ROOM.0.wrapping_add(first.wrapping_mul(BLOCK)), blocks)
    }

    fn request_at(&mut self, kind: u16, address: u64, blocks: u16) -> (u16, u16) {
        let map = self.ram.map();
        map.write_slice(&[0xee; 24], GuestAddress(REQUEST)).unwrap();
        map.write_obj(kind, GuestAddress(REQUEST)).unwrap();
        map.write_obj(address, GuestAddress(REQUEST + 8)).unwrap();
        map.write_obj(blocks, GuestAddress(REQUEST + 16)).unwrap();
        map.write_slice(&[0xee; 10], GuestAddress(RESPONSE)).unwrap();
        self.queue.add(&[(REQUEST, 24, 0), (RESPONSE, 10, WRITE)]);
        self.queue.ring();
        assert_eq!(self.queue.wait_used().1, 10);
        let read = |at| map.read_obj::<u16>(GuestAddress(at)).unwrap();
        (read(RESPONSE), read(RESPONSE + 8))
    }

    fn plugged(&self) -> u64 {
        self.front.handle().plugged() / BLOCK
    }

    fn at(block: u64) -> GuestAddress {
        GuestAddress(ROOM.0 + block * BLOCK)
    }

    fn mark(&self, block: u64) {
        self.ram.map().write_obj(MARK, Self::at(block)).unwrap();
    }

    fn is_marked(&self, block: u64) -> bool {
        self.ram.map().read_obj::<u64>(Self::at(block)).unwrap() == MARK
    }
}

#[test]
fn blocks_come_and_go_and_unplugged_ones_are_empty() {
    let mut rig = Rig::new(4);
    assert_eq!(rig.request(PLUG, 2, 3), (ACK, 0));
    assert_eq!(rig.plugged(), 3);
    (2..5).for_each(|block| rig.mark(block));
    assert_eq!(rig.request(UNPLUG, 3, 1), (ACK, 0));
    assert_eq!((2..5).map(|block| rig.is_marked(block)).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(rig.plugged(), 2);
    assert_eq!(
        [(2, 1), (3, 1), (2, 3), (0, 8)].map(|(first, len)| rig.request(STATE, first, len).1),
        [0, 1, 2, 2]
    );
    assert_eq!(rig.request(UNPLUG_ALL, 0, 0), (ACK, 0));
    assert_eq!((rig.plugged(), rig.is_marked(2), rig.is_marked(4)), (0, false, false));
    assert_eq!(rig.request(STATE, 0, 8), (ACK, 1));
    assert_eq!(rig.request(PLUG, 0, 4), (ACK, 0));
    assert_eq!(rig.config.count(), 0);
}

#[test]
fn no_more_is_plugged_than_is_wanted() {
    let mut rig = Rig::new(2);
    assert_eq!(rig.request(PLUG, 0, 3), (NACK, 0));
    assert_eq!(rig.request(PLUG, 0, u16::MAX), (NACK, 0));
    assert_eq!(rig.request(PLUG, 0, 2), (ACK, 0));
    assert_eq!(rig.request(PLUG, 2, 1), (NACK, 0));
    rig.front.handle().request(BLOCK);
    assert_eq!((rig.config.count(), rig.plugged()), (1, 2));
    assert_eq!(rig.request(UNPLUG, 0, 1), (ACK, 0));
    assert_eq!(rig.request(PLUG, 0, 1), (NACK, 0));
}

#[test]
fn hostile_requests() {
    let mut rig = Rig::new(8);
    assert_eq!(rig.request(PLUG, 2, 1), (ACK, 0));
    rig.mark(2);
    for kind in [PLUG, UNPLUG, STATE] {
        for (first, blocks) in [(0, 0), (8, 1), (7, 2), (u64::MAX, 1), (u64::MAX / BLOCK, 1)] {
            assert_eq!(rig.request(kind, first, blocks), (ERROR, 0), "{kind} {first} {blocks}");
        }
        for address in [0, REQUEST, ROOM.0 + 1, ROOM.0 + BLOCK / 2, u64::MAX, u64::MAX - BLOCK + 1] {
            assert_eq!(rig.request_at(kind, address, 1), (ERROR, 0), "{kind} {address:#x}");
        }
    }
    // Already so.
    assert_eq!(rig.request(PLUG, 2, 1), (ERROR, 0));
    assert_eq!(rig.request(PLUG, 1, 2), (ERROR, 0));
    assert_eq!(rig.request(UNPLUG, 1, 2), (ERROR, 0));
    assert_eq!(rig.request(UNPLUG, 0, 1), (ERROR, 0));
    assert_eq!(rig.request(4, 2, 1), (ERROR, 0));
    assert_eq!(rig.request(u16::MAX, 2, 1), (ERROR, 0));
    assert_eq!((rig.plugged(), rig.is_marked(2), rig.config.count()), (1, true, 0));
}

#[test]
fn hostile_chains() {
    let short = [(REQUEST, 23, 0), (RESPONSE, 10, WRITE)];
    let tight = [(REQUEST, 24, 0), (RESPONSE, 9, WRITE)];
    let turned = [(REQUEST, 24, WRITE), (RESPONSE, 10, 0)];
    let outside = [(0x20_0000, 24, 0), (RESPONSE, 10, WRITE)];
    let lost = [(REQUEST, 24, 0), (0x20_0000, 10, WRITE)];
    let alone = [(REQUEST, 24, 0)];
    for chain in [&short[..], &tight, &turned, &outside, &lost, &alone] {
        let mut rig = Rig::new(1);
        rig.queue.add(chain);
        rig.queue.ring();
        rig.config.wait(1);
        assert_eq!(rig.plugged(), 0);
    }
}

#[test]
fn the_configuration_tells_sizes_and_places() {
    let mut rig = Rig::new(3);
    rig.request(PLUG, 0, 1);
    let mut config = [0xff; 56];
    rig.front.read_config(0, &mut config);
    let fields: Vec<u64> = config.as_chunks().0.iter().map(|field| u64::from_le_bytes(*field)).collect();
    assert_eq!(fields, [BLOCK, 0, ROOM.0, ROOM.1, ROOM.1, BLOCK, 3 * BLOCK]);
    let mut part = [0; 4];
    rig.front.read_config(20, &mut part);
    assert_eq!(u32::from_le_bytes(part), (ROOM.0 >> 32) as u32);
    assert_eq!(rig.front.info().features, 0);
    let placed = front(&plan::Mem { requested: 0, node: Some(3) }, ROOM, "mem0").unwrap();
    let mut node = [0xff; 8];
    placed.read_config(8, &mut node);
    assert_eq!((placed.info().features, u64::from_le_bytes(node)), (front::ACPI_PXM, 3));
}

#[test]
fn what_is_plugged_outlives_resets_and_snapshots() {
    let mut rig = Rig::new(5);
    rig.request(PLUG, 1, 2);
    rig.request(PLUG, 6, 2);
    rig.front.stop();
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(30);
    assert_eq!(rig.front.stopped(patience).unwrap().len(), 1);
    rig.front.reset();
    let state = rig.front.save();
    assert_eq!(state, State { requested: 5 * BLOCK, plugged: vec![(1, 2), (6, 2)] });
    let mut other = new_front(0);
    other.restore(state.clone()).unwrap();
    assert_eq!((other.save(), other.handle().plugged()), (state.clone(), 4 * BLOCK));
    for wrong in [
        State { requested: 9 * BLOCK, ..state.clone() },
        State { requested: 1, ..state.clone() },
        State { plugged: vec![(7, 2)], ..state.clone() },
        State { plugged: vec![(1, usize::MAX)], ..state.clone() },
    ] {
        assert!(matches!(other.restore(wrong), Err(RestoreError::Value { .. })));
        assert_eq!(other.save(), state);
    }
}

#[test]
fn a_zone_without_room_is_named() {
    let ram = memory::test_ram(&[(0, 0x1000)]);
    let events = device::Events::new(Arc::new(device::NoSink)).unwrap();
    let context = BuildContext {
        id: "mem0",
        ram: &ram.dma(),
        events: &events,
        descriptors: &[],
        stream: None,
        boot_bar: BarKind::Memory64,
    };
    let error = build(&plan::Mem { requested: 0, node: None }, &context).err().unwrap();
    assert!(matches!(&error, Error::Room { id } if id == "mem0"), "{error}");
}

#[test]
fn the_contract_holds() {
    crate::tests::holds(new_front(BLOCK));
}

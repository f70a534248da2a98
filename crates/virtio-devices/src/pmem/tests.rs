use super::*;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use device::{Persist, RestoreError};
use memory::{Bytes, Contents, GuestAddress, GuestRam};
use virtio::VirtioDevice;
use virtio::fake::{self, FakeInterrupt, FakeQueue, NEXT, WRITE};

const REQUEST: u64 = 0x1_0000;
const ANSWER: u64 = 0x2_0000;
const OUTSIDE: u64 = 0x10_0000;
const SIZE: u64 = 2 * Pmem::UNIT;

/// A file of `size` bytes, none of them on the disk.
fn file(size: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(size).unwrap();
    file
}

fn plan(path: &Path) -> Pmem {
    Pmem { file: path.into(), size: None, discard_writes: false }
}

/// A driver beside a device.
struct Rig {
    ram: GuestRam,
    queue: FakeQueue,
    _front: Front,
    config: Arc<FakeInterrupt>,
}

impl Rig {
    fn new(mut front: Front) -> Self {
        let ram = memory::test_ram(&[(0, 0x4_0000)]);
        let queue = FakeQueue::new(&ram, 0, 16);
        let (activation, config) = fake::activation(&ram, 0, &[&queue]);
        front.start(activation);
        Self { ram, queue, _front: front, config }
    }

    /// On a file of its own.
    fn on_a_file() -> Self {
        Self::new(front(&plan(file(SIZE).path()), "_pmem0").unwrap())
    }

    /// Asks for `kind` and tells the answer.
    fn ask(&mut self, kind: u32) -> u32 {
        self.put(kind);
        self.queue.add(&[(REQUEST, 4, 0), (ANSWER, 4, WRITE)]);
        self.queue.ring();
        assert_eq!(self.queue.wait_used().1, 4);
        self.answer()
    }

    fn put(&self, kind: u32) {
        self.ram.map().write_obj(kind.to_le(), GuestAddress(REQUEST)).unwrap();
        self.ram.map().write_obj(u32::MAX, GuestAddress(ANSWER)).unwrap();
    }

    fn answer(&self) -> u32 {
        u32::from_le(self.ram.map().read_obj(GuestAddress(ANSWER)).unwrap())
    }
}

#[test]
fn a_flush_is_answered_and_nothing_else_is_known() {
    let mut rig = Rig::on_a_file();
    for (kind, answer) in [(0, 0), (1, 1), (0, 0), (u32::MAX, 1)] {
        assert_eq!(rig.ask(kind), answer, "{kind}");
    }
    assert_eq!(rig.config.count(), 0);
}

#[test]
fn requests_that_come_together_are_answered_together() {
    let mut rig = Rig::on_a_file();
    rig.put(0);
    let heads: Vec<u32> =
        (0..8).map(|_| rig.queue.add(&[(REQUEST, 4, 0), (ANSWER, 4, WRITE)]).into()).collect();
    rig.queue.ring();
    let answers: Vec<_> = heads.iter().map(|_| rig.queue.wait_used()).collect();
    assert_eq!(answers, heads.iter().map(|head| (*head, 4)).collect::<Vec<_>>());
}

#[test]
fn a_file_that_cannot_be_flushed_is_told_of() {
    let (_reader, writer) = io::pipe().unwrap();
    let memory = memory::map("test", Contents::Zeroes, SIZE, 4096).unwrap();
    let backing = Backing { memory, file: Some(File::from(std::os::fd::OwnedFd::from(writer))) };
    let mut rig = Rig::new(Front::new("_pmem0", backing).unwrap());
    assert_eq!((rig.ask(0), rig.ask(0)), (1, 1));
}

#[test]
fn where_nothing_is_kept_there_is_nothing_to_flush() {
    let file = file(SIZE);
    let discarding = Pmem { discard_writes: true, ..plan(file.path()) };
    assert!(Backing::open(&discarding).unwrap().file.is_none());
    assert_eq!(Rig::new(front(&discarding, "_pmem0").unwrap()).ask(0), 0);
}

/// How the kernel has mapped what lies at `path`: once, `s`hared or `p`rivate.
fn sharing(path: &Path) -> Option<char> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.contains(path.to_str().unwrap()))?;
    line.split(' ').nth(1)?.chars().last()
}

#[test]
fn the_guest_gets_the_file_or_a_copy() {
    let file = file(SIZE);
    for (discard_writes, expected) in [(false, 's'), (true, 'p')] {
        let backing = Backing::open(&Pmem { discard_writes, ..plan(file.path()) }).unwrap();
        assert_eq!(backing.memory.size() as u64, SIZE);
        assert_eq!(sharing(file.path()), Some(expected));
        drop(backing);
        assert_eq!(sharing(file.path()), None);
    }
    // A part of it, and several times.
    let part = Pmem { size: Some(Pmem::UNIT), ..plan(file.path()) };
    let (first, second) = (Backing::open(&part).unwrap(), Backing::open(&part).unwrap());
    assert_eq!((first.memory.size(), second.memory.size()), (2 << 20, 2 << 20));
}

#[test]
fn a_directory_gets_a_file_without_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let sized = Pmem { size: Some(SIZE), ..plan(dir.path()) };
    let backing = Backing::open(&sized).unwrap();
    assert_eq!(backing.file.as_ref().unwrap().metadata().unwrap().len(), SIZE);
    assert_eq!(sharing(dir.path()), Some('s'));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let discarding = Backing::open(&Pmem { discard_writes: true, ..sized }).unwrap();
    assert!(discarding.file.is_none() && discarding.memory.size() as u64 == SIZE);
    let error = front(&plan(dir.path()), "_pmem0").err().unwrap();
    assert!(
        error.to_string().starts_with("Trying to use a directory for pmem but no size specified"),
        "{error}"
    );
}

#[test]
fn impossible_sizes() {
    let (odd, empty, small) = (file(SIZE + 512), file(0), file(Pmem::UNIT));
    for pmem in [plan(odd.path()), plan(empty.path()), Pmem { size: Some(4096), ..plan(small.path()) }] {
        let error = front(&pmem, "_pmem0").err().unwrap();
        assert!(
            error.to_string().starts_with("Trying to use a size that is not multiple of 2MiB"),
            "{error}"
        );
    }
    let beyond = Pmem { size: Some(SIZE), ..plan(small.path()) };
    let error = front(&beyond, "_pmem0").err().unwrap();
    assert!(matches!(error, Error::TooShort { wanted: SIZE, found: Pmem::UNIT, .. }), "{error}");
    assert_eq!(small.as_file().metadata().unwrap().len(), Pmem::UNIT, "it is not grown");
}

#[test]
fn what_is_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for path in [Path::new("/dev/zero"), &socket] {
        let error = front(&plan(path), "_pmem0").err().unwrap();
        assert!(matches!(&error, Error::Type { path: named } if named == path), "{error}");
    }
    let error = front(&plan(&dir.path().join("missing")), "_pmem0").err().unwrap();
    assert!(matches!(&error, Error::Open { .. }) && error.to_string().contains("missing"), "{error}");
}

#[test]
fn the_registers_tell_where_it_lies() {
    let mut front = front(&plan(file(SIZE).path()), "_pmem0").unwrap();
    front.put_memory(0x12_3460_0000);
    let mut registers = [0; 16];
    front.read_config(0, &mut registers);
    let expected = [0x12_3460_0000u64.to_le_bytes(), SIZE.to_le_bytes()].concat();
    assert_eq!(registers.as_slice(), expected);
    let mut some = [0; 5];
    front.read_config(6, &mut some);
    assert_eq!(some, expected[6..11]);
    assert_eq!((front.info().device_type, front.info().features), (27, 0));
}

#[test]
fn a_state_of_another_place_or_size_is_refused() {
    let mut front = front(&plan(file(SIZE).path()), "_pmem0").unwrap();
    front.put_memory(1 << 40);
    let own = front.save();
    front.restore(own).unwrap();
    for (state, refused) in
        [(State { start: 0, ..own }, "start"), (State { size: Pmem::UNIT, ..own }, "size")]
    {
        let error = front.restore(state).unwrap_err();
        assert!(matches!(error, RestoreError::Value { field, .. } if field == refused), "{error}");
    }
    assert_eq!(front.save(), own);
}

#[test]
fn chains_of_any_shape() {
    let mut rig = Rig::on_a_file();
    rig.put(0);
    // In pieces, some of them empty.
    rig.queue.add(&[
        (REQUEST, 1, 0),
        (REQUEST, 0, 0),
        (REQUEST + 1, 3, 0),
        (ANSWER, 2, WRITE),
        (ANSWER + 2, 100, WRITE),
    ]);
    rig.queue.ring();
    assert_eq!((rig.queue.wait_used().1, rig.answer()), (4, 0));
}

#[test]
fn hostile_chains() {
    let mut rig = Rig::on_a_file();
    rig.put(0);
    // No answer wanted; nothing asked; too little of either; a loop.
    let chains: [&[fake::Descriptor]; 5] = [
        &[(REQUEST, 4, 0, 0)],
        &[(ANSWER, 4, WRITE, 0)],
        &[(REQUEST, 3, NEXT, 1), (ANSWER, 4, WRITE, 0)],
        &[(REQUEST, 4, NEXT, 1), (ANSWER, 3, WRITE, 0)],
        &[(REQUEST, 4, NEXT, 0)],
    ];
    for chain in chains {
        (0..).zip(chain).for_each(|(index, descriptor)| rig.queue.write_descriptor(index, *descriptor));
        rig.queue.offer(0);
        rig.queue.ring();
        assert_eq!((rig.queue.wait_used(), rig.answer()), ((0, 0), u32::MAX), "{chain:?}");
    }
    assert_eq!(rig.config.count(), 0);
    for (index, descriptor) in [(0, (REQUEST, 4, NEXT, 1)), (1, (OUTSIDE, 4, WRITE, 0))] {
        rig.queue.write_descriptor(index, descriptor);
    }
    rig.queue.offer(0);
    rig.queue.ring();
    rig.config.wait(1);
}

#[test]
fn a_request_outside_of_ram_breaks_the_device() {
    let mut rig = Rig::on_a_file();
    rig.queue.add(&[(OUTSIDE, 4, 0), (ANSWER, 4, WRITE)]);
    rig.queue.ring();
    rig.config.wait(1);
}

#[test]
fn the_contract_holds() {
    crate::tests::holds(front(&plan(file(SIZE).path()), "_pmem0").unwrap());
}

//! What a driver writes into RAM for each virtio device: rings, descriptors and requests. The first byte chooses the device, the second
//! whether the driver goes wild, and the others fill RAM, in rounds that each end with a bell.
//!
//! Whatever is in there: the device answers, ignores it, or breaks (DEVICE_NEEDS_RESET). It always stops, and it writes to no place
//! that the driver has not given it. A wild driver lets its buffers lie on its own rings, so that nobody can say what it has given.
//!
//! ```text
//!  0x00000  rings of queue 0: descriptors, +0x1000 available, +0x2000 used, +0x3000 guard     0x04000 queue 1     0x08000 queue 2
//!  0x0c000  tables of indirect descriptors       0x10000  buffers to read       0x20000  buffers to write     0x30000  guard
//! ```

use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use host::{ControlOperation, Epoll, EpollEvent, EventFd, EventSet};
use memory::{Bytes as _, GuestAddress};

use crate::bytes::Bytes;
use crate::driver::{NEEDS_RESET, Rings};
use crate::rig::{GUEST_CID, Host, RAM_LEN, Rig, SERVED_PORT, wait_until, with_rig};

const QUEUES: u16 = 3;
const RINGS_LEN: u64 = 0x4000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const GUARD: u64 = 0x3000;
const TABLES: u64 = 0xc000;
const TABLES_END: u64 = 0x1_0000;
const READABLE: u64 = 0x1_0000;
const WRITABLE: u64 = 0x2_0000;
/// Bytes of either kind of buffers. RAM's two regions meet where the readable ones end and the writable ones begin.
const BUFFERS_LEN: u64 = 0x1_0000;
/// What lies where nobody may write.
const GUARD_BYTE: u8 = 0xa5;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// Bytes of a descriptor.
const DESCRIPTOR: u64 = 16;
/// The queue sizes of devices here are no larger.
const SIZE: u16 = 8;
const ROUNDS: usize = 4;
/// Bytes of a used ring: flags, index, entries, and the index from which on the device wants bells.
const USED_LEN: u64 = 4 + 8 * SIZE as u64 + 2;
/// Features of the transport that change how rings are read.
const RING_FEATURES: u64 = 3 << 28;

/// Lengths of buffers: headers, sectors, and what no buffer has.
const LENGTHS: [u32; 12] = [16, 1, 512, 12, 4096, 0, 2, 60, 1024, 0x1_0000, 0x10_0000, u32::MAX];

pub(crate) fn run(data: &[u8]) {
    answers(data);
}

/// How many chains the device gives back.
fn answers(data: &[u8]) -> usize {
    let mut bytes = Bytes(data);
    let mut answers = 0;
    with_rig(bytes.byte(), |rig| {
        let choices = bytes.byte();
        let features = match choices >> 1 & 3 {
            0 => 0,
            1 => RING_FEATURES,
            _ => u64::MAX,
        };
        let mut driver = Driver::start(rig, features, choices & 1 != 0);
        for _ in 0..ROUNDS {
            driver.round(&mut bytes);
            if bytes.is_empty() {
                break;
            }
        }
        driver.rig.round_trip();
        answers = driver.answers();
    });
    answers
}

struct Driver<'a> {
    rig: &'a mut Rig,
    is_wild: bool,
    queues: u16,
    /// The available index of each queue.
    available: [u16; QUEUES as usize],
    /// RAM as the driver has written it.
    written: Vec<u8>,
    bells: Epoll,
}

impl<'a> Driver<'a> {
    fn start(rig: &'a mut Rig, features: u64, is_wild: bool) -> Self {
        rig.negotiate(features);
        let queues = rig.queue_count().min(QUEUES);
        for index in 0..queues {
            let base = u64::from(index) * RINGS_LEN;
            let (descriptors, available, used) = (base, base + AVAILABLE, base + USED);
            rig.lay_out(index, &Rings { size: SIZE, descriptors, available, used });
        }
        rig.go();
        let written = vec![0; RAM_LEN as usize];
        let bells = watch(rig.bells().get(..queues.into()).unwrap());
        let mut driver = Self { rig, is_wild, queues, available: [0; QUEUES as usize], written, bells };
        for page in
            (0..RAM_LEN).step_by(0x1000).filter(|page| *page >= TABLES_END || page % RINGS_LEN == GUARD)
        {
            driver.put(page, &[GUARD_BYTE; 0x1000]);
        }
        driver
    }

    /// Writes something for each queue, rings the bells, and waits until the device has done what it will do.
    fn round(&mut self, bytes: &mut Bytes<'_>) {
        for queue in 0..self.queues {
            self.fill(queue, bytes);
        }
        self.feed(bytes);
        for queue in 0..self.queues {
            self.rig.kick(queue);
        }
        let is_unheard = || self.bells.wait(0, &mut [EpollEvent::default()]).is_ok_and(|ready| ready > 0);
        wait_until("the bells are heard", || self.rig.status() & NEEDS_RESET != 0 || !is_unheard());
        if bytes.one_in(4) {
            self.rig.round_trip();
        } else {
            self.rig.hold();
        }
        self.check_guards();
        self.rig.device().resume();
    }

    fn fill(&mut self, queue: u16, bytes: &mut Bytes<'_>) {
        let base = u64::from(queue) * RINGS_LEN;
        let descriptors = bytes.below(usize::from(SIZE) + 1) as u64;
        for index in 0..descriptors {
            self.write_descriptor(base + index * DESCRIPTOR, bytes, true);
        }
        let heads = bytes.below(usize::from(SIZE) + 1) as u16;
        for _ in 0..heads {
            let index = &mut self.available[usize::from(queue)];
            let slot = u64::from(*index % SIZE);
            *index = index.wrapping_add(1);
            let head = u16::from(bytes.byte() % if bytes.one_in(16) { u8::MAX } else { SIZE as u8 });
            self.put(base + AVAILABLE + 4 + slot * 2, &head.to_le_bytes());
        }
        if bytes.one_in(16) {
            self.available[usize::from(queue)] = bytes.number() as u16;
        }
        let (flags, index) = (u16::from(bytes.one_in(4)), self.available[usize::from(queue)]);
        self.put(base + AVAILABLE, &flags.to_le_bytes());
        self.put(base + AVAILABLE + 2, &index.to_le_bytes());
        if bytes.one_in(4) {
            // The index from which on the device wants to be told.
            let wanted = bytes.number() as u16;
            self.put(base + AVAILABLE + 4 + u64::from(SIZE) * 2, &wanted.to_le_bytes());
        }
    }

    /// `may_point`: it may be a table of others.
    fn write_descriptor(&mut self, at: u64, bytes: &mut Bytes<'_>, may_point: bool) {
        let choice = bytes.byte();
        let (mut flags, next) = (u16::from(choice & 1) * NEXT, u16::from(bytes.byte() % SIZE as u8));
        let mut len = *bytes.one_of(&LENGTHS);
        let mut address = match choice >> 1 & 7 {
            0..=2 => READABLE + self.fill_readable(bytes),
            3..=5 => {
                flags |= WRITE;
                WRITABLE + u64::from(bytes.byte()) * 64
            }
            6 if may_point => {
                flags |= INDIRECT;
                self.write_table(&mut len, bytes)
            }
            // Beyond RAM, on its end, or around the end of all addresses.
            _ => {
                flags |= u16::from(choice >> 3 & 2);
                *bytes.one_of(&[RAM_LEN, u64::MAX - 7, 1 << 40])
            }
        };
        if self.is_wild {
            flags ^= bytes.number() as u16 & (NEXT | WRITE | INDIRECT);
            address = if bytes.one_in(2) { bytes.number() % (RAM_LEN + 0x1000) } else { address };
        } else if flags & WRITE != 0 && address < RAM_LEN {
            len = len.min((WRITABLE + BUFFERS_LEN - address) as u32);
        }
        self.put(at, &address.to_le_bytes());
        self.put(at + 8, &len.to_le_bytes());
        self.put(at + 12, &flags.to_le_bytes());
        self.put(at + 14, &next.to_le_bytes());
    }

    /// Writes a table of descriptors somewhere and answers where.
    fn write_table(&mut self, len: &mut u32, bytes: &mut Bytes<'_>) -> u64 {
        let entries = bytes.below(SIZE.into()) as u64;
        let at = TABLES + u64::from(bytes.byte()) * DESCRIPTOR;
        for index in 0..entries {
            self.write_descriptor(at + index * DESCRIPTOR, bytes, false);
        }
        if !bytes.one_in(4) {
            *len = (entries * DESCRIPTOR) as u32;
        }
        // Behind the table lie others, which are no wilder.
        *len = (*len).min((TABLES_END - at) as u32);
        at
    }

    /// Writes the beginning of a request somewhere and answers where, from the first readable byte on.
    fn fill_readable(&mut self, bytes: &mut Bytes<'_>) -> u64 {
        let offset = u64::from(bytes.byte()) * 64;
        let request = match bytes.below(4) {
            _ if matches!(self.rig.host, Host::Vsock(_)) => vsock_packet(bytes),
            // A block request: type, reserved, sector.
            0 => {
                let (kind, sector) = (u32::from(bytes.byte() % 20), u64::from(bytes.byte()));
                [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
            }
            // A range to discard or to zero.
            1 => {
                let (sector, count) = (u64::from(bytes.byte()), u32::from(bytes.byte()));
                [&sector.to_le_bytes()[..], &count.to_le_bytes(), &[bytes.byte() & 3, 0, 0, 0]].concat()
            }
            2 => bytes.take(16),
            _ => return offset,
        };
        self.put(READABLE + offset, &request);
        offset
    }

    /// Gives the device something from its host's side.
    fn feed(&mut self, bytes: &mut Bytes<'_>) {
        if !bytes.one_in(4) {
            return;
        }
        let len = usize::from(bytes.byte()) * 8;
        // What the device does not want to have yet is lost.
        match &mut self.rig.host {
            Host::Net(socket) => drop(socket.send(&vec![0; len])),
            Host::Console(client, _) => {
                drop(client.write(&vec![b'x'; len]));
                self.rig.is_spent = true;
            }
            Host::Vsock(host) => host.act(bytes),
            Host::Disk(_) | Host::ReadOnlyDisk(_) | Host::TakesMemory | Host::Nothing => {}
        }
    }

    fn put(&mut self, at: u64, data: &[u8]) {
        self.rig.ram.map().write_slice(data, GuestAddress(at)).unwrap();
        let start = usize::try_from(at).unwrap();
        self.written[start..start + data.len()].copy_from_slice(data);
    }

    fn answers(&self) -> usize {
        let used = |queue| {
            let at = GuestAddress(u64::from(queue) * RINGS_LEN + USED + 2);
            usize::from(self.rig.ram.map().read_obj::<u16>(at).unwrap())
        };
        (0..self.queues).map(used).sum()
    }

    /// All that a device may write to is its used rings and the writable buffers.
    fn check_guards(&self) {
        if self.is_wild || matches!(self.rig.host, Host::TakesMemory) {
            return;
        }
        let used = (0..u64::from(QUEUES)).map(|queue| queue * RINGS_LEN + USED);
        let mut start = 0;
        for (end, next) in
            used.map(|at| (at, at + USED_LEN)).chain([(WRITABLE, WRITABLE + BUFFERS_LEN), (RAM_LEN, RAM_LEN)])
        {
            let written = &self.written[start as usize..end as usize];
            let mut found = vec![0; written.len()];
            self.rig.ram.map().read_slice(&mut found, GuestAddress(start)).unwrap();
            assert!(written == found, "from {start:#x} to {end:#x} the device wrote where it may not");
            start = next;
        }
    }
}

/// A header of the guest's, nearly right, and what may be its bytes.
fn vsock_packet(bytes: &mut Bytes<'_>) -> Vec<u8> {
    /// Ports of connections that the host has asked for begin here.
    const FIRST: u32 = 1 << 30;
    let cid = u64::from(if bytes.one_in(16) { bytes.byte().into() } else { GUEST_CID });
    let host_cid = if bytes.one_in(16) { bytes.number() } else { 2 };
    let (guest_port, host_port) =
        (bytes.below(4) as u32, *bytes.one_of(&[SERVED_PORT, FIRST, FIRST + 1, 99]));
    let len = *bytes.one_of(&[0u32, 16, 4, 1 << 16, u32::MAX]);
    let kind = u16::from(!bytes.one_in(16));
    let op = u16::from(bytes.byte() % 10);
    let (flags, buf_alloc, fwd_cnt) =
        (u32::from(bytes.byte()), bytes.number() as u32, u32::from(bytes.byte()));
    [
        &cid.to_le_bytes()[..],
        &host_cid.to_le_bytes(),
        &guest_port.to_le_bytes(),
        &host_port.to_le_bytes(),
        &len.to_le_bytes(),
        &kind.to_le_bytes(),
        &op.to_le_bytes(),
        &flags.to_le_bytes(),
        &buf_alloc.to_le_bytes(),
        &fwd_cnt.to_le_bytes(),
        &[b'y'; 16],
    ]
    .concat()
}

/// Watches the bells that the device has not heard yet: reading one would be hearing it.
fn watch(bells: &[Arc<EventFd>]) -> Epoll {
    let epoll = Epoll::new().unwrap();
    for bell in bells {
        epoll.ctl(ControlOperation::Add, bell.as_raw_fd(), EpollEvent::new(EventSet::IN, 0)).unwrap();
    }
    epoll
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A corpus without answers would test little.
    #[test]
    fn each_device_answers() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/virtqueues");
        for (name, least) in [
            ("disk0-read", 2),
            ("disk0-indirect", 1),
            ("disk1-write", 2),
            ("disk2-id", 2),
            ("net-traffic", 4),
            ("net-ctl-mq", 2),
            ("console-both", 2),
            ("rng", 3),
            ("watchdog", 3),
            ("pmem", 5),
            ("balloon", 6),
            ("mem", 4),
            ("vsock-guest", 9),
            ("vsock-host", 3),
            ("vsock-refused", 7),
        ] {
            let data = std::fs::read(format!("{dir}/{name}")).unwrap();
            let answers = answers(&data);
            assert!(answers >= least, "{name}: {answers} answers");
        }
    }
}

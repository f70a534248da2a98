//! Virtio devices to throw things at, each with the host's side it needs and guest RAM of its own.
//!
//! Building one costs threads and files, so each fuzzing thread keeps those it has built; a reset makes them like new, which is checked.

use std::cell::RefCell;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use std::sync::{Arc, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use config::{ImageType, MacAddr, Pmem, plan};
use device::{Access, Device, Events, NoSink, Saved, Slot};
use memory::{Bytes as _, GuestAddress, GuestRam, test_ram_with_room};
use pci::{Address, BarKind, BuildContext, Built, FakeSource, Place, REGION_CONFIG};
use stream::Stream;
use tempfile::{NamedTempFile, TempDir};
use virtio_devices::{balloon, blk, console, mem, net, pmem, rng, vsock, watchdog};

use crate::bytes::Bytes;

/// Bytes of RAM, from address 0, in two regions that meet at half of it.
pub(crate) const RAM_LEN: u64 = 0x4_0000;
/// Where memory can be plugged.
const ROOM: (u64, u64) = (1 << 32, 128 << 20);
/// What takes longer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a disk.
const DISK_LEN: usize = 64 << 10;
/// What a disk is full of in the beginning.
const DISK_BYTE: u8 = 0x11;
const BAR: u64 = 0xc000_0000;
/// Where a device's own memory is said to lie.
const MEMORY: u64 = 1 << 40;
/// The vsock device's guest.
pub(crate) const GUEST_CID: u32 = 3;
/// The vsock port at which a program of the host's listens.
pub(crate) const SERVED_PORT: u32 = 1;

/// The host's side of a device.
pub(crate) enum Host {
    Disk(NamedTempFile),
    /// A disk that nothing may change.
    ReadOnlyDisk(NamedTempFile),
    Net(UnixDatagram),
    /// The other end of the stream, and the directory its socket lies in.
    Console(UnixStream, #[allow(dead_code, reason = "removes the socket when dropped")] TempDir),
    /// The guest may give it any of its memory, which is empty then.
    TakesMemory,
    Vsock(VsockHost),
    Nothing,
}

/// Clients and a program of a vsock device.
pub(crate) struct VsockHost {
    /// Where its socket lies, and the program's.
    dir: TempDir,
    /// Listens on port [`SERVED_PORT`].
    program: UnixListener,
    /// Connections that are open.
    streams: Vec<UnixStream>,
}

impl VsockHost {
    /// More than a few teach nothing.
    const MAX_STREAMS: usize = 8;

    /// Does something that clients and programs do.
    pub(crate) fn act(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.below(4) {
            0 if self.streams.len() < Self::MAX_STREAMS => {
                let mut client = UnixStream::connect(self.dir.path().join("vsock")).unwrap();
                client.set_nonblocking(true).unwrap();
                // One that was refused at once is gone.
                let _ = write!(client, "CONNECT {}\nhello", bytes.below(4));
                self.streams.push(client);
            }
            1 => {
                for (stream, _) in std::iter::from_fn(|| self.program.accept().ok()) {
                    stream.set_nonblocking(true).unwrap();
                    self.streams.push(stream);
                }
            }
            2 => drop(self.streams.pop()),
            _ => {
                let len = usize::from(bytes.byte()) * 8;
                for stream in &mut self.streams {
                    let _ = stream.read(&mut [0; 4096]);
                    let _ = stream.write(&vec![b'x'; len]);
                }
            }
        }
    }

    fn clear(&mut self) {
        self.streams.clear();
        while self.program.accept().is_ok() {}
    }
}

/// A device in its slot.
pub(crate) struct Rig {
    pub(crate) slot: Slot,
    pub(crate) ram: GuestRam,
    pub(crate) host: Host,
    /// Its state as it was built.
    pub(crate) fresh: Saved,
    /// Something of this run may be left in it: the next one gets another.
    pub(crate) is_spent: bool,
}

pub(crate) type Build = fn(&BuildContext<'_>) -> (Built, Host);

/// One device of each kind, and disks of all ways to serve them.
pub(crate) const KINDS: &[(&str, Build)] = &[
    ("_disk0", |context| disk(context, |plan| plan.num_queues = 2)),
    ("_disk1", |context| disk(context, |plan| (plan.io_uring, plan.queue_size) = (false, 16))),
    ("_disk2", |context| disk(context, |plan| (plan.readonly, plan.queue_size) = (true, 16))),
    ("_net0", |context| {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let plan = plan::Net { queue_size: 16, ..plan::Net::new(MacAddr([2, 0, 0, 0, 0, 1])) };
        (net::fake::build(&plan, vec![ours], context).unwrap(), Host::Net(theirs))
    }),
    ("__console", |context| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console");
        let stream = Stream::open(&plan::Stream::Socket(path.clone())).unwrap().unwrap();
        let client = UnixStream::connect(&path).unwrap();
        client.set_nonblocking(true).unwrap();
        let plan = plan::Console { stream: plan::Stream::Socket(path) };
        let context = BuildContext { stream: Some(&stream), ..*context };
        (console::build(&plan, &context).unwrap(), Host::Console(client, dir))
    }),
    ("__rng", |context| {
        (rng::build(&plan::Rng { src: "/dev/zero".into() }, context).unwrap(), Host::Nothing)
    }),
    ("__watchdog", |context| (watchdog::build(&plan::Watchdog, context).unwrap(), Host::Nothing)),
    ("_pmem0", |context| {
        let file = NamedTempFile::new().unwrap();
        file.as_file().set_len(Pmem::UNIT).unwrap();
        let plan = Pmem { file: file.path().into(), size: None, discard_writes: false };
        (pmem::build(&plan, context).unwrap(), Host::Nothing)
    }),
    ("__balloon", |context| {
        let plan = plan::Balloon { size: 0, deflate_on_oom: true, free_page_reporting: true };
        (balloon::build(&plan, context).unwrap(), Host::TakesMemory)
    }),
    ("mem0", |context| {
        let plan = plan::Mem { requested: ROOM.1, node: Some(1) };
        (mem::build(&plan, context).unwrap(), Host::Nothing)
    }),
    ("_vsock0", |context| {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("vsock");
        let program = UnixListener::bind(format!("{}_{SERVED_PORT}", socket.display())).unwrap();
        program.set_nonblocking(true).unwrap();
        let built = vsock::build(&plan::Vsock { cid: GUEST_CID, socket }, context).unwrap();
        (built, Host::Vsock(VsockHost { dir, program, streams: Vec::new() }))
    }),
];

fn disk(context: &BuildContext<'_>, change: impl FnOnce(&mut plan::Disk)) -> (Built, Host) {
    let file = NamedTempFile::new().unwrap();
    fill(&file);
    let mut plan = plan::Disk { image_type: ImageType::Raw, ..plan::Disk::new(file.path()) };
    plan.serial = Some("fuzz".into());
    change(&mut plan);
    let host = if plan.readonly { Host::ReadOnlyDisk } else { Host::Disk };
    (blk::build(&plan, context).unwrap(), host(file))
}

fn fill(file: &NamedTempFile) {
    file.as_file().write_all_at(&[DISK_BYTE; DISK_LEN], 0).unwrap();
}

thread_local! {
    static BUILT: RefCell<Vec<Option<Rig>>> = RefCell::new(KINDS.iter().map(|_| None).collect());
}

/// Runs `test` with the device that `choice` stands for, as it was built, over RAM full of zeroes. In the end the device must hold still
/// and a reset must bring it back to its beginning.
pub(crate) fn with_rig(choice: u8, test: impl FnOnce(&mut Rig)) {
    let index = usize::from(choice) % KINDS.len();
    let kept = BUILT.with_borrow_mut(|built| built[index].take());
    let mut rig = kept.unwrap_or_else(|| Rig::build(KINDS[index]));
    test(&mut rig);
    rig.clear();
    if !rig.is_spent {
        BUILT.with_borrow_mut(|built| built[index] = Some(rig));
    }
}

impl Rig {
    fn build((id, build): (&str, Build)) -> Self {
        let half = usize::try_from(RAM_LEN / 2).unwrap();
        let ram = test_ram_with_room(&[(0, half), (RAM_LEN / 2, half)], "mem0", ROOM);
        let events = Events::new(Arc::new(NoSink)).unwrap();
        let boot_bar = BarKind::Memory32;
        let context =
            BuildContext { id, ram: &ram.dma(), events: &events, descriptors: &[], stream: None, boot_bar };
        let (built, host) = build(&context);
        let address = Address { segment: 0, slot: 1 };
        let memory = built.function.memory().map(|_| MEMORY);
        let place = Place { address, bars: &[BAR], memory, msi: &FakeSource::default() };
        let slot = built.function.settle(&place).unwrap();
        let fresh = slot.lock().unwrap().to_saved().unwrap();
        Self { slot, ram, host, fresh, is_spent: false }
    }

    /// Puts everything back to its beginning.
    fn clear(&mut self) {
        self.hold();
        self.device().reset();
        // A serial number that was restored stays through a reset.
        self.device().restore_saved(&self.fresh).unwrap();
        assert_eq!(self.saved(), self.fresh, "a reset does not bring the beginning back");
        for region in 0..2 {
            let start = GuestAddress(region * RAM_LEN / 2);
            self.ram.map().write_slice(&[0; (RAM_LEN / 2) as usize], start).unwrap();
        }
        match &mut self.host {
            Host::Disk(file) => {
                let len = file.as_file().metadata().unwrap().len();
                assert_eq!(len, DISK_LEN as u64, "the guest has changed the size of its disk");
                fill(file);
            }
            Host::ReadOnlyDisk(file) => {
                let content = std::fs::read(file.path()).unwrap();
                assert!(
                    content == [DISK_BYTE; DISK_LEN],
                    "the guest has changed a disk that it may only read"
                );
            }
            Host::Net(socket) => while socket.recv(&mut [0]).is_ok() {},
            Host::Console(client, _) => while client.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {},
            Host::Vsock(host) => host.clear(),
            Host::TakesMemory | Host::Nothing => {}
        }
    }

    pub(crate) fn device(&self) -> MutexGuard<'_, dyn Device + 'static> {
        self.slot.lock().unwrap()
    }

    pub(crate) fn saved(&self) -> Saved {
        self.device().to_saved().unwrap()
    }

    /// Pauses the device and waits until it holds still.
    pub(crate) fn hold(&self) {
        let mut device = self.device();
        device.pause();
        assert!(device.is_paused(Instant::now() + PATIENCE), "the device does not hold still");
    }

    /// Saves the device, resets it and restores it: what comes back is what was saved. Leaves it paused.
    pub(crate) fn round_trip(&self) {
        self.hold();
        let saved = self.saved();
        self.device().reset();
        let restored = self.device().restore_saved(&saved);
        restored.unwrap_or_else(|e| panic!("{e}: a saved state is refused: {saved:?}"));
        assert_eq!(self.saved(), saved, "a restored state is another");
    }

    pub(crate) fn read<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0xff; N];
        self.device().read(Access { region: 0, offset }, &mut data);
        data
    }

    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        // Only configuration space has effects.
        let _ = self.device().write(Access { region: 0, offset }, data);
    }

    /// Reads `data.len()` bytes of configuration space.
    pub(crate) fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.device().read(Access { region: REGION_CONFIG, offset }, data);
    }

    /// The bell of each queue.
    pub(crate) fn bells(&self) -> Vec<Arc<host::EventFd>> {
        let regions = self.device().regions();
        let bar = regions.into_iter().find(|region| region.index == 0);
        bar.into_iter().flat_map(|region| region.doorbells).map(|(_, bell)| bell).collect()
    }
}

/// Waits until `done` says so.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::yield_now();
    }
}

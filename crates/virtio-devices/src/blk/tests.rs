use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use block::LockRange;
use config::ImageType;
use device::{Persist, Stateful};
use memory::{Bytes, GuestAddress, GuestRam};
use tempfile::NamedTempFile;
use virtio::fake::{self, FakeInterrupt, FakeQueue, INDIRECT, NEXT, WRITE};
use virtio::{ActiveQueue, VirtioDevice, feature};

use super::*;

mod hostile;

const MIB: u64 = 1 << 20;
const FLUSH: u64 = 1 << 9;
const HEADER: u64 = 0x10_0000;
const STATUS: u64 = 0x10_1000;
const DATA: u64 = 0x20_0000;
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// A disk of 1 MiB with its driver.
struct Rig {
    file: NamedTempFile,
    ram: GuestRam,
    blk: Blk,
    queues: Vec<FakeQueue>,
    config: Arc<FakeInterrupt>,
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i / 5) as u8 ^ seed).collect()
}

fn config(file: &NamedTempFile) -> plan::Disk {
    plan::Disk { image_type: ImageType::Raw, queue_size: 16, ..plan::Disk::new(file.path()) }
}

fn build(plan: &plan::Disk) -> Result<Blk, Error> {
    open(plan, "d0", Some(lock_range(plan)))
}

impl Rig {
    fn new(change: impl Fn(&mut plan::Disk)) -> Self {
        Self::with_features(feature::EVENT_IDX | FLUSH, change)
    }

    fn with_features(features: u64, change: impl Fn(&mut plan::Disk)) -> Self {
        let file = NamedTempFile::new().unwrap();
        file.as_file().write_all_at(&pattern(MIB as usize, 1), 0).unwrap();
        let mut config = config(&file);
        change(&mut config);
        let ram = memory::test_ram(&[(0, 0x40_0000)]);
        let mut blk = build(&config).unwrap();
        let queues: Vec<_> =
            (0..u64::from(config.num_queues)).map(|i| FakeQueue::new(&ram, i * 0x4000, 16)).collect();
        let (activation, config) = fake::activation(&ram, features, &queues.iter().collect::<Vec<_>>());
        blk.start(activation);
        Self { file, ram, blk, queues, config }
    }

    /// Runs `test` once with io_uring and once without.
    fn both(test: impl Fn(Self)) {
        for io_uring in [true, false] {
            test(Self::new(|config| config.io_uring = io_uring));
        }
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.ram.map().write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.map().read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn header(&self, at: u64, kind: u32, sector: u64) {
        self.put(at, &kind.to_le_bytes());
        self.put(at + 4, &[0; 4]);
        self.put(at + 8, &sector.to_le_bytes());
    }

    /// Makes a request with its data at `DATA` and waits. Returns the status and the bytes written.
    fn request(&mut self, kind: u32, sector: u64, len: u32) -> (u8, u32) {
        self.header(HEADER, kind, sector);
        self.put(STATUS, &[0xff]);
        let direction = if matches!(kind, 0 | 8) { WRITE } else { 0 };
        let mut chain = vec![(HEADER, 16, 0), (DATA, len, direction), (STATUS, 1, WRITE)];
        if len == 0 {
            chain.remove(1);
        }
        let head = self.queues[0].add(&chain);
        self.queues[0].ring();
        let (answered, written) = self.queues[0].wait_used();
        assert_eq!(answered, u32::from(head));
        (self.get(STATUS, 1)[0], written)
    }

    /// A request whose data is the one segment of DISCARD and WRITE_ZEROES.
    fn range(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> (u8, u32) {
        self.put(DATA, &sector.to_le_bytes());
        self.put(DATA + 8, &sectors.to_le_bytes());
        self.put(DATA + 12, &flags.to_le_bytes());
        self.request(kind, 0, 16)
    }

    fn image(&self) -> Vec<u8> {
        std::fs::read(self.file.path()).unwrap()
    }

    fn stop(&mut self) -> Vec<ActiveQueue> {
        self.blk.stop();
        self.blk.stopped(soon()).unwrap()
    }

    /// Starts with the queues of a stop. What was offered meanwhile is taken at once. Returns the new configuration interrupt.
    fn start(&mut self, features: u64, queues: Vec<ActiveQueue>) -> Arc<FakeInterrupt> {
        let (mut activation, config) = fake::activation(&self.ram, features, &[]);
        activation.queues = queues;
        self.blk.start(activation);
        config
    }

    fn counter(&self, name: &str) -> u64 {
        self.blk.counters().unwrap().read().iter().find(|c| c.0 == name).unwrap().1
    }

    fn config_space(&self) -> Vec<u8> {
        let mut space = vec![0; 60];
        self.blk.read_config(0, &mut space);
        space
    }
}

#[test]
fn sectors_are_read_and_written() {
    Rig::both(|mut rig| {
        assert_eq!(rig.request(0, 3, 1024), (OK, 1025));
        assert_eq!(rig.get(DATA, 1024), pattern(MIB as usize, 1)[3 * 512..][..1024]);
        rig.put(DATA, &pattern(4096, 50));
        assert_eq!(rig.request(1, 8, 4096), (OK, 1));
        assert_eq!(rig.image()[8 * 512..][..4096], pattern(4096, 50));
        assert_eq!((rig.counter("read_bytes"), rig.counter("read_ops")), (1024, 1));
        assert_eq!((rig.counter("write_bytes"), rig.counter("write_ops")), (4096, 1));
        assert!(rig.counter("write_latency_max") >= rig.counter("write_latency_min"));
    });
}

#[test]
fn a_flush_succeeds_and_nobody_knows_the_rest() {
    Rig::both(|mut rig| {
        assert_eq!(rig.request(4, 0, 0), (OK, 1));
        for kind in [2, 3, 5, 10, 14, u32::MAX] {
            assert_eq!(rig.request(kind, 0, 0), (UNSUPP, 1));
        }
    });
}

#[test]
fn the_serial_number_is_told() {
    let mut rig = Rig::new(|config| config.serial = Some("serial-of-disk".into()));
    rig.put(DATA, &[0xee; 21]);
    assert_eq!(rig.request(8, 0, 20), (OK, 15));
    assert_eq!(rig.get(DATA, 21), b"serial-of-disk\0\0\0\0\0\0\xee");
    assert_eq!(rig.request(8, 0, 13), (IOERR, 1));
    assert_eq!(rig.request(8, 0, 0), (IOERR, 1));
    let mut rig = Rig::new(|_| ());
    let expected = rig.blk.disk().image.default_serial();
    assert_eq!(rig.request(8, 0, 20), (OK, expected.len() as u32 + 1));
    assert!(rig.get(DATA, 20).starts_with(expected.as_bytes()));
}

#[test]
fn ranges_are_discarded_and_zeroed() {
    Rig::both(|mut rig| {
        assert_eq!(rig.range(11, 8, 16, 0), (OK, 1));
        assert_eq!(rig.range(13, 32, 8, 0), (OK, 1));
        assert_eq!(rig.range(13, 64, 8, 1), (OK, 1));
        let mut expected = pattern(MIB as usize, 1);
        expected[8 * 512..24 * 512].fill(0);
        expected[32 * 512..40 * 512].fill(0);
        expected[64 * 512..72 * 512].fill(0);
        assert_eq!(rig.image(), expected);
        assert_eq!(rig.range(11, 8, 0, 0), (OK, 1));
        assert_eq!(rig.range(11, 8, 1, 1), (UNSUPP, 1));
        assert_eq!(rig.range(13, 8, 1, 2), (UNSUPP, 1));
        assert_eq!(rig.range(13, 2047, 2, 0), (IOERR, 1));
        assert_eq!(rig.range(11, u64::MAX, 1, 0), (IOERR, 1));
        for len in [0, 15, 17, 32] {
            assert_eq!(rig.request(11, 0, len), (IOERR, 1));
        }
        assert_eq!(rig.image(), expected);
    });
}

#[test]
fn a_disk_that_is_not_sparse_only_zeroes() {
    let mut rig = Rig::new(|config| config.sparse = false);
    assert_eq!(rig.blk.info().features & 0x6000, 0x4000);
    assert_eq!(rig.config_space()[56], 0);
    assert_eq!(rig.range(11, 8, 16, 0), (UNSUPP, 1));
    assert_eq!(rig.range(13, 8, 1, 1), (OK, 1));
    assert_eq!(rig.image()[8 * 512..9 * 512], [0; 512]);
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    let mut rig = Rig::new(|config| config.readonly = true);
    assert_eq!(rig.blk.info().features & 0x6020, 0x20);
    assert_eq!(rig.request(1, 8, 512), (IOERR, 1));
    assert_eq!(rig.range(11, 8, 1, 0), (UNSUPP, 1));
    assert_eq!(rig.range(13, 8, 1, 0), (UNSUPP, 1));
    assert_eq!(rig.request(4, 0, 0), (OK, 1));
    assert_eq!(rig.request(0, 8, 512), (OK, 513));
    assert_eq!(rig.image(), pattern(MIB as usize, 1));
}

#[test]
fn a_guessed_format_cannot_be_forged() {
    let mut rig = Rig::new(|config| config.image_type = ImageType::Unknown);
    assert_eq!(rig.request(1, 0, 1024), (IOERR, 1));
    assert_eq!(rig.range(13, 0, 1, 0), (IOERR, 1));
    assert_eq!(rig.request(0, 0, 512), (OK, 513));
    assert_eq!(rig.request(1, 1, 512), (OK, 1));
}

#[test]
fn each_queue_has_a_thread_and_all_share_the_image() {
    let mut rig = Rig::new(|config| (config.num_queues, config.queue_affinity) = (2, vec![(1, vec![0])]));
    assert_ne!(rig.blk.info().features & 1 << 12, 0);
    for (i, queue) in (0u64..).zip(&mut rig.queues) {
        let at = HEADER + i * 0x100;
        rig.ram.map().write_obj(0u64, GuestAddress(at)).unwrap();
        rig.ram.map().write_obj(i * 8, GuestAddress(at + 8)).unwrap();
        queue.add(&[(at, 16, 0), (DATA + i * 4096, 4096, WRITE), (STATUS + i, 1, WRITE)]);
        queue.ring();
    }
    for queue in &rig.queues {
        assert_eq!(queue.wait_used(), (0, 4097));
    }
    assert_eq!(rig.get(DATA, 8192), pattern(MIB as usize, 1)[..8192]);
    assert_eq!(rig.counter("read_ops"), 2);
    assert_eq!(rig.stop().len(), 2);
}

#[test]
fn a_stop_answers_what_is_under_way() {
    for direct in [true, false] {
        let mut rig = Rig::new(|config| config.direct = direct);
        let queues = rig.stop();
        for i in 0..5u64 {
            rig.header(HEADER + i * 16, 0, i * 256);
            let data = (DATA + i * 0x2_0000, 0x2_0000, WRITE);
            rig.queues[0].add(&[(HEADER + i * 16, 16, 0), data, (STATUS + i, 1, WRITE)]);
        }
        rig.start(0, queues);
        // Once one is answered all have been taken.
        rig.queues[0].wait_used();
        let queues = rig.stop();
        assert_eq!(rig.queues[0].used().len(), 5);
        assert_eq!(virtio_queue::QueueT::next_used(&queues[0].queue), 5);
        assert_eq!(rig.get(STATUS, 5), [OK; 5]);
        assert_eq!(rig.get(DATA, 0xa_0000), pattern(MIB as usize, 1)[..0xa_0000]);
    }
}

#[test]
fn a_disk_starts_again_where_it_stopped() {
    let mut rig = Rig::new(|_| ());
    assert_eq!(rig.request(0, 0, 512), (OK, 513));
    let queues = rig.stop();
    rig.start(0, queues);
    assert_eq!(rig.request(0, 0, 512), (OK, 513));
}

#[test]
fn a_batch_is_one_interrupt() {
    let mut rig = Rig::new(|config| config.io_uring = false);
    let mut queues = rig.stop();
    virtio_queue::QueueT::set_event_idx(&mut queues[0].queue, true);
    for i in 0..5u64 {
        rig.header(HEADER + i * 16, 0, 0);
        rig.queues[0].add(&[(HEADER + i * 16, 16, 0), (DATA + i * 512, 512, WRITE), (STATUS + i, 1, WRITE)]);
    }
    rig.start(feature::EVENT_IDX, queues);
    rig.queues[0].wait_used();
    rig.stop();
    assert_eq!(rig.queues[0].used().len(), 5);
    assert_eq!(rig.queues[0].interrupt.count(), 1);
}

#[test]
fn the_configuration_space_is_as_specified() {
    let mut rig = Rig::new(|_| ());
    let space = rig.config_space();
    let mut expected = vec![0; 60];
    expected[0..8].copy_from_slice(&2048u64.to_le_bytes());
    expected[12] = 14;
    expected[20..24].copy_from_slice(&512u32.to_le_bytes());
    expected[26] = 1;
    expected[32] = 1;
    expected[34] = 1;
    for at in [36..40, 48..52] {
        expected[at].fill(0xff);
    }
    for at in [40, 44, 52, 56] {
        expected[at] = 1;
    }
    assert_eq!(space, expected);
    assert_eq!(rig.blk.info().config_len, 60);
    assert_eq!(rig.blk.info().features, 1 << 2 | 1 << 6 | 0b111 << 9 & !(1 << 12) | 0b11 << 13 | 0b11 << 28);
    // Only the writeback register takes what is written.
    rig.blk.write_config(0, &[0; 60]);
    expected[32] = 0;
    assert_eq!(rig.config_space(), expected);
    rig.blk.write_config(33, &[1]);
    assert_eq!(rig.config_space(), expected);
    rig.blk.write_config(32, &[1]);
    rig.blk.write_config(0, &[0; 32]);
    assert_eq!(rig.config_space()[32], 1);
    let mut tail = [7; 4];
    rig.blk.read_config(58, &mut tail);
    assert_eq!(tail, [0, 0, 7, 7]);
}

#[test]
fn the_cache_mode_follows_what_the_driver_accepted() {
    const CONFIG_WCE: u64 = 1 << 11;
    let mut rig = Rig::with_features(0, |_| ());
    let disk = rig.blk.disk().clone();
    assert!(disk.writes_through(0));
    assert!(!disk.writes_through(FLUSH));
    assert!(!disk.writes_through(FLUSH | CONFIG_WCE));
    rig.blk.write_config(32, &[0]);
    assert!(!disk.writes_through(FLUSH));
    assert!(disk.writes_through(FLUSH | CONFIG_WCE));
    rig.put(DATA, &[9; 512]);
    assert_eq!(rig.request(1, 8, 512), (OK, 1));
    assert_eq!(rig.range(13, 9, 1, 0), (OK, 1));
    assert_eq!(rig.image()[8 * 512..9 * 512], [9; 512]);
    rig.stop();
    rig.blk.reset();
    assert!(!disk.writes_through(FLUSH | CONFIG_WCE));
}

#[test]
fn a_resize_shows_at_once_and_interrupts() {
    let mut rig = Rig::new(|_| ());
    assert_eq!(rig.request(0, 2048, 512), (IOERR, 1));
    let disk = rig.blk.disk().clone();
    disk.resize(2 * MIB).unwrap();
    rig.config.wait(1);
    assert_eq!(rig.config_space()[..8], 4096u64.to_le_bytes());
    assert_eq!(rig.request(0, 2048, 512), (OK, 513));
    disk.resize(1000).unwrap_err();
    disk.resize(MIB).unwrap();
    assert_eq!(rig.request(0, 2048, 512), (IOERR, 1));
    assert_eq!(rig.config.count(), 2);
}

#[test]
fn state_survives_and_nonsense_is_refused() {
    let rig = Rig::new(|config| config.serial = Some("one".into()));
    rig.blk.disk().set_writeback(false);
    let saved = rig.blk.to_saved().unwrap();
    assert_eq!(saved.kind, "virtio-blk");
    assert_eq!(serde_json::to_string(&saved.state).unwrap(), r#"{"serial":"one","writeback":false}"#);
    let mut other = Rig::new(|_| ());
    other.blk.restore_saved(&saved).unwrap();
    assert_eq!(Persist::save(&other.blk), State { writeback: false, serial: "one".into() });
    let mut broken = saved;
    broken.state["serial"] = "x".repeat(21).into();
    other.blk.restore_saved(&broken).unwrap_err();
    assert_eq!(Persist::save(&other.blk).serial, "one");
}

#[test]
fn the_lock_can_move_to_another_device() {
    let rig = Rig::new(|_| ());
    let mut config = config(&rig.file);
    assert!(matches!(build(&config), Err(Error::Image { source: OpenError::Lock(_), .. })));
    let other = open(&config, "d1", None).unwrap();
    other.disk().lock(LockRange::Bytes).unwrap_err();
    rig.blk.disk().unlock().unwrap();
    other.disk().lock(LockRange::Bytes).unwrap();
    config.queue_affinity = vec![(0, vec![100_000])];
    assert!(matches!(open(&config, "d1", None), Err(Error::Cpu { cpu: 100_000, .. })));
}

#[test]
fn a_disk_that_cannot_be_built_leaves_its_image_to_others() {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(MIB).unwrap();
    // The second queue comes to nothing when the first has its thread.
    let config = plan::Disk { num_queues: 2, queue_affinity: vec![(1, vec![100_000])], ..config(&file) };
    assert!(matches!(build(&config), Err(Error::Cpu { cpu: 100_000, .. })));
    build(&plan::Disk { queue_affinity: Vec::new(), ..config }).unwrap();
}

#[test]
fn the_contract_holds() {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let disk = plan::Disk { image_type: ImageType::Raw, queue_size: 16, ..plan::Disk::new(file.path()) };
    crate::tests::holds(open(&disk, "d", None).unwrap());
}

use super::*;

use device::Persist;
use memory::{Bytes, GuestAddress, GuestRam};
use virtio::VirtioDevice;
use virtio::fake::{self, FakeInterrupt, FakeQueue, WRITE};

use front::{DEFLATE_ON_OOM, REPORTING_FEATURE};

/// RAM: two regions that meet; rings and lists lie in the first.
const HALF: u64 = 0x20_0000;
const LIST: u64 = 0x1_0000;
/// The first page that tests give.
const FIRST: u32 = 0x100;
const OUTSIDE: u32 = (2 * HALF / PAGE) as u32;
const MARK: u64 = u64::from_le_bytes(*b"occupied");

struct Rig {
    ram: GuestRam,
    inflate: FakeQueue,
    deflate: FakeQueue,
    report: FakeQueue,
    front: Front,
    config: std::sync::Arc<FakeInterrupt>,
}

fn plan() -> plan::Balloon {
    plan::Balloon { size: 0, deflate_on_oom: false, free_page_reporting: true }
}

impl Rig {
    /// A running balloon; all pages from [`FIRST`] on have a mark.
    fn new() -> Self {
        let ram = memory::test_ram(&[(0, HALF as usize), (HALF, HALF as usize)]);
        let [inflate, deflate, report] = [0, 0x4000, 0x8000].map(|base| FakeQueue::new(&ram, base, 16));
        let mut front = front(&plan(), "__balloon").unwrap();
        let (activation, config) = fake::activation(&ram, 0, &[&inflate, &deflate, &report]);
        front.start(activation);
        let rig = Self { ram, inflate, deflate, report, front, config };
        (FIRST..OUTSIDE).for_each(|page| rig.mark(page));
        rig
    }

    fn mark(&self, page: u32) {
        self.ram.map().write_obj(MARK, GuestAddress(u64::from(page) * PAGE)).unwrap();
    }

    /// Pages from [`FIRST`] on that have lost their mark.
    fn gone(&self) -> Vec<u32> {
        let map = self.ram.map();
        let is_gone =
            |page: &u32| map.read_obj::<u64>(GuestAddress(u64::from(*page) * PAGE)).unwrap() != MARK;
        (FIRST..OUTSIDE).filter(is_gone).collect()
    }

    /// Writes page numbers to the list and tells their length.
    fn list(&self, numbers: &[u32]) -> u32 {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.ram.map().write_slice(&bytes, GuestAddress(LIST)).unwrap();
        bytes.len() as u32
    }

    fn inflate(&mut self, numbers: &[u32]) {
        let len = self.list(numbers);
        self.inflate.add(&[(LIST, len, 0)]);
        self.inflate.ring();
        assert_eq!(self.inflate.wait_used().1, 0);
    }
}

#[test]
fn given_pages_go_back_to_the_host_in_any_order() {
    let mut rig = Rig::new();
    let across = (HALF / PAGE) as u32;
    let mut given = vec![FIRST + 9, FIRST + 3, across, across - 1, FIRST + 4, FIRST + 9, OUTSIDE - 1];
    rig.inflate(&given);
    given.sort_unstable();
    given.dedup();
    assert_eq!(rig.gone(), given);
    // Given twice, it is given all the same.
    rig.inflate(&[FIRST + 3]);
    assert_eq!(rig.gone(), given);
}

#[test]
fn a_page_comes_back_when_it_is_touched() {
    let mut rig = Rig::new();
    rig.inflate(&[FIRST, FIRST + 1]);
    let len = rig.list(&[FIRST]);
    rig.deflate.add(&[(LIST, len, 0)]);
    rig.deflate.ring();
    assert_eq!(rig.deflate.wait_used().1, 0);
    rig.mark(FIRST);
    assert_eq!(rig.gone(), [FIRST + 1]);
}

#[test]
fn reported_ranges_go_back_by_whole_pages() {
    let mut rig = Rig::new();
    let at = |page: u32| u64::from(page) * PAGE;
    rig.report.add(&[
        (at(FIRST), 0x2000, WRITE),
        (at(FIRST + 4) + 1, 0x2000, WRITE),
        (at(FIRST + 8), 0x1000, WRITE),
    ]);
    rig.report.ring();
    assert_eq!(rig.report.wait_used().1, 0x5000);
    assert_eq!(rig.gone(), [FIRST, FIRST + 1, FIRST + 5, FIRST + 8]);
}

#[test]
fn hostile_lists() {
    let mut rig = Rig::new();
    rig.inflate(&[OUTSIDE, u32::MAX, OUTSIDE + 1, FIRST, u32::MAX - 1]);
    assert_eq!(rig.gone(), [FIRST]);
    let len = rig.list(&[FIRST + 1; 300]);
    // Writable, too long, no whole number, empty: none of them is looked at.
    for (len, flags) in [(4, WRITE), (len, 0), (6, 0), (0, 0)] {
        rig.inflate.add(&[(LIST, len, flags)]);
        rig.inflate.ring();
        assert_eq!(rig.inflate.wait_used().1, 0);
    }
    assert_eq!(rig.gone(), [FIRST]);
    // More buffers than anybody needs.
    rig.list(&[FIRST + 2]);
    rig.inflate.write_descriptor(0, (LIST, 4, fake::NEXT, 0));
    rig.inflate.offer(0);
    rig.inflate.ring();
    rig.inflate.wait_used();
    assert_eq!(rig.gone(), [FIRST, FIRST + 2]);
    assert_eq!(rig.config.count(), 0);
    rig.inflate.write_descriptor(0, (u64::from(OUTSIDE) * PAGE, 4, 0, 0));
    rig.inflate.offer(0);
    rig.inflate.ring();
    rig.config.wait(1);
}

#[test]
fn hostile_reports() {
    let mut rig = Rig::new();
    let end = u64::from(OUTSIDE) * PAGE;
    for (address, len) in
        [(end, 0x1000), (end - PAGE, 0x2000), (u64::MAX - 10, 0x1000), (0x10_0000, u32::MAX)]
    {
        rig.report.add(&[(address, len, WRITE)]);
        rig.report.ring();
        assert_eq!(rig.report.wait_used().1, len);
    }
    // What the device may not write is no report.
    rig.report.add(&[(u64::from(FIRST) * PAGE, 0x1000, 0)]);
    rig.report.ring();
    assert_eq!(rig.report.wait_used().1, 0);
    assert_eq!(rig.gone(), [0u32; 0]);
    assert_eq!(rig.config.count(), 0);
}

#[test]
fn the_configuration_has_the_target_and_takes_the_size() {
    let mut front = front(&plan::Balloon { size: 3 * PAGE + 5, ..plan() }, "__balloon").unwrap();
    let read = |front: &Front| {
        let mut config = [0; 8];
        front.read_config(0, &mut config);
        config
    };
    assert_eq!(read(&front), [3, 0, 0, 0, 0, 0, 0, 0]);
    front.write_config(4, &[2, 1, 0, 0]);
    // Other registers and sizes are not the driver's.
    front.write_config(0, &[9; 4]);
    front.write_config(4, &[9; 2]);
    front.write_config(0, &[9; 8]);
    assert_eq!(read(&front), [3, 0, 0, 0, 2, 1, 0, 0]);
    let balloon = front.balloon().clone();
    assert_eq!(balloon.actual(), 0x102 * PAGE);
    balloon.set_target(u64::MAX);
    assert_eq!(read(&front)[..4], [0xff; 4]);
    balloon.set_target(0);
    front.reset();
    assert_eq!((read(&front), balloon.actual()), ([0; 8], 0));
}

#[test]
fn the_driver_hears_of_a_new_target() {
    let mut rig = Rig::new();
    let balloon = rig.front.balloon().clone();
    balloon.set_target(5 * PAGE);
    assert_eq!(rig.config.count(), 1);
    let state = rig.front.save();
    assert_eq!(state, State { target: 5, actual: 0 });
    rig.front.restore(State { target: 7, actual: 6 }).unwrap();
    assert_eq!(balloon.actual(), 6 * PAGE);
    rig.front.stop();
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(30);
    assert_eq!(rig.front.stopped(patience).unwrap().len(), 3);
    rig.front.reset();
    balloon.set_target(PAGE);
    assert_eq!(rig.config.count(), 1);
}

#[test]
fn features_and_queues_follow_the_plan() {
    let with = |deflate_on_oom, free_page_reporting| {
        let plan = plan::Balloon { size: 0, deflate_on_oom, free_page_reporting };
        let front = front(&plan, "__balloon").unwrap();
        (front.info().features, front.info().queue_sizes.clone())
    };
    assert_eq!(with(false, false), (0, vec![128, 128]));
    assert_eq!(with(true, false), (DEFLATE_ON_OOM, vec![128, 128]));
    assert_eq!(with(true, true), (DEFLATE_ON_OOM | REPORTING_FEATURE, vec![128, 128, 32]));
}

#[test]
fn the_contract_holds() {
    crate::tests::holds(front(&plan(), "__balloon").unwrap());
}

use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, spawn};

use config::plan::Zone;
use device::{EventSink, Record};
use host::{ControlOperation, Epoll, EpollEvent, EventSet};
use memory::{Bytes, GuestAddress, test_ram};
use sandbox::testing::Filters;

use super::*;

const SIZE: u64 = 4096;
const LIMIT: Duration = Duration::from_secs(60);

/// A source whose pages begin with their number and 1000, but for every fourth, which is zero.
#[derive(Clone, Default)]
struct Numbers {
    fails: Arc<AtomicBool>,
    reads: Arc<Mutex<Vec<Range>>>,
}

impl PageSource for Numbers {
    fn read(&mut self, base: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("the other side is gone"));
        }
        self.reads.lock().unwrap().push((base, buffer.len() as u64));
        buffer.fill(0);
        for (number, page) in (base / SIZE..).zip(buffer.chunks_mut(SIZE as usize)) {
            page[..8].copy_from_slice(&expected(number).to_le_bytes());
        }
        Ok(())
    }
}

fn expected(page: u64) -> u64 {
    if page.is_multiple_of(4) { 0 } else { page + 1000 }
}

#[derive(Default)]
struct Sink(Mutex<Vec<Record>>);

impl EventSink for Sink {
    fn record(&self, record: Record) {
        self.0.lock().unwrap().push(record);
    }
}

struct Rig {
    ram: GuestRam,
    source: Numbers,
    events: Events,
    sink: Arc<Sink>,
}

impl Rig {
    fn new(ram: GuestRam) -> Self {
        let sink = Arc::new(Sink::default());
        Self { ram, source: Numbers::default(), events: Events::new(sink.clone()).unwrap(), sink }
    }

    /// `None`, and a line, where the host has no userfaultfd.
    fn start(&self, prefault: Prefault) -> Option<Pager> {
        let runs: Vec<_> = self.ram.ranges().iter().map(memory::SavedRange::addresses).collect();
        match Pager::start(&self.ram, &runs, self.source.clone(), prefault, self.events.clone()) {
            Err(PagerError::Demand(error @ DemandError::Unavailable(_))) => {
                eprintln!("skipped: {error}");
                None
            }
            pager => Some(pager.unwrap()),
        }
    }

    fn number(&self, page: u64) -> u64 {
        self.ram.map().read_obj(GuestAddress(page * SIZE)).unwrap()
    }

    fn reader(&self, page: u64) -> JoinHandle<u64> {
        let ram = self.ram.clone();
        spawn(move || ram.map().read_obj(GuestAddress(page * SIZE)).unwrap())
    }

    /// The next records, when there are some.
    fn records(&self) -> Vec<Record> {
        let wake = self.events.wake_fd();
        let mut epoll = [EpollEvent::default()];
        let all = Epoll::new().unwrap();
        all.ctl(ControlOperation::Add, wake.as_raw_fd(), EpollEvent::new(EventSet::IN, 0)).unwrap();
        all.wait(-1, &mut epoll).unwrap();
        assert!(self.events.take().has(device::Event::News));
        std::mem::take(&mut *self.sink.0.lock().unwrap())
    }
}

fn private() -> GuestRam {
    test_ram(&[(0, 300 * SIZE as usize), (1 << 32, 20 * SIZE as usize)])
}

fn shared() -> GuestRam {
    GuestRam::allocate(&[Zone { shared: true, ..Zone::new("z", 300 * SIZE) }]).unwrap()
}

#[test]
fn pages_come_when_they_are_touched_and_no_others() {
    for ram in [private(), shared()] {
        let rig = Rig::new(ram);
        let Some(pager) = rig.start(Prefault::Off) else { return };
        for page in [7, 8, 299, 7] {
            assert_eq!(rig.number(page), expected(page));
        }
        let reads = rig.source.reads.lock().unwrap().clone();
        assert_eq!(reads, [(7 * SIZE, SIZE), (8 * SIZE, SIZE), (299 * SIZE, SIZE)]);
        let progress = pager.progress();
        assert_eq!((progress.total - progress.left, progress.stalled), (3 * SIZE, None));
        assert!(!pager.is_complete());
        rig.ram.map().write_obj(7u64, GuestAddress(SIZE)).unwrap();
        pager.finish(LIMIT).unwrap();
        assert!(pager.is_complete() && pager.progress().left == 0);
        assert_eq!(rig.number(1), 7, "what the guest has written stays");
        assert!((2..300).all(|page| rig.number(page) == expected(page)));
        pager.finish(Duration::ZERO).unwrap();
    }
}

#[test]
fn the_rest_comes_in_ascending_order() {
    let rig = Rig::new(private());
    let Some(pager) = rig.start(Prefault::Full) else { return };
    let records = rig.records();
    assert_eq!((records.len(), records[0].source, records[0].event), (1, "vm", "memory-complete"));
    assert!(pager.is_complete());
    let reads = rig.source.reads.lock().unwrap().clone();
    assert!(reads.is_sorted() && reads.iter().map(|(_, len)| len).sum::<u64>() == 320 * SIZE, "{reads:?}");
    let high = (1 << 32) / SIZE;
    assert!((0..300).chain(high..high + 20).all(|page| rig.number(page) == expected(page)));
    let occupied: u64 = rig.ram.map().occupied(1 << 32, 4 * SIZE).iter().map(|(_, len)| len).sum();
    assert!(occupied >= 3 * SIZE);
}

#[test]
fn pages_of_zeroes_take_no_memory() {
    let rig = Rig::new(private());
    let Some(pager) = rig.start(Prefault::Off) else { return };
    pager.finish(LIMIT).unwrap();
    let occupied: u64 = rig.ram.map().occupied(0, u64::MAX).iter().map(|(_, len)| len).sum();
    assert_eq!(occupied, 320 * SIZE * 3 / 4);
}

/// One piece comes, and the next after years, unless somebody asks.
#[test]
fn a_rate_is_kept_to() {
    let rig = Rig::new(private());
    let Some(pager) = rig.start(Prefault::Rate(1)) else { return };
    assert_eq!(rig.number(299), expected(299));
    assert_eq!(rig.number(298), expected(298));
    assert!(!pager.is_complete() && pager.progress().left >= 200 * SIZE);
    assert!(matches!(pager.finish(Duration::ZERO), Ok(()) | Err(PagerError::Late { .. })));
    pager.finish(LIMIT).unwrap();
}

/// A source that fails holds the guest and says so; when it is back the guest goes on.
#[test]
fn a_source_that_fails_is_told_of_and_tried_again() {
    let rig = Rig::new(private());
    rig.source.fails.store(true, Ordering::SeqCst);
    let Some(pager) = rig.start(Prefault::Off) else { return };
    let waiting = rig.reader(5);
    let records = rig.records();
    assert_eq!((records[0].source, records[0].event), ("vm", "memory-paging-stalled"));
    assert_eq!(records[0].properties, [("error", "the other side is gone".to_owned())]);
    assert_eq!(pager.progress().stalled.as_deref(), Some("the other side is gone"));
    let error = pager.finish(LIMIT).unwrap_err();
    assert!(matches!(error, PagerError::Source { left: 0x14_0000, .. }), "{error}");
    // What the guest gives back needs no source.
    rig.ram.dma().view().discard(GuestAddress(9 * SIZE), SIZE).unwrap();
    assert_eq!(rig.number(9), 0);
    rig.source.fails.store(false, Ordering::SeqCst);
    pager.finish(LIMIT).unwrap();
    assert_eq!((waiting.join().unwrap(), pager.progress().stalled), (expected(5), None));
    let told = rig.records();
    assert_eq!(told.len(), 1, "one event for all failures in a row: {told:?}");
}

#[test]
fn what_was_discarded_is_zero() {
    for ram in [private(), shared()] {
        let rig = Rig::new(ram);
        let Some(pager) = rig.start(Prefault::Off) else { return };
        assert_eq!(rig.number(5), expected(5));
        rig.ram.dma().view().discard(GuestAddress(5 * SIZE), 2 * SIZE).unwrap();
        assert_eq!((rig.number(5), rig.number(6), rig.number(7)), (0, 0, expected(7)));
        rig.ram.dma().view().discard(GuestAddress(9 * SIZE), SIZE).unwrap();
        pager.finish(LIMIT).unwrap();
        assert_eq!((rig.number(5), rig.number(9), rig.number(10)), (0, 0, expected(10)));
    }
}

/// Guests and devices touch pages from many threads, and give some back at the same time.
#[test]
fn many_threads_see_the_same() {
    for ram in [private(), shared()] {
        let rig = Rig::new(ram);
        let Some(pager) = rig.start(Prefault::Full) else { return };
        let threads: Vec<_> = (0..4u64)
            .map(|thread| {
                let ram = rig.ram.clone();
                spawn(move || {
                    let numbers = (0..300).map(|page| if thread % 2 == 0 { page } else { 299 - page });
                    for page in numbers {
                        if thread == 3 && page % 10 == 3 {
                            ram.dma().view().discard(GuestAddress(page * SIZE), SIZE).unwrap();
                        }
                        let found: u64 = ram.map().read_obj(GuestAddress(page * SIZE)).unwrap();
                        let is_discarded = page % 10 == 3;
                        assert!(found == expected(page) || (is_discarded && found == 0), "{page}: {found}");
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        pager.finish(LIMIT).unwrap();
        assert!((0..300).all(|page| rig.number(page) == if page % 10 == 3 { 0 } else { expected(page) }));
    }
}

#[test]
fn a_pager_that_is_dropped_ends_its_thread() {
    let rig = Rig::new(private());
    let Some(pager) = rig.start(Prefault::Off) else { return };
    assert_eq!(rig.number(1), expected(1));
    drop(pager);
    assert_eq!(Arc::strong_count(&rig.source.reads), 1, "the thread had the other one");
}

#[test]
fn the_thread_may_answer_and_not_begin() {
    let filters = Filters::of(&profile::HANDLER).unwrap();
    let asks = |request: u32| filters.verdict(libc::SYS_ioctl, [0, request, 0, 0, 0, 0]).allowed;
    assert!(asks(linux_raw_sys::ioctl::UFFDIO_COPY) && asks(linux_raw_sys::ioctl::UFFDIO_ZEROPAGE));
    assert!(!asks(linux_raw_sys::ioctl::UFFDIO_REGISTER) && !asks(linux_raw_sys::ioctl::UFFDIO_API));
    assert!(!filters.verdict(libc::SYS_userfaultfd, [0; 6]).allowed);
}

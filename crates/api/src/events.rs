//! The last event records (`spec/events.md` §2), numbered, for as many readers as there are.
//!
//! Any thread reports; doors read, each at its own pace. The log is a leaf object: it calls nobody, and a lock is held only for as long as
//! it takes to move a few pointers. A reader that is slower than the news loses the oldest records and is told how many. Records that a
//! guest causes at will take the place of each other once they hold their share, so there may be gaps in what is kept.
//!
//! ```text
//!  any thread --push--> [ 1024 records ] <--poll-- EventReader: a task (SSE, D-Bus) or a thread
//!                            └──────────wake──────────┘
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use serde::Serialize;

/// Records that are kept.
pub const EVENTS_KEPT: usize = 1024;
/// Of these, as many as a guest may cause: it cannot push all others out.
const GUEST_SHARE: usize = EVENTS_KEPT / 2;
/// Records a reader gets at once.
const BATCH: usize = 32;

/// Time since the process took up its work. Not the time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Timestamp {
    /// Whole seconds.
    pub secs: u64,
    /// The rest, below 1000000000.
    pub nanos: u32,
}

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EventRecord {
    /// When, since the process took up its work.
    pub timestamp: Timestamp,
    /// Who reports: `vmm`, `vm`, `guest` or `virtio-device`.
    pub source: &'static str,
    /// What happened, such as `booted`.
    pub event: &'static str,
    /// Details, such as a device's id.
    pub properties: Option<BTreeMap<&'static str, String>>,
}

impl EventRecord {
    /// Whether a guest can cause such records as often as it likes: by a panic, a driver's reset, its own restart.
    pub fn is_guest_caused(&self) -> bool {
        matches!(self.source, "guest" | "virtio-device") || matches!(self.event, "rebooting" | "rebooted")
    }
}

/// The log.
#[derive(Debug)]
pub struct EventLog(Mutex<Ring>);

#[derive(Debug)]
struct Ring {
    /// With their numbers, which rise.
    records: VecDeque<(u64, Arc<EventRecord>)>,
    /// How many of these the guest has caused.
    guest_caused: usize,
    /// The number of the next record; the first one's is 1.
    next: u64,
    counts: BTreeMap<(&'static str, &'static str), u64>,
    /// Readers that wait, by their numbers.
    waiting: BTreeMap<u64, Waker>,
    readers: u64,
}

/// Where a reader starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// With what comes next.
    Now,
    /// After the record of this number, as far as records are still kept. A number that has not been given yet is one of another
    /// process: then with the oldest.
    After(u64),
}

/// Reads the log from one place on. Cheap; nothing is kept for it.
#[derive(Debug)]
pub struct EventReader {
    log: Arc<EventLog>,
    number: u64,
    next: u64,
}

/// What a reader has not seen yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Records that were dropped before this reader came for them.
    pub lost: u64,
    /// The number of the first record below.
    pub first: u64,
    /// Some of the records that follow, at least one.
    pub records: Vec<Arc<EventRecord>>,
}

impl EventLog {
    /// An empty log.
    #[allow(clippy::new_without_default, reason = "a log that nobody shares makes no sense")]
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Ring {
            records: VecDeque::new(),
            guest_caused: 0,
            next: 1,
            counts: BTreeMap::new(),
            waiting: BTreeMap::new(),
            readers: 0,
        })))
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a record and wakes the readers that wait.
    pub fn push(&self, record: Arc<EventRecord>) {
        let (oldest, waiting) = {
            let mut ring = self.ring();
            *ring.counts.entry((record.source, record.event)).or_default() += 1;
            let oldest = ring.make_room(&record);
            let number = ring.next;
            ring.records.push_back((number, record));
            ring.next += 1;
            (oldest, mem::take(&mut ring.waiting))
        };
        // What a waker does, and what goes with the record, is not for the lock.
        drop(oldest);
        waiting.into_values().for_each(Waker::wake);
    }

    /// How many records there have been, by source and event.
    pub fn counts(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        self.ring().counts.clone()
    }

    /// A new reader.
    pub fn reader(self: &Arc<Self>, start: StartAt) -> EventReader {
        let mut ring = self.ring();
        ring.readers += 1;
        let next = match start {
            StartAt::Now => ring.next,
            StartAt::After(seen) if seen < ring.next => seen + 1,
            StartAt::After(_) => ring.oldest(),
        };
        EventReader { log: self.clone(), number: ring.readers, next }
    }
}

impl Ring {
    /// Takes out what `record` replaces, and counts the record.
    fn make_room(&mut self, record: &EventRecord) -> Option<(u64, Arc<EventRecord>)> {
        let is_guest_caused = record.is_guest_caused();
        let replaced = if is_guest_caused && self.guest_caused >= GUEST_SHARE {
            self.records.iter().position(|(_, kept)| kept.is_guest_caused())
        } else {
            (self.records.len() >= EVENTS_KEPT).then_some(0)
        };
        let replaced = replaced.and_then(|at| self.records.remove(at));
        if replaced.as_ref().is_some_and(|(_, replaced)| replaced.is_guest_caused()) {
            self.guest_caused -= 1;
        }
        self.guest_caused += usize::from(is_guest_caused);
        replaced
    }

    /// The number of the oldest record that is kept, or of the next one if there is none.
    fn oldest(&self) -> u64 {
        self.records.front().map_or(self.next, |(number, _)| *number)
    }

    /// What comes from the number `next` on, as far as there is no gap.
    fn after(&self, next: u64) -> Option<News> {
        let at = self.records.partition_point(|(number, _)| *number < next);
        let first = self.records.get(at)?.0;
        let records = self.records.iter().skip(at).take(BATCH).zip(first..);
        let records = records.take_while(|((number, _), expected)| number == expected);
        let records = records.map(|((_, record), _)| record.clone()).collect();
        Some(News { lost: first.saturating_sub(next), first, records })
    }
}

impl EventReader {
    /// The next records, or a promise to wake `cx` when there are some.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<News> {
        let (news, _replaced) = {
            let mut ring = self.log.ring();
            match ring.after(self.next) {
                Some(news) => (Some(news), None),
                None => (None, ring.waiting.insert(self.number, cx.waker().clone())),
            }
        };
        let Some(news) = news else { return Poll::Pending };
        self.next = news.first.saturating_add(news.records.len() as u64);
        Poll::Ready(news)
    }

    /// Waits for the next records, on a thread that has nothing else to do.
    pub fn wait(&mut self) -> News {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut cx = Context::from_waker(&waker);
        loop {
            match self.poll(&mut cx) {
                Poll::Ready(news) => return news,
                Poll::Pending => thread::park(),
            }
        }
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        let waker = self.log.ring().waiting.remove(&self.number);
        drop(waker);
    }
}

/// Wakes a thread that is parked.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn push(log: &EventLog, count: usize) {
        for _ in 0..count {
            let timestamp = Timestamp { secs: 0, nanos: 0 };
            log.push(Arc::new(EventRecord { timestamp, source: "vm", event: "paused", properties: None }));
        }
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll(reader: &mut EventReader) -> Option<News> {
        match reader.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(news) => Some(news),
            Poll::Pending => None,
        }
    }

    fn numbers(reader: &mut EventReader) -> Vec<(u64, u64, usize)> {
        std::iter::from_fn(|| poll(reader)).map(|news| (news.lost, news.first, news.records.len())).collect()
    }

    #[test]
    fn readers_start_where_they_ask() {
        let log = EventLog::new();
        push(&log, 3);
        assert_eq!(numbers(&mut log.reader(StartAt::After(0))), [(0, 1, 3)]);
        assert_eq!(numbers(&mut log.reader(StartAt::After(2))), [(0, 3, 1)]);
        assert_eq!(numbers(&mut log.reader(StartAt::After(3))), []);
        // Of a process before this one.
        assert_eq!(numbers(&mut log.reader(StartAt::After(4))), [(0, 1, 3)]);
        assert_eq!(numbers(&mut log.reader(StartAt::After(u64::MAX))), [(0, 1, 3)]);
        let mut now = log.reader(StartAt::Now);
        assert_eq!(numbers(&mut now), []);
        push(&log, 1);
        assert_eq!(numbers(&mut now), [(0, 4, 1)]);
    }

    #[test]
    fn a_slow_reader_loses_the_oldest_and_is_told() {
        let log = EventLog::new();
        let mut slow = log.reader(StartAt::Now);
        push(&log, EVENTS_KEPT + 7);
        let read = numbers(&mut slow);
        assert_eq!(read[0], (7, 8, BATCH));
        assert_eq!(read.iter().map(|(_, _, len)| len).sum::<usize>(), EVENTS_KEPT);
        assert!(read[1..].iter().all(|(lost, _, _)| *lost == 0));
        assert_eq!(log.counts(), BTreeMap::from([(("vm", "paused"), EVENTS_KEPT as u64 + 7)]));
    }

    #[test]
    fn a_guest_pushes_out_its_own_records_only() {
        let log = EventLog::new();
        let guest = |count| {
            for _ in 0..count {
                let timestamp = Timestamp { secs: 0, nanos: 0 };
                let (source, event) = ("guest", "panic");
                log.push(Arc::new(EventRecord { timestamp, source, event, properties: None }));
            }
        };
        push(&log, 2);
        guest(GUEST_SHARE + 5);
        push(&log, 1);
        guest(10 * EVENTS_KEPT);
        let mut reader = log.reader(StartAt::After(0));
        let first = poll(&mut reader).unwrap();
        assert_eq!((first.lost, first.first, first.records.len()), (0, 1, 2));
        let gap = poll(&mut reader).unwrap();
        assert_eq!((gap.first, gap.records.len()), (2 + GUEST_SHARE as u64 + 5 + 1, 1));
        assert_eq!(gap.records[0].source, "vm");
        let rest = numbers(&mut reader);
        assert_eq!(rest.iter().map(|(_, _, count)| count).sum::<usize>(), GUEST_SHARE);
        // The host's own records have the whole log.
        push(&log, EVENTS_KEPT);
        assert_eq!(
            numbers(&mut log.reader(StartAt::After(0))).iter().map(|(_, _, count)| count).sum::<usize>(),
            EVENTS_KEPT
        );
        assert_eq!(log.ring().guest_caused, 0);
    }

    #[test]
    fn a_reader_is_woken_once_and_not_after_its_end() {
        let log = EventLog::new();
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let mut cx = Context::from_waker(&waker);
        let mut reader = log.reader(StartAt::Now);
        assert!(reader.poll(&mut cx).is_pending());
        assert!(reader.poll(&mut cx).is_pending());
        push(&log, 2);
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        assert!(reader.poll(&mut cx).is_ready());
        assert!(reader.poll(&mut cx).is_pending());
        drop(reader);
        push(&log, 1);
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_thread_may_wait() {
        let log = EventLog::new();
        let mut reader = log.reader(StartAt::Now);
        thread::scope(|scope| {
            let waiting = scope.spawn(move || {
                (0..100).fold(0, |n, _| if n < 100 { n + reader.wait().records.len() } else { n })
            });
            push(&log, 100);
            assert_eq!(waiting.join().unwrap(), 100);
        });
    }
}

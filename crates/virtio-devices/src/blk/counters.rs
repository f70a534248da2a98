//! What `vm.counters` says of a disk. Each queue counts for itself, so that counting costs plain stores; reading adds them up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use meter::{Count, CounterSet, Histogram, QueueReading};

/// The average that stands for "no transfer yet". The reference keeps averages times 10000 and starts from all ones.
const NO_AVERAGE: u64 = u64::MAX / 10_000;

/// Bounds of the histograms, in microseconds: from the host's page cache to a disk that hangs.
static BOUNDS_US: [u64; 14] =
    [10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 50_000, 100_000, 1_000_000, 10_000_000];

/// Transfers in one direction on one queue. Written by the queue's thread only. Times in microseconds.
#[derive(Debug)]
struct Direction {
    bytes: Count,
    latency: Histogram<14>,
    min_us: AtomicU64,
    max_us: AtomicU64,
}

impl Default for Direction {
    fn default() -> Self {
        Self {
            bytes: Count::default(),
            latency: Histogram::new(&BOUNDS_US),
            min_us: AtomicU64::new(u64::MAX),
            max_us: AtomicU64::new(0),
        }
    }
}

impl Direction {
    fn count(&self, bytes: u64, latency: Duration) {
        let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.bytes.add(bytes);
        self.latency.record_alone(latency);
        self.min_us.store(self.min_us.load(Relaxed).min(latency_us), Relaxed);
        self.max_us.store(self.max_us.load(Relaxed).max(latency_us), Relaxed);
    }
}

/// The counters of one queue. On cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Counters {
    read: Direction,
    write: Direction,
}

impl Counters {
    /// A read of `bytes` has succeeded.
    pub(super) fn count_read(&self, bytes: u64, latency: Duration) {
        self.read.count(bytes, latency);
    }

    /// A write of `bytes` has succeeded.
    pub(super) fn count_write(&self, bytes: u64, latency: Duration) {
        self.write.count(bytes, latency);
    }
}

/// The counters of a whole disk, one set per queue. They outlive the disk, so that a reader holds no image open.
#[derive(Debug)]
pub(super) struct DiskCounters(pub(super) Box<[Counters]>);

impl CounterSet for DiskCounters {
    fn read(&self) -> Vec<(&'static str, u64)> {
        let read = Sum::of(self.0.iter().map(|q| &q.read));
        let write = Sum::of(self.0.iter().map(|q| &q.write));
        vec![
            ("read_bytes", read.bytes),
            ("write_bytes", write.bytes),
            ("read_ops", read.ops),
            ("write_ops", write.ops),
            ("read_latency_min", read.min_us),
            ("read_latency_max", read.max_us),
            ("read_latency_avg", read.average_us),
            ("write_latency_min", write.min_us),
            ("write_latency_max", write.max_us),
            ("write_latency_avg", write.average_us),
        ]
    }

    fn queues(&self) -> Vec<QueueReading> {
        let reading = |(queue, counters): (u16, &Counters)| {
            let (read, write) = (&counters.read, &counters.write);
            QueueReading {
                queue,
                counts: vec![("read_bytes", read.bytes.read()), ("write_bytes", write.bytes.read())],
                latencies: vec![("read", read.latency.read()), ("write", write.latency.read())],
            }
        };
        (0u16..).zip(&self.0).map(reading).collect()
    }
}

struct Sum {
    bytes: u64,
    ops: u64,
    min_us: u64,
    max_us: u64,
    average_us: u64,
}

impl Sum {
    fn of<'a>(queues: impl Iterator<Item = &'a Direction>) -> Self {
        let mut sum = Self { bytes: 0, ops: 0, min_us: u64::MAX, max_us: 0, average_us: NO_AVERAGE };
        let mut total_us = 0u64;
        for queue in queues {
            let latency = queue.latency.read();
            sum.bytes = sum.bytes.wrapping_add(queue.bytes.read());
            sum.ops = sum.ops.wrapping_add(latency.count);
            sum.min_us = sum.min_us.min(queue.min_us.load(Relaxed));
            sum.max_us = sum.max_us.max(queue.max_us.load(Relaxed));
            total_us = total_us.wrapping_add(u64::try_from(latency.total.as_micros()).unwrap_or(u64::MAX));
        }
        match total_us.checked_div(sum.ops) {
            Some(average) => sum.average_us = average,
            None => sum.max_us = u64::MAX,
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_add_up() {
        let queues = DiskCounters(Box::new([Counters::default(), Counters::default()]));
        queues.0[0].count_read(512, Duration::from_micros(10));
        queues.0[1].count_read(1024, Duration::from_micros(30));
        let total: std::collections::HashMap<_, _> = queues.read().into_iter().collect();
        assert_eq!((total["read_bytes"], total["read_ops"]), (1536, 2));
        let latency = ["read_latency_min", "read_latency_max", "read_latency_avg"].map(|name| total[name]);
        assert_eq!(latency, [10, 30, 20]);
        let none = ["write_latency_min", "write_latency_max", "write_latency_avg"].map(|name| total[name]);
        assert_eq!(none, [u64::MAX, u64::MAX, 1_844_674_407_370_955]);
        let second = queues.queues().remove(1);
        assert_eq!((second.queue, second.counts[0]), (1, ("read_bytes", 1024)));
        let (kind, latency) = &second.latencies[0];
        assert_eq!((*kind, latency.count, latency.total), ("read", 1, Duration::from_micros(30)));
    }
}

//! Numbers that one thread writes while any other reads them: counts, and histograms of how long things take. Nothing here locks.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A count that one thread writes, with plain stores.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`. Only one thread at a time may call it: what two add at once may be lost.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The count so far.
    pub fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How long things took, in buckets.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    /// The longest time of each bucket in microseconds, in order. What takes longer is only in the count.
    bounds_us: &'static [u64; N],
    buckets: [AtomicU64; N],
    count: AtomicU64,
    total_us: AtomicU64,
}

/// A histogram as read at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latency {
    /// For each bound, how many took no longer.
    pub buckets: Vec<(Duration, u64)>,
    /// How many there were.
    pub count: u64,
    /// How long they took together.
    pub total: Duration,
}

impl<const N: usize> Histogram<N> {
    /// An empty one.
    pub const fn new(bounds_us: &'static [u64; N]) -> Self {
        Self {
            bounds_us,
            buckets: [const { AtomicU64::new(0) }; N],
            count: AtomicU64::new(0),
            total_us: AtomicU64::new(0),
        }
    }

    /// Counts one thing. Any thread may.
    pub fn record(&self, took: Duration) {
        self.each(took, |counter, n| {
            counter.fetch_add(n, Relaxed);
        });
    }

    /// As [`Histogram::record`], with plain stores. Only one thread at a time may call it.
    pub fn record_alone(&self, took: Duration) {
        self.each(took, |counter, n| counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed));
    }

    fn each(&self, took: Duration, add: impl Fn(&AtomicU64, u64)) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = self.bounds_us.iter().zip(&self.buckets).find(|(bound, _)| took_us <= **bound);
        if let Some((_, bucket)) = bucket {
            add(bucket, 1);
        }
        add(&self.total_us, took_us);
        add(&self.count, 1);
    }

    /// What there is so far.
    pub fn read(&self) -> Latency {
        let mut sum = 0;
        let mut buckets = Vec::with_capacity(N);
        for (bound, bucket) in self.bounds_us.iter().zip(&self.buckets) {
            sum += bucket.load(Relaxed);
            buckets.push((Duration::from_micros(*bound), sum));
        }
        let total = Duration::from_micros(self.total_us.load(Relaxed));
        // What is being counted may be in a bucket and not in the count yet.
        Latency { buckets, count: self.count.load(Relaxed).max(sum), total }
    }
}

/// What one virtqueue has counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueReading {
    /// The queue's number within its device.
    pub queue: u16,
    /// Counts by name.
    pub counts: Vec<(&'static str, u64)>,
    /// Latencies by the kind of request.
    pub latencies: Vec<(&'static str, Latency)>,
}

/// Counts by name, all written by one thread, such as a vCPU's exits by reason.
#[derive(Debug)]
#[repr(align(64))]
pub struct Tally<const N: usize> {
    names: &'static [&'static str; N],
    counts: [Count; N],
}

impl<const N: usize> Tally<N> {
    /// All zero.
    pub fn new(names: &'static [&'static str; N]) -> Self {
        Self { names, counts: array::from_fn(|_| Count::default()) }
    }

    /// Counts one more at `index` of the names. Only one thread at a time may call it.
    pub fn bump(&self, index: usize) {
        if let Some(count) = self.counts.get(index) {
            count.add(1);
        }
    }

    /// All counts by name.
    pub fn read(&self) -> Vec<(&'static str, u64)> {
        self.names.iter().zip(&self.counts).map(|(name, count)| (*name, count.read())).collect()
    }
}

/// What a device counts: a leaf object that is read without the device.
pub trait CounterSet: Send + Sync {
    /// Name and value of each counter.
    fn read(&self) -> Vec<(&'static str, u64)>;

    /// The same and more, queue by queue.
    fn queues(&self) -> Vec<QueueReading>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up() {
        static BOUNDS_US: [u64; 3] = [100, 1000, 5000];
        let histogram = Histogram::new(&BOUNDS_US);
        for took_us in [0, 100, 101] {
            histogram.record(Duration::from_micros(took_us));
        }
        histogram.record_alone(Duration::from_micros(5000));
        histogram.record_alone(Duration::from_micros(5001));
        let latency = histogram.read();
        assert_eq!((latency.count, latency.total), (5, Duration::from_micros(10_202)));
        let expected = [(100, 2), (1000, 3), (5000, 4)].map(|(us, sum)| (Duration::from_micros(us), sum));
        assert_eq!(latency.buckets, expected);
    }

    #[test]
    fn tallies_are_by_name() {
        let tally = Tally::new(&["a", "b"]);
        for index in [0, 1, 1, 2] {
            tally.bump(index);
        }
        assert_eq!(tally.read(), [("a", 1), ("b", 2)]);
    }
}

//! How long calls take and how they fail, counted for metrics. Counted on whatever thread answers, with plain atomics.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use meter::{Histogram, Latency};

use crate::{ApiError, Code, VERBS};

/// The upper bounds of the histogram's buckets, in microseconds. What is slower is only in the total.
static BOUNDS_US: [u64; 12] =
    [100, 500, 1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 10_000_000, 60_000_000];

/// Counts of all calls.
#[derive(Debug)]
pub struct Calls {
    verbs: Box<[Histogram<12>]>,
    failures: [AtomicU64; Code::ALL.len()],
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            verbs: VERBS.iter().map(|_| Histogram::new(&BOUNDS_US)).collect(),
            failures: array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Calls {
    /// A call of the verb at `index` in [`VERBS`] was answered after `took`.
    pub(crate) fn count<T>(&self, index: usize, took: Duration, result: &Result<T, ApiError>) {
        if let Some(verb) = self.verbs.get(index) {
            verb.record(took);
        }
        if let Some(failures) = result.as_ref().err().and_then(|error| self.failures.get(error.code as usize))
        {
            failures.fetch_add(1, Relaxed);
        }
    }

    /// The verbs that have been called, by name.
    pub fn latencies(&self) -> impl Iterator<Item = (&'static str, Latency)> {
        let all = VERBS.iter().zip(&self.verbs).map(|(verb, histogram)| (verb.name, histogram.read()));
        all.filter(|(_, latency)| latency.count > 0)
    }

    /// How many calls have failed, by code.
    pub fn failures(&self) -> impl Iterator<Item = (Code, u64)> {
        Code::ALL.into_iter().zip(self.failures.iter().map(|count| count.load(Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up() {
        let calls = Calls::default();
        for took_us in [0, 100, 101, 60_000_000, 60_000_001] {
            calls.count(1, Duration::from_micros(took_us), &Ok(()));
        }
        let error = ApiError::new(Code::Pending, ["x".into()]);
        calls.count::<()>(usize::MAX, Duration::MAX, &Err(error));
        let latencies: Vec<_> = calls.latencies().collect();
        assert_eq!(latencies.len(), 1);
        let (name, latency) = &latencies[0];
        assert_eq!(
            (*name, latency.count, latency.total),
            (VERBS[1].name, 5, Duration::from_micros(120_000_202))
        );
        let sums: Vec<_> = latency.buckets.iter().map(|(_, sum)| *sum).collect();
        assert_eq!(sums, [2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4]);
        assert!(BOUNDS_US.is_sorted());
        assert_eq!(
            calls.failures().filter(|(_, count)| *count > 0).collect::<Vec<_>>(),
            [(Code::Pending, 1)]
        );
    }
}

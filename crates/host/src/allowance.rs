//! How often something may happen that a stranger causes: lines of a log, records of events.

use std::time::{Duration, Instant};

/// A token bucket. Time is passed in, so that it needs no clock of its own.
#[derive(Debug)]
pub struct Allowance {
    burst: u32,
    per_second: u32,
    left: u32,
    since: Instant,
    refused: u64,
}

impl Allowance {
    /// `burst` at once, and `per_second`, which is not 0, in the long run.
    pub fn new(burst: u32, per_second: u32, now: Instant) -> Self {
        Self { burst, per_second, left: burst, since: now, refused: 0 }
    }

    /// Whether one more may happen at `now`.
    pub fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => {
                self.refused = self.refused.saturating_add(1);
                false
            }
        }
    }

    /// How many were refused since this was asked last, once one more may happen at `now`.
    pub fn refused(&mut self, now: Instant) -> Option<u64> {
        self.fill(now);
        (self.refused > 0 && self.left > 0).then(|| std::mem::take(&mut self.refused))
    }

    fn fill(&mut self, now: Instant) {
        let step = Duration::from_secs(1) / self.per_second.max(1);
        let steps = now.saturating_duration_since(self.since).as_nanos() / step.as_nanos().max(1);
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        if steps >= self.burst.saturating_sub(self.left) {
            (self.left, self.since) = (self.burst, now);
        } else {
            self.left += steps;
            self.since += step * steps;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_some_per_second() {
        let start = Instant::now();
        let mut allowance = Allowance::new(3, 2, start);
        let after = |ms| start + Duration::from_millis(ms);
        let taken = [0, 0, 0, 0, 499, 500, 999, 1000, 1001].map(|ms| allowance.take(after(ms)));
        assert_eq!(taken, [true, true, true, false, false, true, false, true, false]);
        assert_eq!(allowance.refused(after(1002)), None);
        assert_eq!(allowance.refused(after(1500)), Some(4));
        assert_eq!(allowance.refused(after(1500)), None);
        // A long rest gives one burst, not more.
        let later = after(3_600_000);
        assert_eq!([(); 4].map(|()| allowance.take(later)), [true, true, true, false]);
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back() {
        let start = Instant::now();
        let mut allowance = Allowance::new(1, 1000, start + Duration::from_secs(1));
        assert!(allowance.take(start + Duration::from_secs(1)));
        assert!(!allowance.take(start));
    }
}

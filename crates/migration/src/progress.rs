//! How far a migration is, and when it will be good enough to stop the guest.

use std::time::Duration;

/// What the source is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Connecting, and telling the destination what machine it will be.
    #[default]
    Connecting,
    /// Sending RAM while the guest runs.
    Precopy,
    /// The guest stands still: the rest of RAM, and the state.
    Handover,
    /// The machine has gone; pages are sent when they are asked for.
    Postcopy,
}

/// How far a migration is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// What the source is doing.
    pub phase: Phase,
    /// The pass over RAM, from 0.
    pub pass: u32,
    /// Bytes of RAM that went over the wire in all passes.
    pub sent_bytes: u64,
    /// Bytes of RAM that cost none, because they are zero.
    pub zero_bytes: u64,
    /// Bytes of RAM that this pass has yet to send, as far as is known.
    pub left_bytes: u64,
    /// Bytes per second that the guest wrote in the last pass.
    pub dirty_rate: u64,
    /// Bytes per second that were sent.
    pub throughput: u64,
    /// How long the guest would stand still if this pass were the last, in ms.
    pub downtime_ms: u64,
    /// Percent of their time that is taken from the guest's CPUs.
    pub throttle: u8,
}

/// Passes that send less than this say little about how fast the wire is.
const MEANINGFUL_LEN: u64 = 1 << 20;
/// A pass that leaves more than this part of what the one before left does not converge, in percent.
const CONVERGING: u64 = 70;
/// Steps of taking time from the guest's CPUs, in percent.
const THROTTLE_FIRST: u8 = 20;
const THROTTLE_STEP: u8 = 10;
const THROTTLE_MOST: u8 = 99;

/// What is known from the passes so far.
#[derive(Debug, Default)]
pub(crate) struct Estimate {
    throughput: u64,
    left: Option<u64>,
}

impl Estimate {
    /// A pass sent `sent` bytes in `time`, in which the guest wrote `left` bytes: brings `progress` up to date.
    pub(crate) fn pass(&mut self, sent: u64, time: Duration, left: u64, progress: &mut Progress) {
        if self.throughput == 0 || sent >= MEANINGFUL_LEN {
            self.throughput = per_second(sent, time);
        }
        progress.left_bytes = left;
        progress.throughput = self.throughput;
        progress.dirty_rate = per_second(left, time);
        progress.downtime_ms = left.saturating_mul(1000).div_ceil(self.throughput.max(1));
    }

    /// How far the guest is to be slowed down now, given how far it is and what is `left`.
    pub(crate) fn throttle(&mut self, now: u8, left: u64) -> u8 {
        let before = self.left.replace(left);
        match before {
            Some(before) if left > before / 100 * CONVERGING && now == 0 => THROTTLE_FIRST,
            Some(before) if left > before / 100 * CONVERGING => {
                now.saturating_add(THROTTLE_STEP).min(THROTTLE_MOST)
            }
            _ => now,
        }
    }
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
    u64::try_from(u128::from(bytes) * 1_000_000 / u128::from(us)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_downtime_is_what_is_left_over_what_was_sent_per_second() {
        let (mut estimate, mut progress) = (Estimate::default(), Progress::default());
        estimate.pass(100 << 20, SECOND, 10 << 20, &mut progress);
        assert_eq!(
            (progress.downtime_ms, progress.throughput, progress.dirty_rate),
            (100, 100 << 20, 10 << 20)
        );
        // A pass of a few pages takes as long as a message does, which says nothing of the wire.
        estimate.pass(4096, SECOND, 1 << 20, &mut progress);
        assert_eq!((progress.downtime_ms, progress.throughput), (10, 100 << 20));
        estimate.pass(50 << 20, SECOND, 50 << 20, &mut progress);
        assert_eq!(progress.downtime_ms, 1000);
    }

    #[test]
    fn no_time_and_no_bytes_are_no_fault() {
        let (mut estimate, mut progress) = (Estimate::default(), Progress::default());
        estimate.pass(0, Duration::ZERO, u64::MAX, &mut progress);
        assert_eq!((progress.downtime_ms, progress.throughput), (u64::MAX, 0));
        estimate.pass(0, Duration::ZERO, 0, &mut progress);
        assert_eq!(progress.downtime_ms, 0);
    }

    #[test]
    fn a_guest_that_outruns_the_wire_is_slowed_down() {
        let mut estimate = Estimate::default();
        assert_eq!(estimate.throttle(0, 1000), 0);
        assert_eq!(estimate.throttle(0, 500), 0);
        assert_eq!(estimate.throttle(0, 450), 20);
        assert_eq!(estimate.throttle(20, 440), 30);
        assert_eq!(estimate.throttle(30, 100), 30);
        assert_eq!(estimate.throttle(95, 100), 99);
        assert_eq!(estimate.throttle(99, 200), 99);
    }
}

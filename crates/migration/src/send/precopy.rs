//! Sending RAM while the guest runs, pass by pass, until what is left takes no longer than the guest may stand still.

use std::sync::Arc;
use std::time::Instant;

use config::TimeoutStrategy;

use super::pieces::{Amount, PIECE_LEN, PIECE_RANGES, Zeroes, send_piece};
use super::pool::Pool;
use super::{SendError, Sending, machine};
use crate::connection::Connection;
use crate::progress::{Estimate, Phase};
use crate::ranges::{Range, merged, pieces, total};
use crate::sides::Source;
use crate::wire::Abilities;

impl Sending<'_> {
    /// All of RAM. Afterwards the guest stands still, and the destination has its memory but for what saving its state writes.
    pub(super) fn precopy(&mut self, main: &mut Connection) -> Result<(), SendError> {
        let started = Instant::now();
        self.source.track(true).map_err(machine("track the guest's writes"))?;
        self.tracked = true;
        if self.settings.connections > 1 {
            let memory = self.source.memory();
            let pool = Pool::start(&**self.dial, self.settings.connections, memory, self.settings.limits)?;
            self.pool = Some(pool);
        }
        let mut rest = merged(self.source.occupied().map_err(machine("look for memory in use"))?);
        let mut estimate = Estimate::default();
        while self.running {
            let pass_started = Instant::now();
            self.report(Phase::Precopy);
            let sent = self.send_memory(main, &rest)?.sent;
            rest = self.take_dirty()?;
            estimate.pass(sent, pass_started.elapsed(), total(&rest), &mut self.progress);
            self.report(Phase::Precopy);
            if self.is_good_enough(started, &mut estimate)? {
                break;
            }
            self.progress.pass += 1;
        }
        self.pause()?;
        rest.extend(self.take_dirty()?);
        self.send_memory(main, &merged(rest)).map(drop)
    }

    /// What was written while the state was saved.
    pub(super) fn send_written(&mut self, main: &mut Connection) -> Result<(), SendError> {
        let written = self.take_dirty()?;
        self.send_memory(main, &written)?;
        // Its connections have nothing more to do.
        self.pool = None;
        Ok(())
    }

    fn is_good_enough(&mut self, started: Instant, estimate: &mut Estimate) -> Result<bool, SendError> {
        let left = self.progress.left_bytes;
        let downtime_ms = self.progress.downtime_ms;
        if left == 0 || u128::from(downtime_ms) <= self.settings.downtime.as_millis() {
            return Ok(true);
        }
        if started.elapsed() >= self.settings.timeout {
            return match self.settings.on_timeout {
                TimeoutStrategy::Ignore => Ok(true),
                TimeoutStrategy::Cancel => {
                    let timeout_s = self.settings.timeout.as_secs();
                    Err(SendError::Timeout { timeout_s, downtime_ms })
                }
            };
        }
        let throttle = estimate.throttle(self.progress.throttle, left);
        if self.settings.throttle && throttle != self.progress.throttle {
            self.source.throttle(throttle).map_err(machine("slow the guest down"))?;
            self.progress.throttle = throttle;
        }
        Ok(false)
    }

    fn take_dirty(&mut self) -> Result<Vec<Range>, SendError> {
        self.source.take_dirty().map(merged).map_err(machine("see what the guest has written"))
    }

    fn send_memory(&mut self, main: &mut Connection, ranges: &[Range]) -> Result<Amount, SendError> {
        let zeroes = if !std::mem::replace(&mut self.filled, true) {
            Zeroes::Skip
        } else if self.abilities.has(Abilities::ZERO) {
            Zeroes::Tell
        } else {
            Zeroes::Send
        };
        let pieces = pieces(ranges, PIECE_LEN, PIECE_RANGES);
        let mut tally = Tally { source: &mut *self.source, before: self.progress, total: total(ranges) };
        let done = match &self.pool {
            Some(pool) => pool.send(pieces, zeroes, self.watch, |done| tally.report(done))?,
            None => {
                let memory: Arc<_> = tally.source.memory();
                let mut done = Amount::default();
                for piece in &pieces {
                    let amount = send_piece(main, &*memory, piece, zeroes, &self.settings.limits)?;
                    done.sent += amount.sent;
                    done.zero += amount.zero;
                    tally.report(done);
                }
                done
            }
        };
        self.progress.sent_bytes += done.sent;
        self.progress.zero_bytes += done.zero;
        self.progress.left_bytes = 0;
        Ok(done)
    }
}

/// Tells the machine's owner how far a pass is.
struct Tally<'a> {
    source: &'a mut dyn Source,
    before: crate::Progress,
    total: u64,
}

impl Tally<'_> {
    fn report(&mut self, done: Amount) {
        let mut now = self.before;
        now.sent_bytes += done.sent;
        now.zero_bytes += done.zero;
        now.left_bytes = self.total.saturating_sub(done.sent + done.zero);
        self.source.progress(&now);
    }
}

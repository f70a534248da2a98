//! The watchdog's queue and timer, on its thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use device::{Event, Events};
use host::{EventSet, TimerFd};
use memory::{Bytes, DmaView};
use virtio::{Chain, Context, Fault, Handler};

use super::{TIMEOUT, Timing};

const TIMER: u32 = 0;
/// The device's answer to a ping.
const ALIVE: u8 = 1;

/// Waits for pings.
pub(super) struct Vigil {
    events: Events,
    timing: Timing,
    armed: Arc<AtomicBool>,
    last_ping: Duration,
    timer: TimerFd,
}

impl Vigil {
    pub(super) fn new(events: Events, timing: Timing, armed: Arc<AtomicBool>) -> io::Result<Self> {
        let timer = TimerFd::new()?;
        Ok(Self { events, timing, armed, last_ping: Duration::ZERO, timer })
    }

    fn arm(&mut self) -> io::Result<()> {
        self.last_ping = (self.timing.clock)();
        self.armed.store(true, Ordering::SeqCst);
        Ok(self.timer.reset(self.timing.interval, Some(self.timing.interval))?)
    }

    fn ping(&mut self, chain: Chain<'_>, ram: &DmaView) -> Result<u32, Fault> {
        let mut chain = chain;
        let buffer = chain.next().ok_or(Fault::Protocol("a ping without a buffer"))?;
        if !buffer.is_write_only() || buffer.len() == 0 {
            return Err(Fault::Protocol("a ping leaves no room for the answer"));
        }
        ram.write_obj(ALIVE, buffer.addr()).map_err(|_| Fault::Protocol("a ping's buffer is not in RAM"))?;
        if self.armed.load(Ordering::SeqCst) {
            self.last_ping = (self.timing.clock)();
        } else {
            self.arm()?;
        }
        Ok(1)
    }

    fn is_overdue(&self) -> bool {
        (self.timing.clock)().saturating_sub(self.last_ping) > TIMEOUT
    }
}

impl Handler for Vigil {
    fn start(&mut self, context: &mut Context<'_>, _: u64) -> Result<(), Fault> {
        if self.armed.load(Ordering::SeqCst) {
            self.arm()?;
        }
        Ok(context.watch.add(&self.timer, TIMER, EventSet::IN)?)
    }

    fn queue(&mut self, position: usize, context: &mut Context<'_>) -> Result<(), Fault> {
        let Some(queue) = context.queues.get_mut(position) else { return Ok(()) };
        queue.serve(context.ram, |chain| self.ping(chain, context.ram).map(Some))
    }

    fn event(&mut self, _: u32, _: EventSet, _: &mut Context<'_>) -> Result<(), Fault> {
        self.timer.wait().map_err(io::Error::from)?;
        if self.is_overdue() {
            tracing::warn!(target: "guest", "The watchdog has heard nothing for {} s: resetting the guest", TIMEOUT.as_secs());
            // Once is enough: the reset builds another watchdog.
            self.timer.clear().map_err(io::Error::from)?;
            self.events.raise(Event::Reset);
        }
        Ok(())
    }

    fn stop(&mut self, context: &mut Context<'_>) {
        // A timer that could not be armed is not watched either.
        let _ = context.watch.remove(&self.timer);
        let _ = self.timer.clear();
    }
}

//! The watchdog's queue and timer, on its thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use device::{Event, Events};
use host::{EventSet, TimerFd};
use memory::{Bytes, GuestRam, RamMap};
use virtio::{ActiveQueue, Chain, Fault, Handler, Signals, Watch};

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

    fn ping(&mut self, chain: Chain<'_>, ram: &RamMap) -> Result<u32, Fault> {
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
    fn start(&mut self, watch: &Watch, _: &GuestRam, _: u64, _: &Arc<Signals>) -> Result<(), Fault> {
        if self.armed.load(Ordering::SeqCst) {
            self.arm()?;
        }
        Ok(watch.add(&self.timer, TIMER, EventSet::IN)?)
    }

    fn queue(&mut self, position: usize, queues: &mut [ActiveQueue], ram: &GuestRam) -> Result<(), Fault> {
        let Some(queue) = queues.get_mut(position) else { return Ok(()) };
        queue.serve(ram.map(), |chain| self.ping(chain, ram.map()).map(Some))
    }

    fn event(&mut self, _: u32, _: EventSet, _: &mut [ActiveQueue], _: &GuestRam) -> Result<(), Fault> {
        self.timer.wait().map_err(io::Error::from)?;
        if self.is_overdue() {
            tracing::warn!("The watchdog has heard nothing for {} s: resetting the guest", TIMEOUT.as_secs());
            // Once is enough: the reset builds another watchdog.
            self.timer.clear().map_err(io::Error::from)?;
            self.events.raise(Event::Reset);
        }
        Ok(())
    }

    fn stop(&mut self, watch: &Watch, _: &mut [ActiveQueue], _: &GuestRam) {
        // A timer that could not be armed is not watched either.
        let _ = watch.remove(&self.timer);
        let _ = self.timer.clear();
    }
}

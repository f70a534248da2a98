//! The worker of one queue pair.
//!
//! ```text
//!                    no buffers                     bell of the receive queue
//!  watching the tap ------------> waiting for bells --------------------------> receives; if the tap runs dry first, watches again
//! ```
//! Transmitting starts with a bell and ends with an empty ring; while the tap is full it waits for the tap instead.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ::net::{Scatter, TapQueue};
use host::EventSet;
use memory::GuestRam;
use virtio::{ActiveQueue, Fault, Handler, Signals, Watch};

use super::announce::Announcer;
use super::receive::{self, receive};
use super::shared::{PairCounters, Shared};
use super::transmit::{self, transmit};
use super::watch::TapWatch;

const TAP: u32 = 0;
const ANNOUNCE: u32 = 1;

/// As many frames as a tap's queue holds by default.
const STALE_FRAMES: usize = 1000;

pub(super) struct Pair {
    number: u16,
    tap: Arc<TapQueue>,
    watch: TapWatch,
    scatter: Scatter,
    announcer: Option<Announcer>,
    shared: Arc<Shared>,
}

impl Pair {
    pub(super) fn new(number: u16, tap: Arc<TapQueue>, shared: Arc<Shared>) -> io::Result<Self> {
        Ok(Self { number, tap, watch: TapWatch::new()?, scatter: Scatter::new(), announcer: None, shared })
    }

    /// What one pair does for all: the tap's settings, and the network's notice.
    fn start_device(&mut self, watch: &Watch) -> io::Result<()> {
        self.shared.apply()?;
        if self.shared.fresh.swap(false, Ordering::SeqCst) {
            self.tap.discard(STALE_FRAMES);
        }
        if self.shared.moved.swap(false, Ordering::SeqCst) {
            self.announcer = Some(Announcer::start(watch, ANNOUNCE, &self.tap, self.shared.mac)?);
        }
        Ok(())
    }

    fn receive(&mut self, queue: &mut ActiveQueue, ram: &GuestRam) -> Result<(), Fault> {
        let Some(PairCounters { rx: traffic, .. }) = self.shared.counters.pair(self.number) else {
            return Ok(());
        };
        match receive(&self.tap, &mut self.scatter, queue, ram.map(), traffic)? {
            receive::Pause::Dry | receive::Pause::Turn => self.watch.set(&self.tap, EventSet::IN, true)?,
            receive::Pause::NoBuffers => self.watch.set(&self.tap, EventSet::IN, false)?,
            receive::Pause::Gone(e) => self.lose(&e),
        }
        Ok(())
    }

    fn transmit(&mut self, queue: &mut ActiveQueue, ram: &GuestRam) -> Result<(), Fault> {
        let Some(PairCounters { tx: traffic, .. }) = self.shared.counters.pair(self.number) else {
            return Ok(());
        };
        let pause = transmit(&self.tap, &mut self.scatter, queue, ram.map(), traffic)?;
        self.watch.set(&self.tap, EventSet::OUT, pause == transmit::Pause::Full)?;
        if pause == transmit::Pause::Turn {
            queue.kick.write(1)?;
        }
        Ok(())
    }

    /// The interface was deleted under us. The guest sees a network on which nothing happens.
    fn lose(&mut self, error: &io::Error) {
        tracing::warn!("{}: the tap interface is gone: {error}", self.shared.id);
        self.watch.park(&self.tap);
    }
}

impl Handler for Pair {
    fn start(&mut self, watch: &Watch, _: &GuestRam, _: u64, _: &Arc<Signals>) -> Result<(), Fault> {
        if self.number == 0 {
            self.start_device(watch)?;
        }
        Ok(self.watch.start(watch, TAP, &self.tap)?)
    }

    fn queue(&mut self, position: usize, queues: &mut [ActiveQueue], ram: &GuestRam) -> Result<(), Fault> {
        let Some(queue) = queues.get_mut(position) else { return Ok(()) };
        if is_transmit(queue) {
            if self.watch.has(EventSet::OUT) { Ok(()) } else { self.transmit(queue, ram) }
        } else if self.watch.is_parked() || self.watch.has(EventSet::IN) {
            Ok(())
        } else {
            self.receive(queue, ram)
        }
    }

    fn event(
        &mut self,
        token: u32,
        _: EventSet,
        queues: &mut [ActiveQueue],
        ram: &GuestRam,
    ) -> Result<(), Fault> {
        if token == ANNOUNCE {
            if let Some(announcer) = &mut self.announcer {
                announcer.tick(&self.tap)?;
            }
            return Ok(());
        }
        let (reads, writes) = (self.watch.has(EventSet::IN), self.watch.has(EventSet::OUT));
        // An error wakes us even when we wait for nothing; so does news that a bell in the same batch of events has dealt with.
        if !reads && !writes && self.watch.has_failed() {
            self.lose(&io::ErrorKind::NotConnected.into());
        }
        let mut received = false;
        for queue in queues {
            if is_transmit(queue) && writes {
                self.transmit(queue, ram)?;
            } else if !is_transmit(queue) && reads {
                self.receive(queue, ram)?;
                received = true;
            }
        }
        if reads && !received {
            // The driver left the receive queue out.
            self.watch.set(&self.tap, EventSet::IN, false)?;
        }
        Ok(())
    }

    fn stop(&mut self, watch: &Watch, _: &mut [ActiveQueue], _: &GuestRam) {
        self.watch.stop(watch, &self.tap);
        if let Some(announcer) = self.announcer.take() {
            announcer.stop(watch);
        }
    }
}

/// Receive and transmit queues alternate (§5.1.2).
fn is_transmit(queue: &ActiveQueue) -> bool {
    queue.index % 2 == 1
}

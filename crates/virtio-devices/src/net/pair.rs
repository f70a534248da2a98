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
use memory::DmaView;
use virtio::{ActiveQueue, Context, Fault, Handler, Watch};

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
    pub(super) fn new(number: u16, tap: Arc<TapQueue>, shared: Arc<Shared>) -> Self {
        Self { number, tap, watch: TapWatch::new(TAP), scatter: Scatter::new(), announcer: None, shared }
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

    fn receive(&mut self, queue: &mut ActiveQueue, ram: &DmaView, watch: &Watch) -> Result<(), Fault> {
        let Some(PairCounters { rx: traffic, .. }) = self.shared.counters.pair(self.number) else {
            return Ok(());
        };
        match receive(&self.tap, &mut self.scatter, queue, ram, traffic)? {
            receive::End::Dry | receive::End::Turn => self.watch.set(watch, &self.tap, EventSet::IN, true)?,
            receive::End::NoBuffers => self.watch.set(watch, &self.tap, EventSet::IN, false)?,
            receive::End::Gone(e) => self.lose(watch, &e),
        }
        Ok(())
    }

    fn transmit(&mut self, queue: &mut ActiveQueue, ram: &DmaView, watch: &Watch) -> Result<(), Fault> {
        let Some(PairCounters { tx: traffic, .. }) = self.shared.counters.pair(self.number) else {
            return Ok(());
        };
        let end = transmit(&self.tap, &mut self.scatter, queue, ram, traffic)?;
        self.watch.set(watch, &self.tap, EventSet::OUT, end == transmit::End::Full)?;
        if end == transmit::End::Turn {
            queue.kick.write(1)?;
        }
        Ok(())
    }

    /// The interface was deleted under us. The guest sees a network on which nothing happens.
    fn lose(&mut self, watch: &Watch, error: &io::Error) {
        tracing::warn!("{}: the tap interface is gone: {error}", self.shared.id);
        self.watch.park(watch, &self.tap);
    }
}

impl Handler for Pair {
    fn start(&mut self, context: &mut Context<'_>, _: u64) -> Result<(), Fault> {
        if self.number == 0 {
            self.start_device(context.watch)?;
        }
        Ok(self.watch.start(context.watch, &self.tap)?)
    }

    fn queue(&mut self, position: usize, context: &mut Context<'_>) -> Result<(), Fault> {
        let Context { queues, ram, watch, .. } = context;
        let Some(queue) = queues.get_mut(position) else { return Ok(()) };
        if is_transmit(queue) {
            if self.watch.has(EventSet::OUT) { Ok(()) } else { self.transmit(queue, ram, watch) }
        } else if self.watch.is_parked() || self.watch.has(EventSet::IN) {
            Ok(())
        } else {
            self.receive(queue, ram, watch)
        }
    }

    fn event(&mut self, token: u32, ready: EventSet, context: &mut Context<'_>) -> Result<(), Fault> {
        if token == ANNOUNCE {
            if let Some(announcer) = &mut self.announcer {
                announcer.tick(&self.tap)?;
            }
            return Ok(());
        }
        let Context { queues, ram, watch, .. } = context;
        let (reads, writes) = (self.watch.has(EventSet::IN), self.watch.has(EventSet::OUT));
        // An error wakes us even when we wait for nothing; so does news that a bell in the same batch of events has dealt with.
        if !reads && !writes && ready.intersects(EventSet::ERROR | EventSet::HANG_UP) {
            self.lose(watch, &io::ErrorKind::NotConnected.into());
        }
        let mut received = false;
        for queue in queues.iter_mut() {
            if is_transmit(queue) && writes {
                self.transmit(queue, ram, watch)?;
            } else if !is_transmit(queue) && reads {
                self.receive(queue, ram, watch)?;
                received = true;
            }
        }
        if reads && !received {
            // The driver left the receive queue out.
            self.watch.set(watch, &self.tap, EventSet::IN, false)?;
        }
        Ok(())
    }

    fn stop(&mut self, context: &mut Context<'_>) {
        self.watch.park(context.watch, &self.tap);
        if let Some(announcer) = self.announcer.take() {
            announcer.stop(context.watch);
        }
    }
}

/// Receive and transmit queues alternate (§5.1.2).
fn is_transmit(queue: &ActiveQueue) -> bool {
    queue.index % 2 == 1
}

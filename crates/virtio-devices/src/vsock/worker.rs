//! The queues, the listening socket and the clock, on the device's thread.

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::{EventSet, TimerFd};
use memory::DmaView;
use virtio::{ActiveQueue, Context, Fault, Handler, Watch};
use virtio_queue::{QueueOwnedT, QueueT};

use super::listener;
use super::muxer::Muxer;
use super::packet::{HEADER_LEN, MAX_PAYLOAD};
use super::span::Span;
use super::state::Shared;
use super::table::LAST_TOKEN;

/// Packets to the guest.
pub(super) const RECEIVE: u16 = 0;
/// Packets of the guest's.
pub(super) const TRANSMIT: u16 = 1;
/// What happens to the device.
pub(super) const EVENT: u16 = 2;

const LISTENER: u32 = LAST_TOKEN;
const CLOCK: u32 = LAST_TOKEN - 1;

/// How exactly time is kept while somebody is waited for.
const TICK: Duration = Duration::from_millis(100);
/// Packets in one direction before others have their turn.
const TURN: u32 = 256;
/// Clients let in before others have their turn.
const CLIENTS: u32 = 16;
/// The only event there is: all connections are gone.
const TRANSPORT_RESET: u32 = 0;

/// See the module.
pub(super) struct Worker {
    shared: Arc<Shared>,
    /// Lies in `shared` while the device stands still.
    muxer: Option<Muxer>,
    listener: Arc<UnixListener>,
    /// No more clients can be let in at the moment.
    is_deaf: bool,
    clock: TimerFd,
    is_ticking: bool,
    span: Span,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, listener: Arc<UnixListener>) -> io::Result<Self> {
        let clock = TimerFd::new()?;
        Ok(Self {
            shared,
            muxer: None,
            listener,
            is_deaf: false,
            clock,
            is_ticking: false,
            span: Span::default(),
        })
    }

    /// Lets clients in.
    fn welcome(&mut self, watch: &Watch) {
        let Some(muxer) = &mut self.muxer else { return };
        for _ in 0..CLIENTS {
            match listener::accept(&self.listener) {
                Ok(Some(client)) => muxer.welcome(client, watch),
                Ok(None) => return,
                Err(error) => {
                    // Trying again at once would spin; the clock tries again.
                    tracing::warn!(target: "guest", "The vsock socket takes no more clients for now: {error}");
                    let _ = watch.change(&*self.listener, LISTENER, EventSet::empty());
                    self.is_deaf = true;
                    return;
                }
            }
        }
    }

    fn tick(&mut self, watch: &Watch) -> Result<(), Fault> {
        self.clock.wait().map_err(io::Error::from)?;
        self.is_ticking = false;
        if std::mem::take(&mut self.is_deaf) {
            watch.change(&*self.listener, LISTENER, EventSet::IN)?;
        }
        if let Some(muxer) = &mut self.muxer {
            muxer.tick(Instant::now(), watch);
        }
        Ok(())
    }

    /// What every wake ends with: the guest hears what there is to tell, and the clock runs if somebody is waited for.
    fn finish(&mut self, context: &mut Context<'_>) -> Result<(), Fault> {
        self.tell(context)?;
        let is_waiting = self.is_deaf || self.muxer.as_ref().is_some_and(|muxer| muxer.is_waiting);
        if is_waiting && !self.is_ticking {
            self.clock.reset(TICK, None).map_err(io::Error::from)?;
            self.is_ticking = true;
        }
        Ok(())
    }

    /// Moves packets to the guest until either side has no more.
    fn tell(&mut self, context: &mut Context<'_>) -> Result<(), Fault> {
        let Some(muxer) = &mut self.muxer else { return Ok(()) };
        if !muxer.has_news() {
            return Ok(());
        }
        let was_congested = muxer.is_congested();
        let Some(queue) = queue_of(context.queues, RECEIVE) else { return Ok(()) };
        let is_over = fill(muxer, queue, &mut self.span, context.ram)?;
        if !is_over {
            let _ = queue.kick.write(1);
        }
        if was_congested
            && !muxer.is_congested()
            && let Some(queue) = queue_of(context.queues, TRANSMIT)
        {
            let _ = queue.kick.write(1);
        }
        Ok(())
    }

    /// Takes the guest's packets until there are no more, or too many answers wait.
    fn take(&mut self, position: usize, context: &mut Context<'_>) -> Result<(), Fault> {
        let Some(muxer) = &mut self.muxer else { return Ok(()) };
        let Some(queue) = context.queues.get_mut(position) else { return Ok(()) };
        let ram = context.ram;
        queue.queue.disable_notification(ram)?;
        for _ in 0..TURN {
            // The rest is looked at once the guest has taken some of the answers.
            if muxer.is_congested() {
                return queue.notify(ram);
            }
            let Some(chain) = queue.pop_or_listen(ram)? else { return queue.notify(ram) };
            let head = chain.head_index();
            self.span.load(chain, false);
            if self.span.len() >= HEADER_LEN {
                let header = self.span.read_header(ram)?;
                let len = header.len as usize;
                if len <= MAX_PAYLOAD.min(self.span.len() - HEADER_LEN) {
                    muxer.take(&header, (&self.span, ram), context.watch)?;
                }
            }
            queue.push(ram, head, 0)?;
        }
        let _ = queue.kick.write(1);
        queue.notify(ram)
    }

    /// Tells the guest that it has no connections any more, once it has a buffer for that.
    fn announce(&mut self, context: &mut Context<'_>) -> Result<(), Fault> {
        if !self.shared.has_moved() {
            return Ok(());
        }
        let Some(queue) = queue_of(context.queues, EVENT) else { return Ok(()) };
        let Some(chain) = queue.pop_or_listen(context.ram)? else { return Ok(()) };
        let head = chain.head_index();
        self.span.load(chain, true);
        let event = TRANSPORT_RESET.to_le_bytes();
        let written = if self.span.len() < event.len() { 0 } else { event.len() };
        self.span.write(event.get(..written).unwrap_or_default(), context.ram)?;
        queue.push(context.ram, head, written as u32)?;
        self.shared.set_moved(false);
        queue.notify(context.ram)
    }
}

fn queue_of(queues: &mut [ActiveQueue], index: u16) -> Option<&mut ActiveQueue> {
    queues.iter_mut().find(|queue| queue.index == index)
}

/// Fills the guest's buffers. False if there is more to do when the turn is over.
fn fill(muxer: &mut Muxer, queue: &mut ActiveQueue, span: &mut Span, ram: &DmaView) -> Result<bool, Fault> {
    queue.queue.disable_notification(ram)?;
    for _ in 0..TURN {
        if !muxer.has_news() {
            queue.notify(ram)?;
            return Ok(true);
        }
        let Some(chain) = queue.pop_or_listen(ram)? else {
            queue.notify(ram)?;
            return Ok(true);
        };
        let head = chain.head_index();
        span.load(chain, true);
        let header = if span.len() < HEADER_LEN { None } else { muxer.tell((span, ram))? };
        match header {
            Some(header) => {
                span.write_header(header, ram)?;
                queue.push(ram, head, header.len + HEADER_LEN as u32)?;
            }
            // No bytes fit, and none ever will.
            None if span.len() <= HEADER_LEN => queue.push(ram, head, 0)?,
            None => queue.queue.go_to_previous_position(),
        }
    }
    queue.notify(ram)?;
    Ok(false)
}

impl Handler for Worker {
    fn start(&mut self, context: &mut Context<'_>, _: u64) -> Result<(), Fault> {
        self.muxer = self.shared.take();
        context.watch.add(&*self.listener, LISTENER, EventSet::IN)?;
        context.watch.add(&self.clock, CLOCK, EventSet::IN)?;
        (self.is_deaf, self.is_ticking) = (false, false);
        if let Some(muxer) = &mut self.muxer {
            muxer.start(context.watch);
        }
        self.announce(context)?;
        self.finish(context)
    }

    fn queue(&mut self, position: usize, context: &mut Context<'_>) -> Result<(), Fault> {
        match context.queues.get(position).map(|queue| queue.index) {
            Some(TRANSMIT) => self.take(position, context)?,
            Some(EVENT) => self.announce(context)?,
            _ => {}
        }
        self.finish(context)
    }

    fn event(&mut self, token: u32, ready: EventSet, context: &mut Context<'_>) -> Result<(), Fault> {
        match token {
            LISTENER => self.welcome(context.watch),
            CLOCK => self.tick(context.watch)?,
            token => {
                if let Some(muxer) = &mut self.muxer {
                    muxer.look(token, ready, context.watch);
                }
            }
        }
        self.finish(context)
    }

    fn stop(&mut self, context: &mut Context<'_>) {
        let _ = context.watch.remove(&*self.listener);
        let _ = context.watch.remove(&self.clock);
        let _ = self.clock.clear();
        if let Some(mut muxer) = self.muxer.take() {
            muxer.stop(context.watch);
            self.shared.put(muxer);
        }
    }
}

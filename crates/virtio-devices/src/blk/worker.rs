//! One queue of a disk: takes requests, keeps them in the engine, answers. Runs on the queue's own thread.

use std::sync::Arc;
use std::time::Instant;

use block::{Buffer, Completion, Engine, Kind};
use host::EventSet;
use memory::{Bytes, DmaView, GuestAddress};
use rustix::thread::CpuSet;
use virtio::{ActiveQueue, Chain, Context, Fault, Handler};
use virtio_bindings::virtio_blk::{VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK};
use virtio_queue::{QueueOwnedT, QueueT};

use super::Disk;
use super::disk::{Decision, SERIAL_LEN};
use super::request::{self, Request};

/// Rounds over the rings before the thread looks at its mail again, so that a driver cannot keep it from stopping.
const MAX_ROUNDS: u32 = 64;
const BELL: u32 = 0;

/// The worker half of one queue.
pub(super) struct QueueHandler {
    disk: Arc<Disk>,
    index: u16,
    queue_size: u16,
    /// CPUs to bind the thread to when it first runs.
    cpus: Option<CpuSet>,
    serving: Option<Serving>,
}

impl QueueHandler {
    pub(super) fn new(disk: Arc<Disk>, index: u16, queue_size: u16, cpus: Option<CpuSet>) -> Self {
        Self { disk, index, queue_size, cpus, serving: None }
    }

    fn run(&mut self, context: &mut Context<'_>) -> Result<(), Fault> {
        match (&mut self.serving, context.queues.first_mut()) {
            (Some(serving), Some(queue)) => serving.run(&self.disk, queue, context.ram),
            _ => Ok(()),
        }
    }
}

impl Handler for QueueHandler {
    fn start(&mut self, context: &mut Context<'_>, features: u64) -> Result<(), Fault> {
        if let Some(cpus) = self.cpus.take()
            && let Err(e) = rustix::thread::sched_setaffinity(None, &cpus)
        {
            tracing::warn!("Queue {} cannot be bound to its host CPUs: {e}", self.index);
        }
        // The engine is made by the thread that uses it, and only once a driver is there.
        let engine = self.disk.image.engine(self.queue_size)?;
        if let Some(bell) = engine.bell() {
            context.watch.add(bell, BELL, EventSet::IN | EventSet::EDGE_TRIGGERED)?;
        }
        self.serving = Some(Serving {
            engine,
            features,
            index: self.index,
            pending: vec![None; self.queue_size.into()],
            buffers: Vec::new(),
            done: Vec::new(),
            answers: Vec::new(),
            has_warned: false,
        });
        Ok(())
    }

    fn queue(&mut self, _position: usize, context: &mut Context<'_>) -> Result<(), Fault> {
        self.run(context)
    }

    fn event(&mut self, _token: u32, _ready: EventSet, context: &mut Context<'_>) -> Result<(), Fault> {
        self.run(context)
    }

    fn stop(&mut self, context: &mut Context<'_>) {
        let Some(mut serving) = self.serving.take() else { return };
        if let Some(bell) = serving.engine.bell() {
            // It is watched since start.
            let _ = context.watch.remove(bell);
        }
        if let Err(e) = serving.engine.drain(&mut serving.done) {
            tracing::error!("Cannot wait for the requests under way: {e}");
        }
        if let Some(queue) = context.queues.first_mut()
            && let Err(fault) = serving.answer(&self.disk, queue, context.ram)
        {
            tracing::warn!(target: "guest", "The last answers are lost: {fault}");
        }
    }
}

/// A request in the engine.
#[derive(Clone, Copy)]
struct Pending {
    kind: Kind,
    len: u32,
    status: GuestAddress,
    since: Instant,
}

/// A queue while its driver runs.
struct Serving {
    engine: Box<dyn Engine>,
    features: u64,
    index: u16,
    /// Requests in the engine by the head of their chain.
    pending: Vec<Option<Pending>>,
    // Kept for their memory.
    buffers: Vec<Buffer>,
    done: Vec<Completion>,
    /// Chains to give back: head, and bytes written to it.
    answers: Vec<(u16, u32)>,
    has_warned: bool,
}

impl Serving {
    /// Takes and answers requests until there is nothing to do but wait for a bell.
    fn run(&mut self, disk: &Disk, queue: &mut ActiveQueue, ram: &DmaView) -> Result<(), Fault> {
        for _ in 0..MAX_ROUNDS {
            queue.queue.disable_notification(ram)?;
            self.take(disk, queue, ram)?;
            self.engine.poll(&mut self.done)?;
            self.answer(disk, queue, ram)?;
            if !queue.queue.enable_notification(ram)? && self.engine.arm() {
                return Ok(());
            }
        }
        Ok(queue.kick.write(1)?)
    }

    /// Moves all chains the driver has made available into the engine.
    fn take(&mut self, disk: &Disk, queue: &mut ActiveQueue, ram: &DmaView) -> Result<(), Fault> {
        let chains = queue.queue.iter(ram)?;
        let mut now = None;
        for chain in chains {
            let since = *now.get_or_insert_with(Instant::now);
            self.take_chain(disk, chain, ram, since)?;
        }
        Ok(())
    }

    fn take_chain(
        &mut self,
        disk: &Disk,
        chain: Chain<'_>,
        ram: &DmaView,
        since: Instant,
    ) -> Result<(), Fault> {
        let head = chain.head_index();
        let slot = self.pending.get_mut(usize::from(head));
        let slot = slot.ok_or(Fault::Protocol("a chain begins outside the descriptor table"))?;
        if slot.is_some() {
            return Err(Fault::Protocol("a request was made available again before it was answered"));
        }
        let Some(request) = request::parse(chain, ram, &mut self.buffers) else {
            self.answers.push((head, 0));
            return Ok(());
        };
        let buffers = &self.buffers;
        match disk.decide(&request, |data| gather(ram, buffers, data)) {
            Decision::Start { kind, offset, len } => {
                let len_in = request.in_len.max(request.out_len);
                *slot = Some(Pending { kind, len: len_in, status: request.status, since });
                let durable = kind != Kind::Read && kind != Kind::Flush && disk.writes_through(self.features);
                let request = block::Request { token: head.into(), kind, offset, len, buffers, durable };
                self.engine.start(&request, ram);
            }
            Decision::Serial => {
                let answer = give_serial(ram, disk, &request, buffers);
                self.answers.push((head, answer));
            }
            Decision::Refuse(status) => self.answers.push((head, put_status(ram, request.status, status, 0))),
        }
        Ok(())
    }

    /// Gives back every chain whose request is over, and interrupts the driver once.
    fn answer(&mut self, disk: &Disk, queue: &mut ActiveQueue, ram: &DmaView) -> Result<(), Fault> {
        if !self.done.is_empty() {
            self.complete(disk, ram);
        }
        if self.answers.is_empty() {
            return Ok(());
        }
        for (head, len) in self.answers.drain(..) {
            queue.push(ram, head, len)?;
        }
        queue.notify(ram)
    }

    /// Turns what the engine has done into answers.
    fn complete(&mut self, disk: &Disk, ram: &DmaView) {
        let now = Instant::now();
        for Completion { token, result } in self.done.drain(..) {
            let head = u16::try_from(token).unwrap_or(u16::MAX);
            let Some(Pending { kind, len, status, since }) =
                self.pending.get_mut(usize::from(head)).and_then(Option::take)
            else {
                continue;
            };
            let written = match (&result, disk.queue_counters(self.index), kind) {
                (Ok(()), Some(counters), Kind::Read) => {
                    counters.count_read(len.into(), now.saturating_duration_since(since));
                    len
                }
                (Ok(()), Some(counters), Kind::Write) => {
                    counters.count_write(len.into(), now.saturating_duration_since(since));
                    0
                }
                (Err(e), ..) if !self.has_warned => {
                    self.has_warned = true;
                    tracing::warn!(target: "guest", "A disk request failed, and later ones may too: {e}");
                    0
                }
                _ => 0,
            };
            let code = if result.is_ok() { VIRTIO_BLK_S_OK } else { VIRTIO_BLK_S_IOERR };
            self.answers.push((head, put_status(ram, status, code as u8, written)));
        }
    }
}

/// Writes the status byte after `written` bytes of data. Answers the bytes the chain holds now.
fn put_status(ram: &DmaView, at: GuestAddress, status: u8, written: u32) -> u32 {
    // The address was checked; RAM that went away meanwhile was the driver's to keep.
    let _ = ram.write_obj(status, at);
    written.saturating_add(1)
}

/// Fills `data` from the front of `buffers`. False if they are not in RAM or too short.
fn gather(ram: &DmaView, buffers: &[Buffer], data: &mut [u8]) -> bool {
    let mut rest = data;
    for &(address, len) in buffers {
        let (now, later) = rest.split_at_mut(rest.len().min(len as usize));
        if ram.read_slice(now, address).is_err() {
            return false;
        }
        rest = later;
    }
    rest.is_empty()
}

/// Answers GET_ID: the serial number, filled up with zeroes as far as there is room.
fn give_serial(ram: &DmaView, disk: &Disk, request: &Request, buffers: &[Buffer]) -> u32 {
    let serial = disk.serial();
    let ioerr = VIRTIO_BLK_S_IOERR as u8;
    if request.out_len > 0 || (request.in_len as usize) < serial.len() {
        return put_status(ram, request.status, ioerr, 0);
    }
    let mut id = [0; SERIAL_LEN];
    id.iter_mut().zip(serial.bytes()).for_each(|(to, from)| *to = from);
    let mut rest: &[u8] = &id;
    for &(address, len) in buffers {
        let (now, later) = rest.split_at(rest.len().min(len as usize));
        if ram.write_slice(now, address).is_err() {
            return put_status(ram, request.status, ioerr, 0);
        }
        rest = later;
    }
    put_status(ram, request.status, VIRTIO_BLK_S_OK as u8, serial.len() as u32)
}

//! The console's queues and stream, on the console's thread.

use std::sync::Arc;

use host::EventSet;
use memory::{Address, Bytes, DmaView, GuestAddress};
use virtio::{ActiveQueue, Chain, Context, Fault, Handler};
use virtio_queue::QueueT;

use super::state::{INPUT_LIMIT, Shared};

pub(super) const RECEIVE: u16 = 0;
pub(super) const TRANSMIT: u16 = 1;

const STREAM: u32 = 0;

/// Output is copied in pieces of this size.
const PIECE: usize = 4096;
/// Bytes of output taken from one chain; drivers send a page.
const CHAIN_LIMIT: usize = 1 << 20;

pub(super) struct Console(Arc<Shared>);

impl Console {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Moves input from the stream to the driver, as far as both go.
    fn receive(&self, queues: &mut [ActiveQueue], ram: &DmaView) -> Result<(), Fault> {
        self.deliver(queues, ram)?;
        let mut data = [0; INPUT_LIMIT];
        let room = if self.0.input().is_empty() { INPUT_LIMIT } else { 0 };
        let count = self.0.stream.service(data.get_mut(..room).unwrap_or_default());
        if count != 0 {
            self.0.input().extend(data.iter().take(count));
            self.deliver(queues, ram)?;
            if !self.0.input().is_empty() {
                // No buffers: hear of no more input until the driver brings some.
                self.0.stream.service(&mut []);
            }
        }
        Ok(())
    }

    /// Moves input that waits here into the driver's buffers.
    fn deliver(&self, queues: &mut [ActiveQueue], ram: &DmaView) -> Result<(), Fault> {
        let Some(queue) = queues.iter_mut().find(|q| q.index == RECEIVE) else { return Ok(()) };
        let mut answered = false;
        while !self.0.input().is_empty() {
            match queue.pop(ram)? {
                Some(chain) => {
                    let head = chain.head_index();
                    let len = self.fill(chain, ram)?;
                    queue.push(ram, head, len)?;
                    answered = true;
                }
                // Buffers may have come before the driver saw that it must ring for them.
                None if queue.queue.enable_notification(ram)? => {}
                None => break,
            }
        }
        if answered { queue.notify(ram) } else { Ok(()) }
    }

    fn fill(&self, chain: Chain<'_>, ram: &DmaView) -> Result<u32, Fault> {
        let mut input = self.0.input();
        let mut written = 0u32;
        for buffer in chain.writable() {
            let count = usize::try_from(buffer.len()).unwrap_or(usize::MAX).min(input.len());
            let bytes: Vec<u8> = input.drain(..count).collect();
            ram.write_slice(&bytes, buffer.addr())
                .map_err(|_| Fault::Protocol("a console buffer is not in RAM"))?;
            written = written.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        }
        Ok(written)
    }

    fn transmit(&self, queue: &mut ActiveQueue, ram: &DmaView) -> Result<(), Fault> {
        queue.serve(ram, |chain| {
            let mut left = CHAIN_LIMIT;
            for buffer in chain.readable() {
                let len = usize::try_from(buffer.len()).unwrap_or(usize::MAX).min(left);
                left -= len;
                self.print(ram, buffer.addr(), len)?;
            }
            Ok(Some(0))
        })
    }

    fn print(&self, ram: &DmaView, address: GuestAddress, len: usize) -> Result<(), Fault> {
        const OUTSIDE: Fault = Fault::Protocol("console output is not in RAM");
        let mut piece = [0; PIECE];
        for offset in (0..len).step_by(PIECE) {
            let at = address.checked_add(offset as u64).ok_or(OUTSIDE)?;
            let part = piece.get_mut(..PIECE.min(len - offset)).unwrap_or_default();
            ram.read_slice(part, at).map_err(|_| OUTSIDE)?;
            self.0.stream.write(part);
        }
        Ok(())
    }
}

impl Handler for Console {
    fn start(&mut self, context: &mut Context<'_>, _: u64) -> Result<(), Fault> {
        if self.0.stream.needs_service() {
            context.watch.add(&self.0.stream, STREAM, EventSet::IN)?;
        }
        Ok(())
    }

    fn queue(&mut self, position: usize, context: &mut Context<'_>) -> Result<(), Fault> {
        match context.queues.get_mut(position) {
            Some(queue) if queue.index == TRANSMIT => self.transmit(queue, context.ram),
            _ => self.receive(context.queues, context.ram),
        }
    }

    fn event(&mut self, _: u32, _: EventSet, context: &mut Context<'_>) -> Result<(), Fault> {
        self.receive(context.queues, context.ram)?;
        // Nobody says when a pseudo-terminal's user changes its size: look when there is sign of a user.
        self.0.refresh();
        Ok(())
    }

    fn stop(&mut self, context: &mut Context<'_>) {
        // It is not watched if the stream needs no service or the start failed.
        let _ = context.watch.remove(&self.0.stream);
    }
}

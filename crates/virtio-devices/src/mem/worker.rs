//! The device's queue, on its thread.

use std::sync::Arc;

use virtio::{Context, Fault, Handler};

use super::region::Region;
use super::request::Exchange;

/// Answers the driver.
pub(super) struct Plugger(pub(super) Arc<Region>);

impl Handler for Plugger {
    fn queue(&mut self, position: usize, context: &mut Context<'_>) -> Result<(), Fault> {
        let ram = context.ram;
        let Some(queue) = context.queues.get_mut(position) else { return Ok(()) };
        queue.serve(ram, |chain| {
            let exchange = Exchange::read(chain, ram)?;
            exchange.answer(self.0.answer(exchange.request, ram), ram).map(Some)
        })
    }
}

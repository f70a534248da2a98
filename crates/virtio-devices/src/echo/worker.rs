//! The echo device's queue, on its thread.

use memory::{Bytes, DmaView};
use virtio::{Chain, Context, Fault, Handler};

/// Bytes given back per chain.
const LIMIT: usize = 4096;

const OUTSIDE: Fault = Fault::Protocol("an echo buffer is not in RAM");

pub(super) struct Mirror;

impl Handler for Mirror {
    fn queue(&mut self, position: usize, context: &mut Context<'_>) -> Result<(), Fault> {
        let Some(queue) = context.queues.get_mut(position) else { return Ok(()) };
        queue.serve(context.ram, |chain| reflect(chain, context.ram).map(Some))
    }
}

/// Copies the readable part of the chain to the writable one, as much as fits there.
fn reflect(chain: Chain<'_>, ram: &DmaView) -> Result<u32, Fault> {
    let mut bytes = [0; LIMIT];
    let mut len = 0;
    for buffer in chain.clone().readable() {
        let room = bytes.get_mut(len..).unwrap_or_default();
        let (now, _) = room.split_at_mut(room.len().min(buffer.len() as usize));
        ram.read_slice(now, buffer.addr()).map_err(|_| OUTSIDE)?;
        len += now.len();
    }
    let mut rest = bytes.get(..len).unwrap_or_default();
    for buffer in chain.writable() {
        let (now, later) = rest.split_at(rest.len().min(buffer.len() as usize));
        ram.write_slice(now, buffer.addr()).map_err(|_| OUTSIDE)?;
        rest = later;
    }
    Ok(u32::try_from(len - rest.len()).unwrap_or(0))
}

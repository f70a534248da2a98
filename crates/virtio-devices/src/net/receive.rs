//! From the tap to the guest.

use std::io;

use ::net::{HEADER_LEN, Received, Scatter, TapQueue};
use memory::DmaView;
use virtio::{ActiveQueue, Fault};
use virtio_queue::{QueueOwnedT, QueueT};

use super::ring::{Batch, gather};
use super::shared::Traffic;

/// Where `num_buffers` stands in the virtio-net header. Linux leaves it alone; without MRG_RXBUF it is 1 (§5.1.6.4.1).
const NUM_BUFFERS: usize = 10;

/// Why receiving ended.
pub(super) enum End {
    /// The tap has no frame.
    Dry,
    /// The driver has no buffer; it rings when it has.
    NoBuffers,
    /// Both have more, but others wait.
    Turn,
    /// The interface is gone.
    Gone(io::Error),
}

/// Moves frames until either side has no more.
pub(super) fn receive(
    tap: &TapQueue,
    scatter: &mut Scatter,
    queue: &mut ActiveQueue,
    ram: &DmaView,
    traffic: &Traffic,
) -> Result<End, Fault> {
    let mut batch = Batch::default();
    queue.queue.disable_notification(ram)?;
    let end = loop {
        if batch.is_over() {
            break End::Turn;
        }
        let Some(chain) = queue.pop_or_listen(ram)? else { break End::NoBuffers };
        let head = chain.head_index();
        let mut frame = scatter.frame();
        if gather(&mut frame, chain, ram, true).is_err() {
            batch.give_back(queue, ram, (head, 0))?;
            continue;
        }
        match tap.receive(&mut frame) {
            Ok(Received::Frame(len)) if len >= HEADER_LEN => {
                frame.put(NUM_BUFFERS, &1u16.to_le_bytes());
                let written = u32::try_from(len).unwrap_or(u32::MAX);
                batch.moved(queue, ram, (head, written), len)?;
            }
            // What is left keeps the chain for the next frame.
            other => {
                queue.queue.go_to_previous_position();
                match other {
                    Ok(Received::Frame(0)) => break End::Gone(io::ErrorKind::UnexpectedEof.into()),
                    Ok(Received::Frame(_) | Received::TooLong) => {}
                    Ok(Received::Dry) => break End::Dry,
                    Err(e) => break End::Gone(e),
                }
            }
        }
    };
    batch.finish(queue, ram, traffic)?;
    Ok(end)
}

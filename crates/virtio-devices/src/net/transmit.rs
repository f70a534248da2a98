//! From the guest to the tap.

use ::net::{Scatter, Sent, TapQueue};
use memory::DmaView;
use virtio::{ActiveQueue, Fault};
use virtio_queue::{QueueOwnedT, QueueT};

use super::ring::{Batch, gather};
use super::shared::Traffic;

/// Why transmitting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The driver has no frame; it rings when it has.
    Empty,
    /// There is more, but others wait.
    Turn,
    /// The tap takes no frame at the moment.
    Full,
}

/// Moves frames until the driver has no more or the tap takes no more.
pub(super) fn transmit(
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
        let Some(chain) = queue.pop_or_listen(ram)? else { break End::Empty };
        let head = chain.head_index();
        let mut frame = scatter.frame();
        if gather(&mut frame, chain, ram, false).is_err() {
            batch.give_back(queue, ram, (head, 0))?;
            continue;
        }
        match tap.send(&mut frame) {
            Ok(Sent::Sent) => {
                let len = frame.len();
                batch.moved(queue, ram, (head, 0), len)?;
            }
            Ok(Sent::Full) => {
                queue.queue.go_to_previous_position();
                break End::Full;
            }
            // The guest may have written nonsense, or the link is down: a wire would lose the frame, too.
            Err(_) => batch.give_back(queue, ram, (head, 0))?,
        }
    };
    batch.finish(queue, ram, traffic)?;
    Ok(end)
}

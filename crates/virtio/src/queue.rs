//! A virtqueue in a worker's hands: the ring itself, the bell that announces buffers and the interrupt that announces answers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use host::EventFd;
use memory::{Bytes, DmaView, GuestAddress};
use thiserror::Error;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};

use device::Interrupt;

/// The chains a queue hands out: they borrow guest RAM.
pub type Chain<'a> = DescriptorChain<&'a DmaView>;

/// What a driver did that no device can go on after. The device becomes DEVICE_NEEDS_RESET; the VMM goes on.
#[derive(Debug, Error)]
pub enum Fault {
    /// The rings are not what the specification says.
    #[error("The driver broke a virtqueue")]
    Queue(#[from] virtio_queue::Error),
    /// A request broke the device's protocol.
    #[error("The driver broke the protocol: {0}")]
    Protocol(&'static str),
    /// The host side failed for good.
    #[error("The back end failed")]
    Backend(#[from] io::Error),
}

/// A queue that the driver has enabled.
pub struct ActiveQueue {
    /// Its number in the device.
    pub index: u16,
    /// The rings.
    pub queue: Queue,
    /// Signalled when the driver has made buffers available.
    pub kick: Arc<EventFd>,
    interrupt: Arc<dyn Interrupt>,
}

impl ActiveQueue {
    /// A queue whose answers fire `interrupt`.
    pub fn new(index: u16, queue: Queue, kick: Arc<EventFd>, interrupt: Arc<dyn Interrupt>) -> Self {
        Self { index, queue, kick, interrupt }
    }

    /// A descriptor that interrupts the driver when written, for a back end outside of this process.
    ///
    /// # Errors
    /// The kernel's if there is none left, and [`io::ErrorKind::Unsupported`] if the hypervisor has none.
    pub fn call_fd(&self) -> io::Result<EventFd> {
        self.interrupt.event_fd().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// The next chain the driver made available.
    ///
    /// # Errors
    /// [`Fault::Queue`] if the available index is impossible.
    pub fn pop<'a>(&mut self, ram: &'a DmaView) -> Result<Option<Chain<'a>>, Fault> {
        Ok(self.queue.iter(ram)?.next())
    }

    /// The next chain, or `None` once there is none and the driver's bells are on again.
    ///
    /// # Errors
    /// [`Fault::Queue`] if the rings are broken.
    pub fn pop_or_listen<'a>(&mut self, ram: &'a DmaView) -> Result<Option<Chain<'a>>, Fault> {
        loop {
            if let Some(chain) = self.pop(ram)? {
                return Ok(Some(chain));
            }
            if !self.queue.enable_notification(ram)? {
                return Ok(None);
            }
            // The driver made something available just before its bells were on: it may not have rung.
            self.queue.disable_notification(ram)?;
        }
    }

    /// Gives a chain back with `len` bytes written to it.
    ///
    /// # Errors
    /// [`Fault::Queue`] if the used ring does not lie in RAM.
    pub fn push(&mut self, ram: &DmaView, head: u16, len: u32) -> Result<(), Fault> {
        Ok(self.queue.add_used(ram, head, len)?)
    }

    /// Interrupts the driver if it wants to hear of answers given since the last time.
    ///
    /// # Errors
    /// [`Fault::Queue`] if the rings do not lie in RAM.
    pub fn notify(&mut self, ram: &DmaView) -> Result<(), Fault> {
        if self.queue.needs_notification(ram)? && !self.is_hushed(ram)? {
            self.interrupt.fire();
        }
        Ok(())
    }

    /// Whether the driver wants no interrupts at all (§2.7.7): how a driver without EVENT_IDX says so.
    fn is_hushed(&self, ram: &DmaView) -> Result<bool, Fault> {
        const NO_INTERRUPT: u16 = 1;
        if self.queue.event_idx_enabled() {
            return Ok(false);
        }
        let flags = ram.load(GuestAddress(self.queue.avail_ring()), Ordering::Acquire);
        let flags: u16 = flags.map_err(virtio_queue::Error::GuestMemory)?;
        Ok(u16::from_le(flags) & NO_INTERRUPT != 0)
    }

    /// Serves chains until none is left, with the driver's bells switched off meanwhile: `serve` takes a chain and says how many bytes
    /// it wrote, or `None` to keep the chain for later. A driver that brings more and more has to wait for the bell's next turn, so that
    /// it cannot keep the thread from stopping.
    ///
    /// # Errors
    /// The first fault of a ring or of `serve`.
    pub fn serve(
        &mut self,
        ram: &DmaView,
        mut serve: impl FnMut(Chain<'_>) -> Result<Option<u32>, Fault>,
    ) -> Result<(), Fault> {
        const TURN: u32 = 1024;
        self.queue.disable_notification(ram)?;
        for _ in 0..TURN {
            let Some(chain) = self.pop_or_listen(ram)? else { return self.notify(ram) };
            let head = chain.head_index();
            if let Some(len) = serve(chain)? {
                self.push(ram, head, len)?;
            }
        }
        // A full counter wakes the thread as well.
        let _ = self.kick.write(1);
        self.notify(ram)
    }
}

impl std::fmt::Debug for ActiveQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ActiveQueue")
            .field("index", &self.index)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

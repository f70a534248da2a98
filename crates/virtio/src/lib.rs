//! What all virtio devices share (Virtual I/O Device specification 1.2): the PCI transport, queues, and the threads that serve them.
//!
//! A device is two halves. The front implements [`VirtioDevice`]; vCPUs enter it through the transport, under the bus slot's lock.
//! What serves the queues is a [`QueueServer`]: as a rule [`Workers`], threads that each run a [`Handler`]. Queues move by value:
//! DRIVER_OK sends them to the server, a stop brings them back.

mod activation;
#[cfg(any(test, feature = "fake-driver"))]
pub mod fake;
mod function;
mod listener;
mod queue;
mod transport;
mod worker;
mod workers;

pub use activation::{Activation, Signals, SignalsState};
pub use function::{BAR_ALIGN, built};
pub use listener::Listener;
pub use queue::{ActiveQueue, Chain, Fault};
pub use transport::{BAR_SIZE, MAX_QUEUES, VirtioPci};
pub use worker::{Context, Handler, Watch, Worker};
pub use workers::Workers;

use std::sync::Arc;
use std::time::Instant;

use device::Stateful;
use meter::CounterSet;
use pci::OwnMemory;

/// Feature bits of the transport and the queues (§6).
pub mod feature {
    /// Descriptors may point to tables of descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Notifications are suppressed by index.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// The device follows version 1 of the specification.
    pub const VERSION_1: u64 = 1 << 32;
    /// Addresses are translated by an IOMMU.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
    /// Chains are given back in the order in which they were made available. A device that has one chain at a time fulfils it.
    pub const IN_ORDER: u64 = 1 << 35;
}

/// What a device is, fixed when it is built.
#[derive(Clone, Debug)]
pub struct Info {
    /// The id the user knows it by, such as `_disk0`.
    pub id: String,
    /// Virtio device type (§5), such as 2 for block.
    pub device_type: u16,
    /// The largest size of each queue.
    pub queue_sizes: Vec<u16>,
    /// Features offered, without those of the transport.
    pub features: u64,
    /// Bytes of device configuration.
    pub config_len: u16,
}

/// The front half of a virtio device.
pub trait VirtioDevice: Stateful + Send {
    /// What the device is.
    fn info(&self) -> &Info;

    /// Fills `data` from the device configuration; `offset + data.len()` lies within [`Info::config_len`].
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Stores `data` into the device configuration. Bounded like reads.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// Memory of its own that the guest is to see.
    fn memory(&self) -> Option<OwnMemory> {
        None
    }

    /// [`VirtioDevice::memory`] has its place: it starts at the guest address `base`, for as long as there is the device.
    fn put_memory(&mut self, _base: u64) {}

    /// Who serves its queues.
    fn server(&mut self) -> &mut dyn QueueServer;

    /// The driver is ready: hand the queues to the server and return.
    fn start(&mut self, activation: Activation) {
        self.server().start(activation);
    }

    /// Ask the server for the queues. Does not wait.
    fn stop(&mut self) {
        self.server().stop();
    }

    /// The queues, once all are back; waits for that until `deadline`.
    fn stopped(&mut self, deadline: Instant) -> Option<Vec<ActiveQueue>> {
        self.server().stopped(deadline)
    }

    /// Forget what the driver configured. The queues are back.
    fn reset(&mut self) {}

    /// Counters for `vm.counters`, if the device counts: a leaf object that is read without the slot's lock.
    fn counters(&self) -> Option<Arc<dyn CounterSet>> {
        None
    }
}

/// Who serves a device's queues: threads of this process ([`Workers`]), or a back end outside of it, to which a queue's bell
/// ([`ActiveQueue::kick`]) and interrupt ([`ActiveQueue::call_fd`]) are given away.
pub trait QueueServer: Send {
    /// Takes the queues. Does not wait.
    fn start(&mut self, activation: Activation);

    /// Asks for the queues back. Does not wait.
    fn stop(&mut self);

    /// The queues by rising index, once all are back; waits for that until `deadline`. None, at once, if none are out.
    fn stopped(&mut self, deadline: Instant) -> Option<Vec<ActiveQueue>>;
}

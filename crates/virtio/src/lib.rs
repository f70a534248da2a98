//! What all virtio devices share (Virtual I/O Device specification 1.2): the PCI transport, queues, and the threads that serve them.
//!
//! A device is two halves. The front implements [`VirtioDevice`]; vCPUs enter it through the transport, under the bus slot's lock.
//! The worker half implements [`Handler`] and lives on a [`Worker`] thread of its own. Queues move by value: DRIVER_OK sends them to
//! the workers, a stop brings them back.

mod activation;
#[cfg(any(test, feature = "fake-driver"))]
pub mod fake;
mod queue;
mod transport;
mod worker;

pub use activation::{Activation, Signals};
pub use queue::{ActiveQueue, Chain, Fault};
pub use transport::{BAR_SIZE, Place, VirtioPci};
pub use worker::{Handler, Watch, Worker, Workers};

use std::sync::Arc;

use device::{RestoreError, Saved};
use meter::QueueReading;

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
pub trait VirtioDevice: Send {
    /// What the device is.
    fn info(&self) -> &Info;

    /// Fills `data` from the device configuration; `offset + data.len()` lies within [`Info::config_len`].
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Stores `data` into the device configuration. Bounded like reads.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// The threads that serve its queues.
    fn workers(&mut self) -> &mut Workers;

    /// The driver is ready: hand the queues to the workers and return.
    fn start(&mut self, activation: Activation) {
        self.workers().start(activation);
    }

    /// Ask the workers for the queues. Does not wait.
    fn stop(&mut self) {
        self.workers().stop();
    }

    /// The queues, once all workers have given theirs back. With `wait` it waits for them.
    fn stopped(&mut self, wait: bool) -> Option<Vec<ActiveQueue>> {
        self.workers().stopped(wait)
    }

    /// Forget what the driver configured. The queues are back.
    fn reset(&mut self) {}

    /// Guest-visible state beyond queues and features, if there is any.
    fn save(&self) -> Option<Saved> {
        None
    }

    /// Puts a saved state back. The queues are back.
    ///
    /// # Errors
    /// [`RestoreError`] as everywhere.
    fn restore(&mut self, saved: &Saved) -> Result<(), RestoreError> {
        Err(RestoreError::Kind { expected: "no state", found: saved.kind.clone() })
    }

    /// Counters for `vm.counters`, if the device counts: a leaf object that is read without the slot's lock.
    fn counters(&self) -> Option<Arc<dyn CounterSet>> {
        None
    }
}

/// What a device counts.
pub trait CounterSet: Send + Sync {
    /// Name and value of each counter.
    fn read(&self) -> Vec<(&'static str, u64)>;

    /// The same and more, queue by queue.
    fn queues(&self) -> Vec<QueueReading>;
}

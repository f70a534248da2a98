//! Block device (Virtual I/O Device specification 1.2, §5.2; `spec/devices.md` §7 and §15): a disk image behind request queues.
//!
//! The control thread builds the device and resizes, locks and unlocks its [`Disk`]. vCPUs enter the front under their bus slot's
//! lock. Each queue has a thread and an engine of its own, called `_disk0_q0` and so on; queues share the image and nothing else.
//!
//! ```text
//!  bell -> request::parse -> Disk::decide -> block::Engine -> status byte, used ring -> one interrupt for the batch
//! ```

mod counters;
mod disk;
mod front;
mod request;
mod state;
mod worker;

pub use disk::Disk;
pub use front::Blk;
pub use state::State;

use std::io;
use std::sync::Arc;

use block::{OpenError, OpenOptions};
use rustix::thread::CpuSet;
use sandbox::Kind;
use thiserror::Error;
use virtio::{Worker, Workers};

use worker::QueueHandler;

/// What a block device is built from. The plan has checked it.
#[derive(Clone, Debug)]
pub struct Config {
    /// The id the user knows it by.
    pub id: String,
    /// The image and how to open it.
    pub image: OpenOptions,
    /// Request queues, at least 1.
    pub num_queues: u16,
    /// Descriptors in each queue, a power of 2 above 2.
    pub queue_size: u16,
    /// Serial number of at most 20 bytes; `None` for one made from the file's identity.
    pub serial: Option<String>,
    /// Host CPUs that the threads of some queues are bound to: queue and CPUs.
    pub affinity: Vec<(u16, Vec<usize>)>,
}

/// Why a block device cannot be built.
#[derive(Debug, Error)]
pub enum Error {
    /// The image cannot be opened.
    #[error("Cannot use the image of disk '{id}'")]
    Image {
        /// The device.
        id: String,
        /// What is wrong with the image.
        #[source]
        source: OpenError,
    },
    /// A queue's thread cannot be started.
    #[error("Cannot start a thread of disk '{id}'")]
    Thread {
        /// The device.
        id: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A CPU number that no host has.
    #[error("Disk '{id}' cannot be bound to host CPU {cpu}: CPUs are numbered up to {}", CpuSet::MAX_CPU - 1)]
    Cpu {
        /// The device.
        id: String,
        /// The CPU.
        cpu: usize,
    },
}

/// Opens the image and parks one worker per queue.
///
/// # Errors
/// [`enum@Error`] names the device and what it lacks.
pub fn build(config: &Config) -> Result<Blk, Error> {
    let id = || config.id.clone();
    let image = block::open(&config.image).map_err(|source| Error::Image { id: id(), source })?;
    let disk = Arc::new(Disk::new(image, config));
    let worker = |index: u16| {
        let cpus = cpu_set(config, index)?;
        let handler = QueueHandler::new(disk.clone(), index, config.queue_size, cpus);
        let worker = Worker::spawn(Kind::Block, &format!("{}_q{index}", config.id), handler)
            .map_err(|source| Error::Thread { id: id(), source })?;
        Ok((worker, vec![index]))
    };
    let workers = (0..config.num_queues).map(worker).collect::<Result<Vec<_>, Error>>()?;
    Ok(Blk::new(config, disk.clone(), Workers::new(workers)))
}

/// The CPUs that queue `index` is bound to, if any.
fn cpu_set(config: &Config, index: u16) -> Result<Option<CpuSet>, Error> {
    let mut set = CpuSet::new();
    for &cpu in config.affinity.iter().filter(|(queue, _)| *queue == index).flat_map(|(_, cpus)| cpus) {
        if cpu >= CpuSet::MAX_CPU {
            return Err(Error::Cpu { id: config.id.clone(), cpu });
        }
        set.set(cpu);
    }
    Ok((set.count() > 0).then_some(set))
}

#[cfg(test)]
mod tests;

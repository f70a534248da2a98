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
mod profile;
mod request;
mod state;
mod worker;

pub use disk::Disk;
pub use front::Blk;
pub use profile::PROFILES;
pub use state::State;

use std::io;
use std::sync::Arc;

use block::{LockRange, OpenError};
use config::{VmConfig, plan};
use pci::{BuildContext, Built};
use rustix::thread::CpuSet;
use thiserror::Error;
use virtio::built;
use virtio::{Worker, Workers};

use worker::QueueHandler;

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

/// Opens the image, locks it, and parks one worker per queue.
///
/// # Errors
/// [`enum@Error`] names the device and what it lacks.
pub fn build(disk: &plan::Disk, context: &BuildContext<'_>) -> Result<Built, Error> {
    let blk = open(disk, context.id, Some(lock_range(disk)))?;
    let (shared, id, found) = (blk.disk().clone(), context.id.to_owned(), blk.disk().format());
    let learned = move |vm: &mut VmConfig| {
        let mut disks = vm.disks.iter_mut().flatten();
        if let Some(disk) = disks.find(|disk| disk.pci.id.as_ref() == Some(&id)) {
            disk.image_type = found;
        }
    };
    Ok(built(blk, context.boot_bar, context).handle(shared).learned(learned))
}

/// What of an image other programs are locked out of.
fn lock_range(disk: &plan::Disk) -> LockRange {
    if disk.full_lock { LockRange::Whole } else { LockRange::Bytes }
}

/// `lock`: see [`block::open`].
fn open(plan: &plan::Disk, id: &str, lock: Option<LockRange>) -> Result<Blk, Error> {
    let image = block::open(plan, lock).map_err(|source| Error::Image { id: id.into(), source })?;
    let disk = Arc::new(Disk::new(image, plan));
    let worker = |index: u16| {
        let cpus = cpu_set(plan, id, index)?;
        let handler = QueueHandler::new(disk.clone(), index, plan.queue_size, cpus);
        let worker = Worker::spawn(&profile::QUEUE, &format!("{id}_q{index}"), handler)
            .map_err(|source| Error::Thread { id: id.into(), source })?;
        Ok((worker, vec![index]))
    };
    let workers = (0..plan.num_queues).map(worker).collect::<Result<Vec<_>, Error>>()?;
    Ok(Blk::new(id, plan, disk.clone(), Workers::new(workers)))
}

/// The CPUs that queue `index` is bound to, if any.
fn cpu_set(plan: &plan::Disk, id: &str, index: u16) -> Result<Option<CpuSet>, Error> {
    let mut set = CpuSet::new();
    for &cpu in plan.queue_affinity.iter().filter(|(queue, _)| *queue == index).flat_map(|(_, cpus)| cpus) {
        if cpu >= CpuSet::MAX_CPU {
            return Err(Error::Cpu { id: id.into(), cpu });
        }
        set.set(cpu);
    }
    Ok((set.count() > 0).then_some(set))
}

#[cfg(test)]
mod tests;

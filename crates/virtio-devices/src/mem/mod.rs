//! Memory that is plugged and unplugged in small blocks (Virtio 1.2 §5.15; `spec/devices.md` §7, `spec/devices2.md` §10). A device for
//! each zone of guest RAM that has room for more; its id is the zone's.
//!
//! ```text
//!  Mem::request ─▶ requested_size, interrupt ─▶ the guest asks for blocks, or lets some go
//!                                                 └─ mem0 ─▶ Region::answer: a block changes its state, its pages go back to the host
//! ```
//! The room is there from the start, in the guest's addresses and in the map that devices look at, and is empty: nothing stands behind
//! an address until it is touched. An unplugged block is given back to the host and reads as zeroes. A guest that writes to one
//! nevertheless gets memory of the host's, within its room, until it unplugs the block: the alternative, a hole in the address space
//! for each block, costs a memory slot of the hypervisor's each.

mod blocks;
mod front;
mod region;
mod request;
mod worker;

use std::io;

use config::plan;
use memory::layout::Range;
use pci::{BarKind, BuildContext, Built};
use sandbox::{Profile, groups};
use thiserror::Error;
use virtio::built;

pub use front::{Front, Mem, State};

/// Its thread.
static PROFILE: Profile = Profile::new("mem", &[groups::EPOLL, groups::DISCARD]);

/// Its threads' profiles.
pub static PROFILES: &[&Profile] = &[&PROFILE];

/// Bytes that are plugged and unplugged together: what a guest can do at best.
const BLOCK: u64 = 2 << 20;

/// Why such a device cannot be built.
#[derive(Debug, Error)]
pub enum Error {
    /// RAM was laid out without it.
    #[error("There is no room for more memory in zone '{id}'")]
    Room {
        /// The device id, which is the zone's.
        id: String,
    },
    /// Its thread.
    #[error("Cannot start the thread of memory device '{id}'")]
    Thread {
        /// The device id.
        id: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// Builds a device for the room of the zone whose id it has, and parks its thread. Its handle is a [`Mem`].
///
/// # Errors
/// [`Error::Room`] if the zone has none in guest RAM, [`Error::Thread`] if there is no thread or descriptor left.
pub fn build(mem: &plan::Mem, context: &BuildContext<'_>) -> Result<Built, Error> {
    let room = context.ram.room(context.id).ok_or_else(|| Error::Room { id: context.id.into() })?;
    let front = front(mem, room, context.id)?;
    let handle = front.handle().clone();
    Ok(built(front, BarKind::Memory64, context).handle(handle))
}

fn front(mem: &plan::Mem, room: Range, id: &str) -> Result<Front, Error> {
    Front::new(id, mem, room).map_err(|source| Error::Thread { id: id.into(), source })
}

#[cfg(test)]
mod tests;

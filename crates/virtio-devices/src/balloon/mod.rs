//! A balloon (Virtio 1.2 §5.5; `spec/devices.md` §7 and §15 "virtio-balloon"): memory that the guest lends the host.
//!
//! ```text
//!  Balloon::set_target ─▶ num_pages, interrupt ─▶ the guest gives pages, or takes some back, and writes `actual`
//!                                                   └─ __balloon ─▶ DmaView::discard
//! ```
//! Its thread, named by the device id, gives the host what the guest names in the inflate queue, and what it calls free in the reporting
//! queue. A page that the guest takes back needs nothing: whoever touches it first gets it from the host anew.

mod front;
mod parts;
mod worker;

use std::io;

use config::plan;
use pci::{BarKind, BuildContext, Built};
use sandbox::{Profile, groups};
use thiserror::Error;
use virtio::built;

pub use front::{Balloon, Front, State};

/// Its thread.
static PROFILE: Profile = Profile::new("balloon", &[groups::EPOLL, groups::DISCARD]);

/// Its threads' profiles.
pub static PROFILES: &[&Profile] = &[&PROFILE];

/// Bytes of the pages that driver and device count in, whatever those of guest and host are.
const PAGE: u64 = 4096;

/// Why a balloon cannot be built.
#[derive(Debug, Error)]
pub enum Error {
    /// Its thread.
    #[error("Cannot start the thread of balloon '{id}'")]
    Thread {
        /// The device id.
        id: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// Builds a balloon and parks its thread. Its handle is a [`Balloon`].
///
/// # Errors
/// [`Error::Thread`] if there is no thread or descriptor left.
pub fn build(balloon: &plan::Balloon, context: &BuildContext<'_>) -> Result<Built, Error> {
    let front = front(balloon, context.id)?;
    let handle = front.balloon().clone();
    Ok(built(front, BarKind::Memory64, context).handle(handle))
}

fn front(balloon: &plan::Balloon, id: &str) -> Result<Front, Error> {
    Front::new(id, balloon).map_err(|source| Error::Thread { id: id.into(), source })
}

#[cfg(test)]
mod tests;

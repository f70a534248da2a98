//! A console with one port (Virtio 1.2 §5.3; `spec/devices.md` §7, §13 and §15 "virtio-console").
//!
//! Its thread, named by the device id, serves the queues and the stream at the host's end. Input that finds no buffer is kept here up
//! to one read of the stream; the rest waits in the kernel.

mod front;
mod state;
mod worker;

use std::io;

use config::plan;
use pci::{BarKind, BuildContext, Built};
use sandbox::{Profile, groups};
use thiserror::Error;
use virtio::built;

pub use front::{Front, Resizer};
pub use state::State;

/// Its thread.
static PROFILE: Profile = Profile::new("console", &[groups::EPOLL, groups::STREAM]);

/// Its threads' profiles.
pub static PROFILES: &[&Profile] = &[&PROFILE];

/// Why a console cannot be built.
#[derive(Debug, Error)]
pub enum Error {
    /// Its stream is opened with the configuration, before the device is built.
    #[error("The stream of console '{id}' is not open")]
    Closed {
        /// The device id.
        id: String,
    },
    /// Its thread.
    #[error("Cannot start the thread of console '{id}'")]
    Thread {
        /// The device id.
        id: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// Builds a console and parks its thread. Its handle is a [`Resizer`].
///
/// # Errors
/// [`Error::Thread`] if there is no thread or descriptor left, [`Error::Closed`] if nobody has opened its stream.
pub fn build(_: &plan::Console, context: &BuildContext<'_>) -> Result<Built, Error> {
    let id = context.id;
    let stream = context.stream.ok_or_else(|| Error::Closed { id: id.into() })?;
    let front = Front::new(id, stream.clone()).map_err(|source| Error::Thread { id: id.into(), source })?;
    let resizer = front.resizer();
    Ok(built(front, BarKind::Memory64, context).handle(resizer))
}

#[cfg(test)]
mod tests;

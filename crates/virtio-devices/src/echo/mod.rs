//! A device that writes back to the driver what it reads from it (device type 63, which nobody else has). It exists for tests, and as
//! the example of `ARCHITECTURE.md`.
//!
//! Its thread, named by the device id, serves the one queue. No state.

mod front;
mod worker;

use std::io;

use config::Echo;
use pci::{BarKind, BuildContext, Built};
use sandbox::{Profile, groups};
use thiserror::Error;
use virtio::built;

pub use front::Front;

/// Its thread.
static PROFILE: Profile = Profile::new("echo", &[groups::EPOLL]);

/// Its threads' profiles.
pub static PROFILES: &[&Profile] = &[&PROFILE];

/// Why an echo device cannot be built.
#[derive(Debug, Error)]
pub enum Error {
    /// Its thread.
    #[error("Cannot start the thread of echo device '{id}'")]
    Thread {
        /// The device id.
        id: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// Builds the device and parks its thread.
///
/// # Errors
/// [`Error::Thread`] if there is no thread or descriptor left.
pub fn build(echo: &Echo, context: &BuildContext<'_>) -> Result<Built, Error> {
    let id = context.id;
    let front = Front::new(id, echo).map_err(|source| Error::Thread { id: id.into(), source })?;
    Ok(built(front, BarKind::Memory64, context))
}

#[cfg(test)]
mod tests;

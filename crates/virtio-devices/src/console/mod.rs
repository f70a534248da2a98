//! A console with one port (Virtio 1.2 §5.3; `spec/devices.md` §7, §13 and §15 "virtio-console").
//!
//! Its thread, named by the device id, serves the queues and the stream at the host's end. Input that finds no buffer is kept here up
//! to one read of the stream; the rest waits in the kernel.

mod front;
mod state;
mod worker;

use std::io;

use stream::Stream;
use thiserror::Error;

pub use front::{Front, Resizer};
pub use state::State;

/// What a console is made of.
pub struct Config {
    /// The device id.
    pub id: String,
    /// The host's end.
    pub stream: Stream,
}

/// Why a console cannot be built.
#[derive(Debug, Error)]
pub enum Error {
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

/// Builds a console and parks its thread.
///
/// # Errors
/// [`Error::Thread`] if there is no thread or descriptor left.
pub fn build(config: Config) -> Result<Front, Error> {
    let id = config.id.clone();
    Front::new(config).map_err(|source| Error::Thread { id, source })
}

#[cfg(test)]
mod tests;

//! A watchdog: a guest that stops pinging it is reset (device type 35, of this project's own making; `spec/devices.md` §7 and §15).
//!
//! ```text
//!  idle --- first ping ---> armed --- every 15 s: more than 20 s since the last ping? ---> Event::Reset
//! ```
//! Its thread, named by the device id, serves the queue and the timer. The timer stands still while the device is stopped, so a paused
//! guest is not reset; when it goes on, its time starts anew.

mod front;
mod worker;

use std::io;
use std::time::{Duration, Instant};

use device::Events;
use thiserror::Error;

pub use front::{Front, State};

/// How often the last ping is looked at.
const INTERVAL: Duration = Duration::from_secs(15);
/// How long a guest may be silent.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What a watchdog is made of.
pub struct Config {
    /// The device id.
    pub id: String,
    /// Where the reset is asked for.
    pub events: Events,
}

/// Why a watchdog cannot be built.
#[derive(Debug, Error)]
pub enum Error {
    /// Its thread or its timer.
    #[error("Cannot start the thread of watchdog '{id}'")]
    Thread {
        /// The device id.
        id: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// What time it is, and how often to look.
struct Timing {
    clock: Box<dyn Fn() -> Duration + Send>,
    interval: Duration,
}

/// Builds a watchdog and parks its thread.
///
/// # Errors
/// [`Error::Thread`] if there is no thread or descriptor left.
pub fn build(config: Config) -> Result<Front, Error> {
    let start = Instant::now();
    build_timed(config, Timing { clock: Box::new(move || start.elapsed()), interval: INTERVAL })
}

fn build_timed(config: Config, timing: Timing) -> Result<Front, Error> {
    let Config { id, events } = config;
    Front::new(id.clone(), events, timing).map_err(|source| Error::Thread { id, source })
}

#[cfg(test)]
mod tests;

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

use config::plan;
use device::Events;
use pci::{BarKind, BuildContext, Built};
use sandbox::{Profile, groups};
use thiserror::Error;
use virtio::built;

pub use front::{Front, State};

/// Its thread.
static PROFILE: Profile = Profile::new("watchdog", &[groups::EPOLL]);

/// Its threads' profiles.
pub static PROFILES: &[&Profile] = &[&PROFILE];

/// How often the last ping is looked at.
const INTERVAL: Duration = Duration::from_secs(15);
/// How long a guest may be silent.
const TIMEOUT: Duration = Duration::from_secs(20);

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
pub fn build(_: &plan::Watchdog, context: &BuildContext<'_>) -> Result<Built, Error> {
    let start = Instant::now();
    let timing = Timing { clock: Box::new(move || start.elapsed()), interval: INTERVAL };
    Ok(built(front(context.id, context.events, timing)?, BarKind::Memory64, context))
}

fn front(id: &str, events: &Events, timing: Timing) -> Result<Front, Error> {
    Front::new(id, events.clone(), timing).map_err(|source| Error::Thread { id: id.into(), source })
}

/// One whose clock stands still.
#[cfg(test)]
pub(crate) fn quiet(events: &Events) -> Front {
    let timing = Timing { clock: Box::new(|| Duration::ZERO), interval: INTERVAL };
    front("__watchdog", events, timing).unwrap()
}

#[cfg(test)]
mod tests;

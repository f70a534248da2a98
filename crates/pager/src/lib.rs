//! Fills guest RAM while the guest runs already: from a snapshot (`memory_restore_mode=ondemand`) or another host (postcopy). See
//! `spec/lifecycle.md` §15.
//!
//! One thread, `uffd-handler`, answers those who touch pages that have not come yet, and fills the others in ascending order when nobody
//! waits.
//!
//! ```text
//!                       a read fails
//!   filling ──────────────────────────────▶ stalled: whoever touches a page that is to come waits
//!    │   ▲                                     │
//!    │   └──────── a read succeeds ◀───────────┘  tried again each second, and when `finish` is called
//!    └──▶ complete: the kernel does the rest, and the thread ends
//! ```
//! A source that fails for good holds the guest for good, and that is meant: a page of zeroes in its place would have the guest write wrong
//! data to its disks. The event `memory-paging-stalled` says so, and the state has the reason.
//!
//! Memory that another process has mapped (vhost-user) is filled for that process when it has come, and is zero for it before.

mod handler;
mod profile;
mod shared;

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use device::Events;
use memory::layout::Range;
use memory::{DemandError, GuestRam, OnDemand};
use thiserror::Error;

use handler::Handler;
use shared::{Order, Shared};

pub use profile::PROFILES;

/// How long the end of the thread is waited for.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Where pages come from.
pub trait PageSource: Send + 'static {
    /// Reads the bytes that belong to the guest address `base`, as many as there is room for in `buffer`: whole host pages, which lie in one
    /// range of RAM. What the source knows nothing of is zero. It must come back within some seconds.
    ///
    /// # Errors
    /// The reason, for people. The same bytes are asked for again later.
    fn read(&mut self, base: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// What is done about pages that nobody has touched yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefault {
    /// Nothing: they come when they are touched.
    Off,
    /// They come as fast as they can be read.
    Full,
    /// So many bytes per second come; with 0 it is the same as [`Prefault::Off`].
    Rate(u64),
}

/// Why RAM is not filled.
#[derive(Debug, Error)]
pub enum PagerError {
    /// Pages of this RAM cannot come on demand, or not on this host: see [`DemandError`].
    #[error(transparent)]
    Demand(#[from] DemandError),
    /// The thread could not be started.
    #[error("Cannot start the thread that fills memory")]
    Thread(#[source] io::Error),
    /// The source has failed.
    #[error("{left} bytes of memory cannot be read: {reason}")]
    Source {
        /// Bytes that have not come.
        left: u64,
        /// Why.
        reason: String,
    },
    /// It takes longer than the caller waits.
    #[error("{left} bytes of memory have not come in time: try again later")]
    Late {
        /// Bytes that have not come.
        left: u64,
    },
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that were to come in the beginning.
    pub total: u64,
    /// Bytes that have not come yet.
    pub left: u64,
    /// Why nothing comes at the moment, if nothing does.
    pub stalled: Option<String>,
}

/// Fills RAM until it is complete or dropped. Whoever waits for a page when it is dropped waits on, until the process ends: drop it after
/// the machine.
#[derive(Debug)]
pub struct Pager {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// The thread has the other end: it is gone when the thread is.
    ended: Mutex<Receiver<()>>,
}

impl Pager {
    /// Has the bytes of `runs` (guest addresses and lengths) come from `source`. What is in their regions now is dropped, and what is in none
    /// of them is zero. Nobody uses this RAM yet.
    ///
    /// `events` hears of it when all has come (`memory-complete`) and when nothing comes any more (`memory-paging-stalled`).
    ///
    /// # Errors
    /// [`PagerError::Demand`] with [`DemandError::Unavailable`], if the host does not let this process, or another one. RAM is to be thrown
    /// away then.
    pub fn start(
        ram: &GuestRam,
        runs: &[Range],
        source: impl PageSource,
        prefault: Prefault,
        events: Events,
    ) -> Result<Self, PagerError> {
        let demand = OnDemand::new(ram, runs)?;
        let shared = Shared::new(demand, Order { prefault, ..Order::default() }, events);
        let shared = Arc::new(shared.map_err(PagerError::Thread)?);
        let handler = Handler::new(shared.clone(), source).map_err(PagerError::Thread)?;
        let (alive, ended) = channel();
        let body = move || {
            handler.run();
            drop(alive);
        };
        let thread = sandbox::spawn(&profile::HANDLER, "uffd-handler", body).map_err(PagerError::Thread)?;
        Ok(Self { shared, thread: Some(thread), ended: Mutex::new(ended) })
    }

    /// Whether everything has come.
    pub fn is_complete(&self) -> bool {
        self.shared.state().is_complete
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.shared.progress()
    }

    /// Fills the rest as fast as it can be read, and waits for that, `limit` at most. It goes on filling also if that is too short.
    ///
    /// # Errors
    /// [`PagerError::Source`] if a read fails from now on, [`PagerError::Late`].
    pub fn finish(&self, limit: Duration) -> Result<(), PagerError> {
        let failures = self.shared.state().failures;
        self.shared.give(|order| {
            order.prefault = Prefault::Full;
            order.try_now = true;
        });
        let state = self.shared.wait(limit, |state| state.is_complete || state.failures != failures);
        match (state.is_complete, state.stalled) {
            (true, _) => Ok(()),
            (false, Some(reason)) if state.failures != failures => {
                Err(PagerError::Source { left: self.progress().left, reason })
            }
            _ => Err(PagerError::Late { left: self.progress().left }),
        }
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        self.shared.give(|order| order.stop = true);
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if matches!(ended.recv_timeout(STOP_LIMIT), Err(RecvTimeoutError::Timeout)) {
            return tracing::error!("Thread uffd-handler does not end: what it reads memory from hangs");
        }
        // A panic of the thread was reported by the panic hook.
        self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests;

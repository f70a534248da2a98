//! What the thread and those who ask it have in common.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use device::{Event, Events};
use host::EventFd;
use memory::OnDemand;

use crate::{Prefault, Progress};

/// What the thread is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) prefault: Prefault,
    /// What has failed is to be tried again at once.
    pub(crate) try_now: bool,
    pub(crate) stop: bool,
}

impl Default for Order {
    fn default() -> Self {
        Self { prefault: Prefault::Off, try_now: false, stop: false }
    }
}

/// How far the thread is.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) is_complete: bool,
    pub(crate) stalled: Option<String>,
    /// Reads that have failed.
    pub(crate) failures: u64,
}

pub(crate) struct Shared {
    pub(crate) ram: OnDemand,
    /// Wakes the thread.
    pub(crate) bell: EventFd,
    total: u64,
    order: Mutex<Order>,
    state: Mutex<State>,
    changed: Condvar,
    events: Events,
}

impl Shared {
    pub(crate) fn new(ram: OnDemand, order: Order, events: Events) -> io::Result<Self> {
        Ok(Self {
            total: ram.left(),
            ram,
            bell: host::event_fd()?,
            order: Mutex::new(order),
            state: Mutex::default(),
            changed: Condvar::new(),
            events,
        })
    }

    /// Changes what the thread is to do, and wakes it.
    pub(crate) fn give(&self, change: impl FnOnce(&mut Order)) {
        change(&mut self.order.lock().unwrap_or_else(PoisonError::into_inner));
        // The only failure is a full counter, and then the thread is awake anyway.
        let _ = self.bell.write(1);
    }

    /// What the thread is to do now.
    pub(crate) fn take_order(&self) -> Order {
        let _ = self.bell.read();
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = *order;
        order.try_now = false;
        taken
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn progress(&self) -> Progress {
        let stalled = self.state().stalled.clone();
        Progress { total: self.total, left: self.ram.left(), stalled }
    }

    /// Waits until the state `is_it`, or for `limit`.
    pub(crate) fn wait(&self, limit: Duration, is_it: impl Fn(&State) -> bool) -> State {
        let waiting = self.changed.wait_timeout_while(self.state(), limit, |state| !is_it(state));
        waiting.unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// A read has failed. It is an event only if the one before it has not.
    pub(crate) fn stall(&self, reason: String) {
        let mut state = self.state();
        state.failures += 1;
        let is_new = state.stalled.replace(reason.clone()).is_none();
        drop(state);
        self.changed.notify_all();
        if is_new {
            tracing::error!("Memory does not come any more, and whoever needs it waits: {reason}");
            self.tell("memory-paging-stalled", &[("error", &reason)]);
        }
    }

    /// A read has not failed.
    pub(crate) fn go_on(&self) {
        if self.state().stalled.take().is_some() {
            tracing::info!("Memory comes again");
        }
    }

    pub(crate) fn complete(&self) {
        self.state().is_complete = true;
        self.changed.notify_all();
        tracing::info!("All {} bytes of memory have come", self.total);
        self.tell("memory-complete", &[]);
    }

    fn tell(&self, event: &'static str, properties: &[(&'static str, &str)]) {
        self.events.record("vm", event, properties);
        self.events.raise(Event::News);
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("total", &self.total)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

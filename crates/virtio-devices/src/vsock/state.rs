//! What the two halves share, and what of it is saved.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use device::{Persist, RestoreError};
use serde::{Deserialize, Serialize};

use super::Front;
use super::muxer::{MAX_KNOWN, Muxer};
use super::table::Ports;

/// The state of a vsock device: what its driver believes to be connected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// In the order of their ports; `None` before the driver is ready.
    pub connections: Option<Vec<Ports>>,
}

/// Leaf objects of front and worker.
pub(super) struct Shared {
    /// Here while the device stands still; the worker takes it when it starts.
    muxer: Mutex<Option<Muxer>>,
    is_ready: AtomicBool,
    has_moved: AtomicBool,
}

impl Shared {
    pub(super) fn new(muxer: Muxer) -> Self {
        Self {
            muxer: Mutex::new(Some(muxer)),
            is_ready: AtomicBool::new(false),
            has_moved: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Muxer>> {
        self.muxer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self) -> Option<Muxer> {
        self.lock().take()
    }

    pub(super) fn put(&self, muxer: Muxer) {
        *self.lock() = Some(muxer);
    }

    /// Whether the driver is still to hear that its connections have stayed elsewhere.
    pub(super) fn has_moved(&self) -> bool {
        self.has_moved.load(Ordering::SeqCst)
    }

    pub(super) fn set_moved(&self, moved: bool) {
        self.has_moved.store(moved, Ordering::SeqCst);
    }

    /// The driver is ready.
    pub(super) fn set_ready(&self) {
        self.is_ready.store(true, Ordering::SeqCst);
    }

    /// Back to a fresh device.
    pub(super) fn reset(&self) {
        self.is_ready.store(false, Ordering::SeqCst);
        self.set_moved(false);
        if let Some(muxer) = &mut *self.lock() {
            muxer.clear();
        }
    }
}

impl Persist for Front {
    type State = State;
    const KIND: &'static str = "virtio-vsock";
    const VERSION: u32 = 1;

    fn save(&self) -> State {
        let shared = self.shared();
        let known = || shared.lock().as_ref().map(|muxer| muxer.known().into_iter().collect());
        let is_ready = shared.is_ready.load(Ordering::SeqCst);
        State { connections: is_ready.then(|| known().unwrap_or_default()) }
    }

    /// The connections have stayed where they were saved: the driver hears that they are over as soon as the device runs.
    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        let are_possible = |known: &[Ports]| known.len() <= MAX_KNOWN && known.is_sorted_by(|a, b| a < b);
        if !state.connections.as_deref().is_none_or(are_possible) {
            return Err(RestoreError::Value { kind: Self::KIND, field: "list of connections" });
        }
        let shared = self.shared();
        shared.reset();
        if let Some(known) = state.connections {
            shared.set_ready();
            shared.set_moved(true);
            if let Some(muxer) = &mut *shared.lock() {
                muxer.forget(known);
            }
        }
        Ok(())
    }
}

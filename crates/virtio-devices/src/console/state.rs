//! What the two halves of a console share, and the part of it that is saved.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use stream::Stream;
use virtio::{Listener, Signals};

/// Bytes of input kept at most: one read of the stream.
pub(super) const INPUT_LIMIT: usize = 4096;

/// Input the driver has not seen yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub(super) input: Vec<u8>,
}

/// Leaf objects of front, worker and resizer.
pub(super) struct Shared {
    pub(super) stream: Stream,
    /// Columns in the low half, rows in the high.
    size: AtomicU32,
    /// The size as the driver last read it.
    shown: AtomicU32,
    input: Mutex<VecDeque<u8>>,
    /// Where a change of size is told, while a driver wants to hear of it.
    listener: Listener,
}

impl Shared {
    pub(super) fn new(stream: Stream) -> Self {
        let (size, shown) = (AtomicU32::new(0), AtomicU32::new(0));
        let shared = Self { stream, size, shown, input: Mutex::default(), listener: Listener::default() };
        shared.refresh();
        shared
    }

    /// The size, for the driver: columns in the low half, rows in the high; zeros if nobody knows.
    pub(super) fn show_size(&self) -> u32 {
        let size = self.size.load(Ordering::SeqCst);
        self.shown.store(size, Ordering::SeqCst);
        size
    }

    /// Looks at the terminal's size and tells the driver if it has changed.
    pub(super) fn refresh(&self) {
        let Some((columns, rows)) = self.stream.size() else { return };
        let size = u32::from(columns) | u32::from(rows) << 16;
        if self.size.swap(size, Ordering::SeqCst) == size {
            return;
        }
        self.listener.config_changed();
    }

    /// Tells `signals` of changes from now on, and at once of those that the driver could not hear of: before it was ready, or while
    /// the machine was paused.
    pub(super) fn listen(&self, signals: Option<Arc<Signals>>) {
        self.listener.set(signals);
        if self.size.load(Ordering::SeqCst) != self.shown.load(Ordering::SeqCst) {
            self.listener.config_changed();
        }
    }

    pub(super) fn input(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

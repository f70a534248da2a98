//! What the destination's threads share: the one that receives, the one that takes further connections, those that store memory.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::ReceiveSettings;
use crate::connection::{Connection, TICK, Watch};
use crate::pages::Pages;
use crate::ranges::merged;
use crate::sides::Ram;

/// Shared for as long as the last of them lives.
pub(super) struct Session {
    pub(super) settings: ReceiveSettings,
    /// Its flag is the caller's.
    pub(super) watch: Watch,
    /// For the threads that store memory: they end with the session.
    pub(super) workers: Watch,
    pub(super) pages: Arc<Pages>,
    /// The name that the source gave it; 0 if it gave none.
    tag: AtomicU32,
    /// RAM, while memory is accepted.
    ram: RwLock<Option<Ram>>,
    settle: Mutex<Settle>,
    came: Condvar,
    over: AtomicBool,
}

#[derive(Default)]
struct Settle {
    waiting: Option<Connection>,
    /// The machine is this side's.
    completed: bool,
    /// Until when a source may ask about that.
    until: Option<Instant>,
}

impl Session {
    pub(super) fn new(settings: ReceiveSettings, watch: Watch) -> Self {
        Self {
            settings,
            workers: watch.beside(),
            watch,
            pages: Arc::new(Pages::new(settings.limits)),
            tag: AtomicU32::new(0),
            ram: RwLock::new(None),
            settle: Mutex::default(),
            came: Condvar::new(),
            over: AtomicBool::new(false),
        }
    }

    pub(super) fn tag(&self) -> u32 {
        self.tag.load(Ordering::Acquire)
    }

    /// Whether the source is one of ours, and can be told more than the reference tells.
    pub(super) fn is_ours(&self) -> bool {
        self.tag() != 0
    }

    pub(super) fn set_tag(&self, tag: u32) {
        self.tag.store(tag, Ordering::Release);
        if tag != 0 {
            self.pages.expect_again();
        }
    }

    /// From now on memory is accepted.
    pub(super) fn open(&self, ram: Ram) {
        let ram = Ram { ranges: merged(ram.ranges), ..ram };
        *self.ram.write().unwrap_or_else(PoisonError::into_inner) = Some(ram);
    }

    /// From now on none is. What is being stored is stored when this returns.
    pub(super) fn shut(&self) {
        *self.ram.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Works on RAM; `None` if memory is not accepted.
    pub(super) fn with_ram<T>(&self, work: impl FnOnce(&Ram) -> T) -> Option<T> {
        self.ram.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(work)
    }

    /// A source has come to settle what a broken connection left open.
    pub(super) fn put_settling(&self, connection: Connection) {
        self.lock().waiting = Some(connection);
        self.watch.supersede(true);
        self.came.notify_all();
    }

    /// The next source that has come for that, waiting no longer than until `until`.
    pub(super) fn next_settling(&self, until: Instant) -> Option<Connection> {
        let mut settle = self.lock();
        loop {
            if let Some(connection) = settle.waiting.take() {
                self.watch.supersede(false);
                return Some(connection);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.watch.is_cancelled() {
                return None;
            }
            settle = self.came.wait_timeout(settle, left.min(TICK)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The machine is this side's: sources that ask hear it for `limit`.
    pub(super) fn complete(&self, limit: Duration) {
        let mut settle = self.lock();
        settle.completed = true;
        settle.until = Some(Instant::now() + limit);
    }

    /// A source that asks about a machine which is this side's for sure.
    pub(super) fn settling_after_completion(&self) -> Option<Connection> {
        let mut settle = self.lock();
        if settle.completed { settle.waiting.take() } else { None }
    }

    /// Nothing is left to be asked.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    pub(super) fn is_over(&self) -> bool {
        let late = self.lock().until.is_some_and(|until| Instant::now() >= until);
        let ended = self.over.load(Ordering::Acquire) || late;
        ended && (!self.settings.postcopy || self.pages.is_over())
    }

    fn lock(&self) -> MutexGuard<'_, Settle> {
        self.settle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

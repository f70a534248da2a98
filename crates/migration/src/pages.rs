//! Postcopy at the destination: pages that are still at the source.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::connection::{Connection, Limit, LinkError, TICK, Watch};
use crate::limits::Limits;
use crate::wire::{Command, Request, encode_ranges};

/// The way to the pages that are still at the source. Any thread may ask; one is served after the other. A connection that breaks is
/// replaced by the source, and the page is asked for again.
pub struct Pages {
    limits: Limits,
    watch: Watch,
    current: Mutex<Option<Connection>>,
    fresh: Mutex<Option<Connection>>,
    came: Condvar,
    /// The source comes back after a break.
    comes_back: AtomicBool,
    over: AtomicBool,
}

impl Pages {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            watch: Watch::default(),
            current: Mutex::default(),
            fresh: Mutex::default(),
            came: Condvar::new(),
            comes_back: AtomicBool::new(false),
            over: AtomicBool::new(false),
        }
    }

    /// Fills `bytes` with the source's RAM from `gpa` on.
    ///
    /// # Errors
    /// The source has refused, or did not come back after a break: the guest cannot go on.
    pub fn read(&self, gpa: u64, bytes: &mut [u8]) -> Result<(), LinkError> {
        let until = Instant::now() + self.limits.fault_again;
        self.with_connection(until, |connection| fetch(connection, gpa, bytes))
    }

    /// Tells the source that nothing is missing any more. If it cannot be told it finds out by itself.
    pub fn finish(&self) {
        if self.is_over() {
            return;
        }
        let comes_back = self.comes_back.load(Ordering::Acquire);
        let told = self.with_connection(Instant::now() + self.limits.settle, |connection| {
            connection.ask(Request::new(Command::Abandon, 0))?;
            // The reference does not answer.
            if comes_back { connection.answer(Limit::Within(self.limits.start)).map(drop) } else { Ok(()) }
        });
        if let Err(error) = told {
            tracing::info!("migration: the source was not told that all pages are here: {error}");
        }
        self.close();
    }

    /// Nobody is to ask any more.
    pub(crate) fn close(&self) {
        self.over.store(true, Ordering::Release);
        self.watch.supersede(true);
        self.came.notify_all();
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// The source replaces connections that break.
    pub(crate) fn expect_again(&self) {
        self.comes_back.store(true, Ordering::Release);
    }

    /// The first connection, or one that takes the place of another.
    pub(crate) fn put(&self, mut connection: Connection) {
        connection.heed_successor(self.watch.clone());
        *lock(&self.fresh) = Some(connection);
        self.watch.supersede(true);
        self.came.notify_all();
    }

    /// Whether the connection came within `limit`.
    pub(crate) fn wait_for_connection(&self, limit: Duration) -> Result<(), LinkError> {
        let mut current = lock(&self.current);
        if current.is_none() {
            *current = Some(self.wait(Instant::now() + limit)?);
        }
        Ok(())
    }

    fn with_connection(
        &self,
        until: Instant,
        mut work: impl FnMut(&mut Connection) -> Result<(), LinkError>,
    ) -> Result<(), LinkError> {
        let mut current = lock(&self.current);
        loop {
            let mut connection = match current.take() {
                Some(connection) => connection,
                None => self.wait(until)?,
            };
            match work(&mut connection) {
                Ok(()) => {
                    *current = Some(connection);
                    return Ok(());
                }
                Err(error @ (LinkError::Refused(_) | LinkError::Nonsense(_))) => return Err(error),
                Err(error) if !self.comes_back.load(Ordering::Acquire) => return Err(error),
                Err(error) => tracing::info!("migration: a page is asked for again: {error}"),
            }
        }
    }

    fn wait(&self, until: Instant) -> Result<Connection, LinkError> {
        let started = Instant::now();
        let mut fresh = lock(&self.fresh);
        loop {
            if self.is_over() {
                return Err(LinkError::Closed);
            }
            if let Some(connection) = fresh.take() {
                self.watch.supersede(false);
                return Ok(connection);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(LinkError::Silent(started.elapsed().as_secs()));
            }
            fresh = self.came.wait_timeout(fresh, left.min(TICK)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn fetch(connection: &mut Connection, gpa: u64, bytes: &mut [u8]) -> Result<(), LinkError> {
    let len = bytes.len() as u64;
    let range = encode_ranges(&[(gpa, len)]);
    let head = Request::new(Command::PageFault, range.len() as u64).encode();
    let limit = Limit::for_bytes(len);
    connection.write(&[&head[..], &range].concat(), limit)?;
    let response = connection.answer(limit)?;
    if response.length != len {
        return Err(LinkError::Nonsense(format!("{} bytes where {len} were asked for", response.length)));
    }
    connection.read(bytes, limit)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

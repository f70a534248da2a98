//! Several connections for memory: threads that take pieces from one list.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use sandbox::{Profile, groups};

use super::pieces::{Amount, Zeroes, send_piece};
use super::{SendError, link};
use crate::connection::{Connection, Limit, LinkError, TICK, Watch};
use crate::endpoint::Dial;
use crate::limits::Limits;
use crate::profile::STREAM;
use crate::ranges::Range;
use crate::sides::SourceMemory;
use crate::wire::Role;

/// A thread that sends memory.
pub(crate) static PROFILE: Profile = Profile::new("migration-tcp-worker", &[STREAM, groups::READ_FILES]);

/// The threads. Dropping it ends them.
pub(super) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    memory: Arc<dyn SourceMemory>,
    limits: Limits,
    /// Its own, so that the threads end when one of them fails.
    watch: Watch,
    work: Mutex<Work>,
    changed: Condvar,
}

#[derive(Default)]
struct Work {
    pieces: VecDeque<(Vec<Range>, Zeroes)>,
    /// Pieces that some thread is sending.
    under_way: usize,
    done: Amount,
    failed: Option<SendError>,
    over: bool,
}

impl Pool {
    /// Connects `count` times.
    pub(super) fn start(
        dial: &dyn Dial,
        count: u32,
        memory: Arc<dyn SourceMemory>,
        limits: Limits,
    ) -> Result<Self, SendError> {
        let (work, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { memory, limits, watch: Watch::default(), work, changed });
        let mut pool = Self { shared, threads: Vec::new() };
        for number in 0..count {
            let mut connection = dial.dial(&pool.shared.watch).map_err(SendError::Dial)?;
            connection
                .write(&Role::Memory.encode(), Limit::for_bytes(0))
                .map_err(link("open a connection for memory"))?;
            let shared = Arc::clone(&pool.shared);
            let thread = sandbox::spawn(&PROFILE, format!("migrate-send-memory-{number}"), move || {
                shared.work(connection);
            });
            pool.threads.push(thread.map_err(SendError::Thread)?);
        }
        Ok(pool)
    }

    /// Sends all of `pieces` and returns when the destination has them. `progress` hears every now and then how much is done.
    pub(super) fn send(
        &self,
        pieces: Vec<Vec<Range>>,
        zeroes: Zeroes,
        watch: &Watch,
        mut progress: impl FnMut(Amount),
    ) -> Result<Amount, SendError> {
        let mut work = self.shared.lock();
        work.done = Amount::default();
        work.pieces.extend(pieces.into_iter().map(|piece| (piece, zeroes)));
        self.shared.changed.notify_all();
        loop {
            if let Some(error) = work.failed.take() {
                return Err(error);
            }
            if work.pieces.is_empty() && work.under_way == 0 {
                return Ok(work.done);
            }
            if watch.is_cancelled() {
                return Err(link("send the memory")(LinkError::Cancelled));
            }
            let waited = self.shared.changed.wait_timeout(work, TICK);
            work = waited.unwrap_or_else(PoisonError::into_inner).0;
            let done = work.done;
            drop(work);
            progress(done);
            work = self.shared.lock();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.watch.cancel();
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // One that panicked has ended too.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn work(&self, mut connection: Connection) {
        while let Some((piece, zeroes)) = self.next() {
            let sent = send_piece(&mut connection, &*self.memory, &piece, zeroes, &self.limits);
            let mut work = self.lock();
            work.under_way -= 1;
            match sent {
                Ok(amount) => {
                    work.done.sent += amount.sent;
                    work.done.zero += amount.zero;
                }
                Err(error) => {
                    // The first error is the reason of the others.
                    work.failed.get_or_insert(error);
                    work.over = true;
                }
            }
            drop(work);
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Option<(Vec<Range>, Zeroes)> {
        let mut work = self.lock();
        loop {
            if work.over {
                return None;
            }
            if let Some(piece) = work.pieces.pop_front() {
                work.under_way += 1;
                return Some(piece);
            }
            // Ends with the pool, which is dropped with the migration.
            work = self.changed.wait_timeout(work, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

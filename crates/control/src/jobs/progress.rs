//! What is known of jobs, on any thread: the thread of a job writes, doors read.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::{ApiError, Code, Job, JobPhase, JobState, Jobs};

/// Jobs that are remembered, the one under way among them.
const REMEMBERED: usize = 16;

/// How far one job is.
pub(crate) struct Progress {
    pub(crate) id: u64,
    pub(crate) verb: &'static str,
    is_cancelled: Arc<AtomicBool>,
    done: AtomicU64,
    left: AtomicU64,
    told: Mutex<Told>,
}

#[derive(Clone, Default)]
struct Told {
    state: JobState,
    phase: JobPhase,
    dirty_rate: Option<u64>,
    expected_downtime_ms: Option<u64>,
    downtime_us: Option<u64>,
    error: Option<Vec<String>>,
}

impl Progress {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another phase begins, with so many bytes to do.
    pub(crate) fn enter(&self, phase: JobPhase, left: u64) {
        self.left.store(left, Ordering::Relaxed);
        self.told().phase = phase;
    }

    /// So many bytes are done, and so many left.
    pub(crate) fn set(&self, done: u64, left: u64) {
        self.done.store(done, Ordering::Relaxed);
        self.left.store(left, Ordering::Relaxed);
    }

    /// Some of the bytes are done.
    pub(crate) fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        let less = |left: u64| Some(left.saturating_sub(bytes));
        // The closure always answers.
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Bytes a second that the guest wrote lately, and for how long it would stand still now.
    pub(crate) fn estimate(&self, dirty_rate: u64, downtime_ms: u64) {
        let mut told = self.told();
        told.dirty_rate = Some(dirty_rate);
        told.expected_downtime_ms = Some(downtime_ms);
    }

    /// For how long the guest stood still.
    pub(crate) fn stood_still(&self, microseconds: u64) {
        self.told().downtime_us = Some(microseconds);
    }

    /// Asks the job's thread to give up.
    pub(crate) fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked to.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
    }

    /// What says so, for those who look at it themselves.
    pub(crate) fn cancel_flag(&self) -> Arc<AtomicBool> {
        self.is_cancelled.clone()
    }

    /// The error of a job that was.
    pub(crate) fn cancelled(&self) -> ApiError {
        ApiError::new(Code::IllegalState, [format!("{} was cancelled", self.verb)])
    }

    /// The job is over.
    pub(crate) fn end(&self, result: &Result<(), ApiError>) -> JobState {
        let mut told = self.told();
        told.state = match result {
            Ok(()) => JobState::Done,
            Err(_) if self.is_cancelled() => JobState::Cancelled,
            Err(_) => JobState::Failed,
        };
        told.error = result.as_ref().err().map(|error| error.chain().to_vec());
        told.state
    }

    fn read(&self) -> Job {
        let Told { state, phase, dirty_rate, expected_downtime_ms, downtime_us, error } = self.told().clone();
        Job {
            id: self.id,
            verb: self.verb.into(),
            state,
            phase,
            bytes_done: self.done.load(Ordering::Relaxed),
            bytes_left: self.left.load(Ordering::Relaxed),
            dirty_rate,
            expected_downtime_ms,
            downtime_us,
            error,
        }
    }
}

/// The last jobs.
#[derive(Default)]
pub(crate) struct Board(Mutex<VecDeque<Arc<Progress>>>);

impl Board {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Progress>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new job of `verb`.
    pub(crate) fn open(&self, verb: &'static str) -> Arc<Progress> {
        let mut all = self.lock();
        if all.len() == REMEMBERED {
            all.pop_front();
        }
        let id = all.back().map_or(0, |last| last.id) + 1;
        let job = Arc::new(Progress {
            id,
            verb,
            is_cancelled: Arc::default(),
            done: AtomicU64::default(),
            left: AtomicU64::default(),
            told: Mutex::default(),
        });
        all.push_back(job.clone());
        job
    }

    /// What `vm.jobs` answers.
    pub(crate) fn read(&self) -> Jobs {
        Jobs { jobs: self.lock().iter().map(|job| job.read()).collect() }
    }
}

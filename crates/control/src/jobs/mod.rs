//! Long calls: each is a job with a thread of its own, and the loop goes on meanwhile.
//!
//! ```text
//!  control ── start ──▶ thread of the job ── reads RAM, writes files
//!     │  ◀── Ask::Do(act) ───────────┤        what only control may do, it does when asked: hold the machine, let it go
//!     │  ◀── Ask::End(finish) ───────┘        and `finish` is what is left to do on control's thread
//!     └── reply to the client, event job-ended
//! ```
//! There is one job at a time. While it runs, the VM is [`api::State::Working`]: verbs that would change the machine are refused, those that
//! end it end the job first. A job that is cancelled gives the guest back at once, and its thread then has nothing to say any more.

mod coredump;
mod guard;
mod progress;
mod receive;
mod restore;
mod send;
mod snapshot;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use api::{ApiError, Code, JobPhase, JobState, ReplyTo, State};
use device::{Event, Events};
use machine::Tree;
use sandbox::Profile;

use crate::Control;
use crate::verbs::Done;

pub(crate) use progress::{Board, Progress};

pub(crate) use guard::Guard;
pub(crate) use send::Released;

/// Those of the jobs' threads.
pub(crate) static PROFILES: &[&Profile] = &[&snapshot::PROFILE, &restore::PROFILE, &send::PROFILE];

/// What is left to do on control's thread when a job has done its part; `None`: it is all done, and nobody can cancel it any more.
pub(crate) type Finish = Option<Box<dyn FnOnce(&mut Control) -> Done + Send>>;

/// The job that hands the machine over.
pub(super) const SEND: &str = "vm.send-migration";

/// How long control waits for a job that it has cancelled, where it cannot go on before that has ended: it looks after each piece of work.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the thread of a job asks of control.
enum Ask {
    /// Do this.
    Do(Box<dyn FnOnce(&mut Control) + Send>),
    /// The thread has done its part.
    End(Result<Finish, ApiError>),
}

/// A machine that holds still.
pub(crate) struct Held {
    pub(crate) tree: Tree,
    /// The VM's configuration as JSON.
    pub(crate) config: Vec<u8>,
}

/// The job that is under way.
struct Current {
    progress: Arc<Progress>,
    asks: Receiver<Ask>,
    thread: JoinHandle<()>,
    /// Since when the job holds a machine that ran before.
    held: Option<Instant>,
    /// Nobody but the job may give the machine back that it holds: it may be somebody else's by now.
    is_migration: bool,
    reply: ReplyTo<()>,
    /// Of those who cancelled it.
    cancels: Vec<ReplyTo<()>>,
}

/// The jobs of one process.
#[derive(Default)]
pub(crate) struct JobRunner {
    current: Option<Current>,
    board: Arc<Board>,
}

impl JobRunner {
    pub(crate) fn new(board: Arc<Board>) -> Self {
        Self { current: None, board }
    }

    fn open(&self, verb: &'static str) -> Arc<Progress> {
        self.board.open(verb)
    }

    /// What the VM is in, if a job is under way.
    pub(crate) fn state(&self) -> Option<State> {
        let current = self.current.as_ref()?;
        Some(if current.progress.verb == SEND { State::Migrating } else { State::Working })
    }
}

/// The job's own end.
pub(crate) struct Link {
    pub(crate) progress: Arc<Progress>,
    asks: Sender<Ask>,
    events: Events,
}

impl Link {
    fn ask(&self, ask: Ask) {
        // A control loop that is gone has ended the job.
        let _ = self.asks.send(ask);
        self.events.raise(Event::News);
    }

    /// Has control do something, and waits until it is done.
    pub(crate) fn with<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Control) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let (answer, done) = mpsc::channel();
        // A thread that does not wait any more has died.
        self.ask(Ask::Do(Box::new(move |control| drop(answer.send(act(control))))));
        done.recv().unwrap_or_else(|_| Err(self.progress.cancelled()))
    }

    /// Has control hold the machine, and its state.
    pub(crate) fn hold(&self) -> Result<Held, ApiError> {
        self.with(Control::hold_for_job)
    }

    /// Has control let the machine go on.
    pub(crate) fn let_go(&self) {
        self.ask(Ask::Do(Box::new(Control::let_go_for_job)));
    }

    /// To be called between two pieces of work: an error once the job is cancelled.
    pub(crate) fn go_on(&self) -> Result<(), ApiError> {
        if self.progress.is_cancelled() { Err(self.progress.cancelled()) } else { Ok(()) }
    }
}

impl Drop for Link {
    /// Control looks after a thread that has died, too.
    fn drop(&mut self) {
        self.events.raise(Event::News);
    }
}

impl Control {
    /// Starts a job of `verb` that does `work` on its own thread. `reply` is answered at its end.
    pub(crate) fn start_job(
        &mut self,
        verb: &'static str,
        profile: &'static Profile,
        reply: ReplyTo<()>,
        work: impl FnOnce(&Link) -> Result<Finish, ApiError> + Send + 'static,
    ) {
        let progress = self.jobs.open(verb);
        let (asks, received) = mpsc::channel();
        let link = Link { progress: progress.clone(), asks, events: self.events.clone() };
        let body = move || {
            let result = work(&link);
            link.ask(Ask::End(result));
        };
        let id = progress.id.to_string();
        self.events.record("vm", "job-started", &[("id", &id), ("verb", verb)]);
        match sandbox::spawn(profile, format!("job-{id}"), body) {
            Ok(thread) => {
                let (held, cancels, is_migration) = (None, Vec::new(), verb == SEND);
                let asks = received;
                self.jobs.current =
                    Some(Current { progress, asks, thread, held, is_migration, reply, cancels });
            }
            Err(error) => {
                let result = Err(thread_failed(&error));
                self.tell_of_job(&progress, &result);
                reply.send(result);
            }
        }
    }

    /// Does what the job asks for.
    pub(crate) fn look_after_job(&mut self) {
        while let Some(current) = &self.jobs.current {
            match current.asks.try_recv() {
                Ok(ask) => self.obey_job(ask),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => self.obey_job(Ask::End(Err(died()))),
            }
        }
    }

    fn obey_job(&mut self, ask: Ask) {
        match ask {
            Ask::Do(act) => act(self),
            Ask::End(result) => self.end_job(result),
        }
    }

    fn hold_for_job(&mut self) -> Result<Held, ApiError> {
        let Some(current) = &self.jobs.current else { return Err(died()) };
        let progress = current.progress.clone();
        if progress.is_cancelled() {
            return Err(progress.cancelled());
        }
        progress.enter(JobPhase::Holding, 0);
        let since = Instant::now();
        let machine = self.running()?;
        if !machine.is_paused() {
            machine.pause().map_err(|e| ApiError::from_error(Code::Internal, &e))?;
            if let Some(current) = &mut self.jobs.current {
                current.held = Some(since);
            }
        }
        let tree = self.running()?.save().map_err(|e| ApiError::from_error(Code::Internal, &e));
        let held = tree.and_then(|tree| Ok(Held { tree, config: self.saved_config()? }));
        if held.is_err() {
            self.let_go_for_job();
        }
        held
    }

    /// Gives the guest back, if the job held it and nobody else may have it.
    fn give_back(&mut self) {
        if self.jobs.current.as_ref().is_some_and(|current| !current.is_migration) {
            self.let_go_for_job();
        }
    }

    /// Gives the guest back, if the job held it.
    pub(super) fn let_go_for_job(&mut self) {
        let Some(current) = &mut self.jobs.current else { return };
        let Some(since) = current.held.take() else { return };
        let progress = current.progress.clone();
        if let Some(machine) = self.machine() {
            machine.resume();
        }
        progress.stood_still(u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX));
        self.kept.drain(..).for_each(|event| self.events.raise(event));
    }

    fn end_job(&mut self, result: Result<Finish, ApiError>) {
        self.give_back();
        let Some(current) = self.jobs.current.take() else { return };
        // What it has to say was its last.
        let _ = current.thread.join();
        let result = match result {
            Ok(None) => Ok(()),
            Ok(Some(_)) if current.progress.is_cancelled() => Err(current.progress.cancelled()),
            Ok(Some(finish)) => finish(self),
            Err(error) => Err(error),
        };
        self.tell_of_job(&current.progress, &result);
        for cancel in current.cancels {
            cancel.send(if result.is_ok() { Err(too_late(current.progress.id)) } else { Ok(()) });
        }
        current.reply.send(result);
    }

    fn tell_of_job(&self, progress: &Progress, result: &Result<(), ApiError>) {
        let state = match progress.end(result) {
            JobState::Running => "running",
            JobState::Done => "done",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        };
        let id = progress.id.to_string();
        self.events.record("vm", "job-ended", &[("id", &id), ("verb", progress.verb), ("state", state)]);
    }

    /// Ends the job `id`: the guest goes on at once. The reply comes when nothing of the job is left.
    pub(crate) fn cancel_job(&mut self, id: u64, reply: ReplyTo<()>) {
        match &mut self.jobs.current {
            Some(current) if current.progress.id == id => {
                current.progress.cancel();
                current.cancels.push(reply);
                self.give_back();
            }
            _ => reply.send(Err(too_late(id))),
        }
    }

    /// Ends the job, if there is one, because the machine changes under it.
    pub(crate) fn give_up_job(&mut self) {
        let Some(current) = &self.jobs.current else { return };
        current.progress.cancel();
        self.give_back();
        let deadline = Instant::now() + PATIENCE;
        while let Some(current) = &self.jobs.current {
            match current.asks.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(ask) => self.obey_job(ask),
                Err(RecvTimeoutError::Disconnected) => self.obey_job(Ask::End(Err(died()))),
                Err(RecvTimeoutError::Timeout) => {
                    tracing::error!("The job {} does not end and is left behind", current.progress.id);
                    self.leave_job();
                }
            }
        }
    }

    /// Forgets a job whose thread does not answer.
    fn leave_job(&mut self) {
        let Some(Current { progress, reply, cancels, .. }) = self.jobs.current.take() else { return };
        let result = Err(progress.cancelled());
        self.tell_of_job(&progress, &result);
        cancels.into_iter().for_each(|cancel| cancel.send(Ok(())));
        reply.send(result);
    }
}

fn too_late(id: u64) -> ApiError {
    ApiError::new(Code::NoSuchJob, [format!("There is no job {id} under way: it has ended, or never was")])
}

fn died() -> ApiError {
    ApiError::new(Code::Internal, ["The job's thread has died: the log says why".into()])
}

fn thread_failed(error: &io::Error) -> ApiError {
    ApiError::from_error(Code::Internal, error).within("The job's thread cannot be started")
}

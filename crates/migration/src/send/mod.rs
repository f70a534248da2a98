//! The source's side: which step follows which, and whose machine it is when a step fails.
//!
//! ```text
//!  Kept ── release, State ──▶ Offered ── State answered, Complete ──▶ Given ── Complete answered ──▶ gone
//!    ▲                           │                                      │
//!    └─── refused, or abandoned ─┴─ refused, or nobody is there ────────┘        (`settle`)
//! ```
//! While the machine is kept, any failure lets the guest go on here. Once it is offered the destination may hold it, so that a broken
//! connection has to be settled first: see `docs/migration.md`.

mod fds;
mod pieces;
mod pool;
mod precopy;
mod serve;
mod settle;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use config::TimeoutStrategy;
use thiserror::Error;

use crate::connection::{Connection, Limit, LinkError, Watch};
use crate::endpoint::Dial;
use crate::limits::Limits;
use crate::progress::{Phase, Progress};
use crate::ranges::merged;
use crate::sides::{MachineError, Source};
use crate::wire::{Abilities, Command, DOCUMENT_LIMIT, Request};
use pool::Pool;
use serve::PageServer;
use settle::Settled;

pub(crate) use pool::PROFILE as POOL_PROFILE;
pub(crate) use serve::PROFILE as SERVE_PROFILE;

/// How a machine is sent.
#[derive(Clone, Copy, Debug)]
pub struct SendSettings {
    /// Memory goes as descriptors.
    pub local: bool,
    /// The machine stays here, paused, with all that it holds: the other side keeps a copy of it.
    pub preserve_source: bool,
    /// How long the guest may stand still.
    pub downtime: Duration,
    /// How long it may take until `on_timeout` applies.
    pub timeout: Duration,
    /// What happens to a guest that writes faster than the wire is.
    pub on_timeout: TimeoutStrategy,
    /// Connections for memory, if more than one.
    pub connections: u32,
    /// Memory is sent when the destination asks for it.
    pub postcopy: bool,
    /// The guest is slowed down if it writes faster than the wire is.
    pub throttle: bool,
    /// How long waits may take.
    pub limits: Limits,
}

/// Why a migration failed at the source.
#[derive(Debug, Error)]
pub enum SendError {
    /// Nobody is there, or not in time.
    #[error(
        "Cannot connect to the destination: check the URL, and that the other side waits in vm.receive-migration"
    )]
    Dial(#[source] io::Error),
    /// A message did not come through.
    #[error("Cannot {step}")]
    Link {
        /// What was to be done.
        step: &'static str,
        /// Why not.
        #[source]
        source: LinkError,
    },
    /// The machine refused.
    #[error("Cannot {step}")]
    Machine {
        /// What was to be done.
        step: &'static str,
        /// The machine's reason.
        #[source]
        source: MachineError,
    },
    /// The guest writes faster than the wire is.
    #[error(
        "The guest writes its memory faster than it can be sent: after {timeout_s} s it would stand still for {downtime_ms} ms. \
         Allow more with downtime_ms, timeout_s or timeout_strategy, or add connections"
    )]
    Timeout {
        /// Seconds since the beginning.
        timeout_s: u64,
        /// What it would take now.
        downtime_ms: u64,
    },
    /// It would not be read at the other end.
    #[error("The {what} of {len} bytes is longer than a migration can carry")]
    TooLong {
        /// Configuration or state.
        what: &'static str,
        /// Its length.
        len: usize,
    },
    /// The kernel's.
    #[error("Cannot start a thread for the migration")]
    Thread(#[source] io::Error),
}

/// Where the machine is after a migration that failed.
#[derive(Debug)]
pub enum Left {
    /// Here, as it was before: it runs if it ran.
    AsBefore,
    /// Here, but it stands still: what it let go of could not be taken back, or its guest did not go on. It may be told to run as soon
    /// as [`Source::take_back`] succeeds.
    Paused(MachineError),
    /// Here, standing still and holding nothing, or at the destination: nobody could be asked. It may be told to run, after
    /// [`Source::take_back`], by somebody who knows that it does not run there.
    Unknown,
}

/// A migration that failed.
#[derive(Debug, Error)]
#[error("The migration failed{}", match .left {
    Left::AsBefore => "",
    Left::Paused(_) => ", and the machine here stays paused: see whether another one uses its disks, then resume it",
    Left::Unknown => ", and the destination cannot be asked whether it has the machine: look there, and resume the machine here only \
                      if it is not there",
})]
pub struct SendFailure {
    /// Why.
    #[source]
    pub error: SendError,
    /// Where the machine is.
    pub left: Left,
}

/// A machine that has gone.
#[derive(Debug)]
pub struct Sent {
    /// What was sent.
    pub progress: Progress,
    /// Postcopy: why some page could not be sent any more. The guest cannot go on without it.
    pub pages_lost: Option<LinkError>,
}

/// What this side may do with its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Kept,
    Offered,
    Given,
}

/// Sends the machine to whoever `dial` reaches; the guest goes on here if that fails. `watch` can cancel it until the machine is offered
/// to the destination.
///
/// # Errors
/// [`SendFailure`] says where the machine is.
pub fn send(
    source: &mut dyn Source,
    dial: &Arc<dyn Dial>,
    settings: &SendSettings,
    watch: &Watch,
) -> Result<Sent, SendFailure> {
    let mut sending = Sending {
        running: source.is_running(),
        source,
        dial,
        settings,
        watch,
        tag: random_tag(),
        stage: Stage::Kept,
        paused: false,
        tracked: false,
        abilities: Abilities::default(),
        direct: false,
        progress: Progress::default(),
        filled: false,
        pool: None,
        server: None,
    };
    match sending.run() {
        Ok(()) => Ok(sending.finish()),
        Err(error) => sending.fall_back(error),
    }
}

struct Sending<'a> {
    source: &'a mut dyn Source,
    dial: &'a Arc<dyn Dial>,
    settings: &'a SendSettings,
    watch: &'a Watch,
    running: bool,
    tag: u32,
    stage: Stage,
    /// By this migration.
    paused: bool,
    tracked: bool,
    abilities: Abilities,
    /// Nobody relays between this side and the destination.
    direct: bool,
    progress: Progress,
    /// The destination's RAM is no longer as it was made.
    filled: bool,
    pool: Option<Pool>,
    server: Option<PageServer>,
}

impl Sending<'_> {
    fn run(&mut self) -> Result<(), SendError> {
        let mut main = self.dial.dial(self.watch).map_err(SendError::Dial)?;
        self.introduce(&mut main)?;
        if self.settings.local {
            self.send_fds(&mut main)?;
        }
        let config = self.source.config().map_err(machine("describe the machine"))?;
        let limit = Limit::Within(self.settings.limits.config);
        send_document(&mut main, Command::Config, &config, limit).map_err(link("send the configuration"))?;
        if self.settings.local {
            self.pause()?;
        } else if self.settings.postcopy {
            self.pause()?;
            self.serve_pages()?;
        } else {
            self.precopy(&mut main)?;
        }
        self.hand_over(main)
    }

    fn introduce(&mut self, main: &mut Connection) -> Result<(), SendError> {
        let start = |main: &mut Connection| {
            main.ask(Request::start(self.tag))?;
            main.answer(Limit::Within(self.settings.limits.start))
        };
        let welcome = start(main).map_err(link("start the migration"))?;
        let (abilities, witness) = welcome.introduction();
        self.abilities = abilities;
        self.direct = witness != 0 && witness == main.witness();
        Ok(())
    }

    fn pause(&mut self) -> Result<(), SendError> {
        self.report(Phase::Handover);
        if self.running && !self.paused {
            self.source.pause().map_err(machine("pause the guest"))?;
            self.paused = true;
        }
        Ok(())
    }

    fn serve_pages(&mut self) -> Result<(), SendError> {
        let ranges = merged(self.source.ranges());
        let again = self.abilities.has(Abilities::FAULT_AGAIN).then_some(self.tag);
        let limits = self.settings.limits;
        let server = PageServer::start(Arc::clone(self.dial), self.source.memory(), ranges, again, limits)?;
        self.server = Some(server);
        Ok(())
    }

    /// The last of it. From `State` on the destination may hold the machine, unless it only gets a copy.
    fn hand_over(&mut self, mut main: Connection) -> Result<(), SendError> {
        let state = self.source.state().map_err(machine("save the machine's state"))?;
        if state.len() as u64 > DOCUMENT_LIMIT {
            return Err(SendError::TooLong { what: "state", len: state.len() });
        }
        if !self.settings.local && !self.settings.postcopy {
            self.send_written(&mut main)?;
        }
        if self.watch.is_cancelled() {
            return Err(link("hand the machine over")(LinkError::Cancelled));
        }
        if !self.settings.preserve_source {
            self.stage = Stage::Offered;
            self.source.release().map_err(machine("let go of the machine's disks"))?;
            main.heed_nothing();
        }
        let limits = self.settings.limits;
        send_document(&mut main, Command::State, &state, Limit::Within(limits.state))
            .map_err(link("send the state"))?;
        if self.stage == Stage::Offered {
            self.stage = Stage::Given;
        }
        main.ask(Request::new(self.verdict(), 0)).map_err(link("complete the migration"))?;
        main.answer(Limit::Within(limits.complete)).map_err(link("complete the migration"))?;
        if self.abilities.has(Abilities::SETTLE) {
            // What is lost with it is a moment in which the destination could still be asked.
            let _ = main.ask(Request::new(Command::Settled, 0));
        }
        Ok(())
    }

    /// What tells the destination that the machine is its own.
    fn verdict(&self) -> Command {
        if self.running { Command::Complete } else { Command::CompletePaused }
    }

    /// The machine is the destination's; with postcopy its pages are not yet.
    fn finish(mut self) -> Sent {
        let mut pages_lost = None;
        if let Some(server) = self.server.take() {
            self.report(Phase::Postcopy);
            pages_lost = server.finish();
        }
        if self.settings.preserve_source {
            self.stop_tracking();
        }
        Sent { progress: self.progress, pages_lost }
    }

    fn fall_back(mut self, error: SendError) -> Result<Sent, SendFailure> {
        self.pool = None;
        let settled = match (self.stage, &error) {
            (Stage::Kept, _) => Settled::Kept,
            // Nothing was sent yet, or the destination itself says that it has nothing.
            (Stage::Offered, SendError::Machine { .. }) => Settled::Released,
            (_, SendError::Link { source: LinkError::Refused(_), .. }) => Settled::Released,
            _ => self.settle(),
        };
        tracing::info!("migration: {error}; the machine is settled: {settled:?}");
        match settled {
            Settled::Gone => return Ok(self.finish()),
            Settled::Unknown => return Err(SendFailure { error, left: Left::Unknown }),
            Settled::Kept | Settled::Released => {}
        }
        if let Some(server) = self.server.take() {
            server.stop();
        }
        let left = match self.go_on(settled) {
            Ok(()) => Left::AsBefore,
            Err(reason) => Left::Paused(reason),
        };
        Err(SendFailure { error, left })
    }

    fn go_on(&mut self, settled: Settled) -> Result<(), MachineError> {
        self.stop_tracking();
        if settled == Settled::Released {
            self.source.take_back()?;
        }
        if self.paused { self.source.resume() } else { Ok(()) }
    }

    /// What it costs stays, at worst, until the machine ends.
    fn stop_tracking(&mut self) {
        if self.progress.throttle != 0
            && let Err(error) = self.source.throttle(0)
        {
            tracing::warn!("migration: the guest stays slowed down: {error}");
        }
        if self.tracked
            && let Err(error) = self.source.track(false)
        {
            tracing::warn!("migration: writes to RAM are still tracked: {error}");
        }
    }

    fn report(&mut self, phase: Phase) {
        self.progress.phase = phase;
        self.source.progress(&self.progress);
    }
}

/// Sends a request with `document` as its payload and waits for the answer.
fn send_document(
    connection: &mut Connection,
    command: Command,
    document: &[u8],
    limit: Limit,
) -> Result<(), LinkError> {
    let len = document.len() as u64;
    let written = connection
        .ask(Request::new(command, len))
        .and_then(|()| connection.write(document, Limit::for_bytes(len)));
    written.map_err(|error| connection.explain(error))?;
    connection.answer(limit).map(drop)
}

fn link(step: &'static str) -> impl FnOnce(LinkError) -> SendError {
    move |source| SendError::Link { step, source }
}

fn machine(step: &'static str) -> impl FnOnce(MachineError) -> SendError {
    move |source| SendError::Machine { step, source }
}

/// Tells one migration from another, so that a late connection is not taken for one of the next. No secret: who must be kept out is
/// kept out by TLS. Never 0, which says that there is no name.
fn random_tag() -> u32 {
    let random = RandomState::new().build_hasher().finish();
    #[allow(clippy::cast_possible_truncation, reason = "half of the bits do")]
    let tag = random as u32;
    tag.max(1)
}

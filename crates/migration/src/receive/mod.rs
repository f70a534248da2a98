//! The destination's side: what it accepts when, and whose machine it is when the connection breaks.
//!
//! ```text
//!  nothing ── Config, Memory ──▶ filling ── State ──▶ holding ── Complete ──▶ owning
//!     ▲                             │                    │
//!     └──────── any failure ────────┘◀──── Abandon ──────┤
//!                                                        └── nobody asks in time ──▶ orphaned
//! ```
//! A machine that is held is whole, and stands still; it is the source's until `Complete` arrives. If the connection breaks meanwhile the
//! source comes back and says which it is to be (`docs/migration.md`).

mod acceptor;
mod memory;
mod session;
mod states;

use std::io;
use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;

use crate::connection::{Connection, Limit, LinkError, Watch};
use crate::endpoint::Accept;
use crate::limits::Limits;
use crate::sides::{Destination, MachineError};
use crate::wire::{Abilities, Command, DOCUMENT_LIMIT, Request, Response, VERSION};
use session::Session;
use states::State;

pub(crate) use acceptor::PROFILE as ACCEPT_PROFILE;
pub(crate) use memory::PROFILE as MEMORY_PROFILE;

/// How a machine is received.
#[derive(Clone, Copy, Debug)]
pub struct ReceiveSettings {
    /// Memory is asked for when it is needed.
    pub postcopy: bool,
    /// How long waits may take.
    pub limits: Limits,
}

/// Why no machine came.
#[derive(Debug, Error)]
pub enum ReceiveError {
    /// The listening socket.
    #[error("Cannot accept the source's connection")]
    Accept(#[source] io::Error),
    /// A message did not come through.
    #[error("The migration was broken off")]
    Link(#[from] LinkError),
    /// The machine refused.
    #[error("Cannot {step}")]
    Machine {
        /// What was to be done.
        step: &'static str,
        /// The machine's reason.
        #[source]
        source: MachineError,
    },
    /// The source has another version.
    #[error(
        "The source speaks version {0} of the protocol, this side version {VERSION}: use the same release on both"
    )]
    Version(u16),
    /// A request that is not due.
    #[error("The source sent {command:?} where that was not due")]
    NotDue {
        /// What it sent.
        command: Command,
    },
    /// A request of a length that it cannot have.
    #[error("The source sent {command:?} with {length} bytes")]
    Length {
        /// What it sent.
        command: Command,
        /// Bytes it announced.
        length: u64,
    },
    /// The source has given up.
    #[error("The source has given the migration up: see its log")]
    Abandoned,
    /// The kernel's.
    #[error("Cannot start a thread for the migration")]
    Thread(#[source] io::Error),
}

/// A machine that came.
#[derive(Debug)]
pub enum Received {
    /// It is this side's. It runs if it ran at the source, unless it could not be started: then it is paused.
    Owned {
        /// Why it does not run though it should.
        failed: Option<MachineError>,
    },
    /// It is whole, stands still, and holds its disks. The connection broke before the source could say whose it is, and the source did
    /// not come back: it may be told to run here by somebody who knows that it does not run there.
    Orphaned,
}

/// Waits for a source and takes its machine. `watch` can cancel it until the machine is this side's.
///
/// # Errors
/// [`ReceiveError`]; nothing is left of the machine then.
pub fn receive(
    mut listener: Box<dyn Accept>,
    destination: &mut dyn Destination,
    settings: ReceiveSettings,
    watch: &Watch,
) -> Result<Received, ReceiveError> {
    let mut main = loop {
        if watch.is_cancelled() {
            return Err(LinkError::Cancelled.into());
        }
        if let Some(connection) = listener.accept(watch).map_err(ReceiveError::Accept)? {
            break connection;
        }
    };
    let session = Arc::new(Session::new(settings, watch.clone()));
    main.heed_successor(watch.clone());
    let mut receiving =
        Receiving { destination, session: Arc::clone(&session), main, state: State::Established };
    if let Err(error) = receiving.start() {
        receiving.give_up(&error);
        return Err(error);
    }
    let acceptor = acceptor::spawn(Arc::clone(&session), listener).map_err(ReceiveError::Thread)?;
    let received = receiving.converse();
    match &received {
        // Before the listening socket goes: a source that finds nobody may take the machine back.
        Err(error) => receiving.give_up(error),
        Ok(Received::Owned { .. }) if !receiving.hear_goodbye() => return received,
        Ok(_) => {}
    }
    session.end();
    if !(settings.postcopy && received.is_ok()) {
        session.pages.close();
        // It looks every now and then; what it panicked of is in the log.
        let _ = acceptor.join();
    }
    received
}

struct Receiving<'a> {
    destination: &'a mut dyn Destination,
    session: Arc<Session>,
    main: Connection,
    state: State,
}

impl Receiving<'_> {
    fn start(&mut self) -> Result<(), ReceiveError> {
        let request = self.main.next_request(Limit::Within(self.session.settings.limits.start))?;
        self.admit(&request, Some(0))?;
        if request.command == Command::Abandon {
            return Err(ReceiveError::Abandoned);
        }
        let (version, tag) = request.session();
        if version != VERSION {
            return Err(ReceiveError::Version(version));
        }
        self.session.set_tag(tag);
        self.state = State::Started;
        self.destination.started();
        Ok(self.main.respond(Response::welcome(Abilities::ALL, self.main.witness()))?)
    }

    /// Until it is known whose the machine is.
    fn converse(&mut self) -> Result<Received, ReceiveError> {
        let quiet = Limit::Quiet(self.session.settings.limits.quiet);
        loop {
            let request = match self.main.next_request(quiet) {
                Ok(request) => request,
                Err(error) if self.state == State::Holding => return self.settle(error),
                Err(error) => return Err(error.into()),
            };
            match request.command {
                Command::Complete | Command::CompletePaused if self.state == State::Holding => {
                    self.admit(&request, Some(0))?;
                    return Ok(self.complete(request.command));
                }
                Command::Abandon => {
                    self.abandon();
                    // The source that gave up may not be there any more.
                    let _ = self.main.respond(Response::ok(0));
                    return Err(ReceiveError::Abandoned);
                }
                _ => self.serve(request)?,
            }
        }
    }

    fn serve(&mut self, request: Request) -> Result<(), ReceiveError> {
        match request.command {
            Command::MemoryFd => {
                self.admit(&request, Some(4))?;
                let mut slot = [0; 4];
                let fd = self.main.read_with_fd(&mut slot)?;
                let stored = self.destination.memory_fd(u32::from_le_bytes(slot), fd);
                stored.map_err(machine("use the source's memory"))?;
                self.state = State::FdsReceived;
            }
            Command::Config => {
                self.admit(&request, None)?;
                let config = self.main.read_payload("a configuration", request.length, DOCUMENT_LIMIT)?;
                let ram = self.destination.config(&config).map_err(machine("make the machine's memory"))?;
                self.session.open(ram);
                self.state = State::Configured;
            }
            Command::Memory if !self.session.settings.postcopy => {
                self.admit(&request, None)?;
                return Ok(memory::store(&self.session, &mut self.main, request)?);
            }
            Command::State => {
                self.admit(&request, None)?;
                return self.take_state(request.length);
            }
            command => return Err(ReceiveError::NotDue { command }),
        }
        Ok(self.main.respond(Response::ok(0))?)
    }

    /// From the answer on the machine is held: only the source's word, or nobody's, changes that.
    fn take_state(&mut self, length: u64) -> Result<(), ReceiveError> {
        let state = self.main.read_payload("a state", length, DOCUMENT_LIMIT)?;
        self.session.shut();
        if self.session.settings.postcopy {
            let pages = &self.session.pages;
            pages.wait_for_connection(self.session.settings.limits.fault)?;
            self.destination.fill_from(Arc::clone(pages)).map_err(machine("fill memory on demand"))?;
        }
        self.destination.state(&state).map_err(machine("build the machine from its state"))?;
        self.state = State::Holding;
        // A source that does not hear it comes back to ask.
        let _ = self.main.respond(Response::ok(0));
        Ok(())
    }

    /// The machine is this side's. The source is told before the guest runs, so that a source which was not told, and finds nobody here,
    /// knows that the guest did not run.
    fn complete(&mut self, command: Command) -> Received {
        self.state = State::Completed;
        let limits = self.session.settings.limits;
        if self.main.respond(Response::ok(0)).is_err() && self.session.is_ours() {
            self.answer_again(Instant::now() + limits.grace);
        }
        self.session.complete(limits.orphan);
        let failed = self.destination.complete(command == Command::Complete).err();
        Received::Owned { failed }
    }

    /// The source has sent `Complete` and gone: it may be dead, or come back for its answer.
    fn answer_again(&mut self, until: Instant) {
        while let Some(mut connection) = self.session.next_settling(until) {
            let limit = Limit::Within(self.session.settings.limits.start);
            let answered = connection.next_request(limit).and_then(|request| match request.command {
                Command::Complete | Command::CompletePaused => connection.respond(Response::ok(0)),
                _ => connection.refuse("the machine is the destination's", true),
            });
            if answered.is_ok() {
                self.main = connection;
                return;
            }
        }
    }

    /// The connection broke while the machine is held: the source comes back and decides, or nobody does.
    fn settle(&mut self, error: LinkError) -> Result<Received, ReceiveError> {
        if !self.session.is_ours() {
            return Err(error.into());
        }
        tracing::warn!("migration: {error}; waiting for the source to come back");
        let limits = self.session.settings.limits;
        let until = Instant::now() + limits.orphan;
        while let Some(mut connection) = self.session.next_settling(until) {
            let Ok(request) = connection.next_request(Limit::Within(limits.start)) else { continue };
            self.main = connection;
            match request.command {
                Command::Complete | Command::CompletePaused => return Ok(self.complete(request.command)),
                Command::Abandon => {
                    self.abandon();
                    let _ = self.main.respond(Response::ok(0));
                    return Err(ReceiveError::Abandoned);
                }
                command => return Err(ReceiveError::NotDue { command }),
            }
        }
        // Without its memory a machine is of no use to anybody.
        if self.session.settings.postcopy || self.session.watch.is_cancelled() {
            return Err(error.into());
        }
        Ok(Received::Orphaned)
    }

    /// Whether the source has said that it knows. Until then somebody has to be there whom it can ask.
    fn hear_goodbye(&mut self) -> bool {
        let heard = self.main.next_request(Limit::Within(self.session.settings.limits.grace));
        !self.session.is_ours() || heard.is_ok_and(|request| request.command == Command::Settled)
    }

    /// Whether the request is due, and as long as it has to be.
    fn admit(&self, request: &Request, length: Option<u64>) -> Result<(), ReceiveError> {
        let Request { command, length: announced, .. } = *request;
        if !self.state.accepts(command) {
            return Err(ReceiveError::NotDue { command });
        }
        if length.is_some_and(|length| length != announced) {
            return Err(ReceiveError::Length { command, length: announced });
        }
        Ok(())
    }

    fn abandon(&mut self) {
        self.session.shut();
        self.destination.abandon();
        self.state = State::Established;
    }

    fn give_up(&mut self, error: &ReceiveError) {
        self.session.workers.cancel();
        if !matches!(error, ReceiveError::Abandoned) {
            self.abandon();
            // If the connection is what failed, nobody hears it.
            let _ = self.main.refuse(&chain(error), self.session.is_ours());
        }
    }
}

fn machine(step: &'static str) -> impl FnOnce(MachineError) -> ReceiveError {
    move |source| ReceiveError::Machine { step, source }
}

/// The error's text with those of its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

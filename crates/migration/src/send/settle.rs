//! After a break: whose machine it is (`docs/migration.md`, "Settling").

use std::io::ErrorKind;
use std::time::Instant;

use super::{Sending, Stage};
use crate::connection::{Limit, LinkError, TICK, Watch};
use crate::wire::{Abilities, Command, Request, Role};

/// Whose machine it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// This side's, which has never offered it.
    Kept,
    /// This side's, which has to take back what it let go of.
    Released,
    /// The destination's.
    Gone,
    /// Nobody could say.
    Unknown,
}

/// Why the destination did not answer.
enum Unanswered {
    /// It says no.
    Refused,
    /// Nobody listens there, or somebody who knows nothing of this migration.
    NobodyThere,
    /// It may answer another time.
    Broken,
}

impl Sending<'_> {
    /// Asks the destination for as long as the limit allows.
    ///
    /// A destination that has the whole state keeps listening until it was asked, or for longer than this side goes on asking. So nobody
    /// there means: it never held the machine, or its process has ended. Had that ended after it had answered `Complete`, the answer would
    /// be here, unless a relay lost it.
    pub(super) fn settle(&mut self) -> Settled {
        let offered = self.stage == Stage::Offered;
        let command = if offered { Command::Abandon } else { self.verdict() };
        // A destination never runs what was only offered to it.
        let without_answer = if offered { Settled::Released } else { Settled::Unknown };
        if !self.abilities.has(Abilities::SETTLE) {
            return without_answer;
        }
        let started = Instant::now();
        loop {
            match self.ask_again(command) {
                Ok(()) if offered => return Settled::Released,
                Ok(()) => return Settled::Gone,
                Err(Unanswered::Refused) if offered => return Settled::Gone,
                Err(Unanswered::Refused) => return Settled::Released,
                Err(Unanswered::NobodyThere) if self.direct => return Settled::Released,
                Err(Unanswered::NobodyThere) => return without_answer,
                Err(Unanswered::Broken) if started.elapsed() >= self.settings.limits.settle => {
                    return without_answer;
                }
                Err(Unanswered::Broken) => std::thread::park_timeout(TICK.min(self.settings.limits.settle)),
            }
        }
    }

    fn ask_again(&self, command: Command) -> Result<(), Unanswered> {
        let limits = self.settings.limits;
        let mut connection = self.dial.dial(&Watch::default()).map_err(|error| match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => Unanswered::NobodyThere,
            _ => Unanswered::Broken,
        })?;
        let hello = [&Role::Settle.encode()[..], &Request::start(self.tag).encode()].concat();
        let known = connection
            .write(&hello, Limit::Within(limits.start))
            .and_then(|()| connection.answer(Limit::Within(limits.start)));
        known.map_err(|error| match error {
            LinkError::Refused(_) => Unanswered::NobodyThere,
            _ => Unanswered::Broken,
        })?;
        // It may be building the machine, and answers when it is done.
        let limit = Limit::Within(limits.state);
        let answered = connection.ask(Request::new(command, 0)).and_then(|()| connection.answer(limit));
        answered.map_err(|error| match error {
            LinkError::Refused(_) => Unanswered::Refused,
            _ => Unanswered::Broken,
        })?;
        if command != Command::Abandon {
            let _ = connection.ask(Request::new(Command::Settled, 0));
        }
        Ok(())
    }
}

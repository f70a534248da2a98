//! The thread that takes further connections: for memory, for page faults, and those of a source that comes back after a break.
//!
//! It owns the listening socket, and with it the promise of `docs/migration.md`: while a source may still ask, somebody listens.

use std::sync::Arc;
use std::thread::JoinHandle;

use sandbox::{Profile, groups};

use super::memory;
use super::session::Session;
use crate::connection::{Connection, Limit, LinkError, TICK};
use crate::endpoint::Accept;
use crate::profile::CONNECT;
use crate::wire::{Abilities, Command, Response, Role};

/// The thread. It starts those that store memory.
pub(crate) static PROFILE: Profile =
    Profile::new("migration-accept", &[CONNECT, groups::SPAWN, groups::DISCARD, groups::READ_FILES]);

/// As many connections for memory as a source may ask for.
const MEMORY_LIMIT: usize = 128;

/// Takes connections until the session is over.
pub(super) fn spawn(session: Arc<Session>, mut listener: Box<dyn Accept>) -> std::io::Result<JoinHandle<()>> {
    sandbox::spawn(&PROFILE, "migrate-receive-accept-connections", move || {
        let mut acceptor = Acceptor { session, memory: 0, has_fault: false };
        while !acceptor.session.is_over() {
            match listener.accept(&acceptor.session.watch.beside()) {
                Ok(Some(connection)) => acceptor.place(connection),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!("migration: a further connection cannot be taken: {error}");
                    std::thread::park_timeout(TICK);
                }
            }
            if let Some(connection) = acceptor.session.settling_after_completion() {
                acceptor.confirm(connection);
            }
        }
    })
}

struct Acceptor {
    session: Arc<Session>,
    memory: usize,
    has_fault: bool,
}

impl Acceptor {
    /// Whoever says nothing useful in time is sent away.
    fn place(&mut self, mut connection: Connection) {
        let limit = Limit::Within(self.session.settings.limits.start);
        let mut role = [0; 2];
        let placed = connection.read(&mut role, limit).and_then(|()| match Role::decode(role) {
            Ok(role) => self.place_as(role, connection),
            Err(number) => Err(LinkError::Nonsense(format!("there is no role {number}"))),
        });
        if let Err(error) = placed {
            tracing::warn!("migration: a further connection is refused: {error}");
        }
    }

    fn place_as(&mut self, role: Role, mut connection: Connection) -> Result<(), LinkError> {
        let postcopy = self.session.settings.postcopy;
        match role {
            Role::Memory if !postcopy && self.memory < MEMORY_LIMIT => {
                self.memory += 1;
                Ok(memory::spawn(&self.session, self.memory, connection)?)
            }
            Role::Fault if postcopy && !self.has_fault => {
                self.has_fault = true;
                self.session.pages.put(connection);
                Ok(())
            }
            Role::Settle => {
                self.recognize(&mut connection)?;
                self.session.put_settling(connection);
                Ok(())
            }
            Role::FaultAgain if postcopy => {
                self.recognize(&mut connection)?;
                self.session.pages.put(connection);
                Ok(())
            }
            Role::Memory | Role::Fault | Role::FaultAgain => {
                Err(LinkError::Nonsense(format!("there is no room for a connection for {role:?}")))
            }
        }
    }

    /// The source says which session it means.
    fn recognize(&self, connection: &mut Connection) -> Result<(), LinkError> {
        let request = connection.next_request(Limit::Within(self.session.settings.limits.start))?;
        let (_, tag) = request.session();
        if request.command != Command::Start || tag == 0 || tag != self.session.tag() {
            connection.refuse("this is another migration", true)?;
            return Err(LinkError::Nonsense("it belongs to another migration".to_owned()));
        }
        connection.respond(Response::welcome(Abilities::ALL, connection.witness()))
    }

    /// The source asks about a machine that is this side's.
    fn confirm(&self, mut connection: Connection) {
        let limit = Limit::Within(self.session.settings.limits.start);
        let confirmed = connection.next_request(limit).and_then(|request| match request.command {
            Command::Complete | Command::CompletePaused => connection.respond(Response::ok(0)),
            _ => connection.refuse("the machine is the destination's", true),
        });
        let goodbye = confirmed.and_then(|()| connection.next_request(limit));
        if goodbye.is_ok_and(|request| request.command == Command::Settled) {
            self.session.end();
        }
    }
}

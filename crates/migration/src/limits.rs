//! How long each wait may take.

use std::time::Duration;

use config::MigrationUrl;

/// Limits in time, of both sides. They hang together: see `docs/migration.md`, "Time".
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a new connection to say what it is for.
    pub start: Duration,
    /// Without a byte on any connection.
    pub quiet: Duration,
    /// For the destination to make its RAM.
    pub config: Duration,
    /// For the destination to store memory.
    pub memory: Duration,
    /// For the destination to build its machine.
    pub state: Duration,
    /// For the destination to take the machine over.
    pub complete: Duration,
    /// For the source to reach the destination again after a break.
    pub settle: Duration,
    /// For the destination to wait for the source's decision after a break.
    pub orphan: Duration,
    /// For a destination that could not answer `Complete` to be asked again before it runs the guest.
    pub grace: Duration,
    /// For the fault connection to come.
    pub fault: Duration,
    /// For a fault connection that broke to be replaced.
    pub fault_again: Duration,
}

impl Limits {
    /// For migrations over `url`.
    pub fn of(url: &MigrationUrl) -> Self {
        match url {
            MigrationUrl::Tcp(..) => Self::TCP,
            MigrationUrl::Unix(_) => Self::UNIX,
        }
    }

    /// Across hosts: TCP gives up after 120 s.
    pub const TCP: Self = Self {
        start: Duration::from_secs(10),
        quiet: Duration::from_secs(180),
        config: Duration::from_secs(600),
        memory: Duration::from_secs(120),
        state: Duration::from_secs(120),
        complete: Duration::from_secs(60),
        settle: Duration::from_secs(30),
        orphan: Duration::from_secs(180),
        grace: Duration::from_secs(2),
        fault: Duration::from_secs(30),
        fault_again: Duration::from_secs(300),
    };
    /// On one host, where both sides hear of a break at once.
    pub const UNIX: Self =
        Self { settle: Duration::from_secs(5), orphan: Duration::from_secs(15), ..Self::TCP };
}

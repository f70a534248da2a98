//! Live migration: the wire and both of its ends, without a machine (`spec/lifecycle.md` §7, §8; `docs/migration.md`).
//!
//! [`send()`] drives a machine behind the trait [`Source`] to another process, [`receive()`] one behind [`Destination`] out of it. The framing is
//! the reference's; what is in configuration and state is the machine's own.
//!
//! ```text
//!  vm.send-migration                                            vm.receive-migration
//!   send ──── Start, Config, State, Complete ──────────────────▶ receive ──▶ Destination
//!    │  └─ migrate-send-memory-N ── Memory ──▶ migrate-receive-memory-N ────────┘ DestinationMemory
//!    ├─ Source   migrate-send-postcopy ◀── PageFault ── Pages ◀── who fills the guest's memory
//!    └────────── comes back after a break ────▶ migrate-receive-accept-connections
//! ```
//! Threads that wait look every [`connection::TICK`] whether they are to go on; no wait is without a limit ([`Limits`]).
//! At any moment one side at most runs the guest: the machine changes hands in `send` and `receive` alone, by the rules that stand there.

pub mod connection;
mod endpoint;
mod limits;
mod pages;
mod profile;
mod progress;
mod ranges;
mod receive;
mod send;
mod sides;
mod transport;
pub mod wire;

pub use connection::{Connection, Link, LinkError, Watch};
pub use endpoint::{Accept, Dial};
pub use limits::Limits;
pub use pages::Pages;
pub use profile::CONNECT;
pub use progress::{Phase, Progress};
pub use ranges::{PAGE_LEN, Range};
pub use receive::{ReceiveError, ReceiveSettings, Received, receive};
pub use send::{Left, SendError, SendFailure, SendSettings, Sent, send};
pub use sides::{Destination, DestinationMemory, MachineError, Ram, Source, SourceMemory};
pub use transport::{TransportError, dial, listen};

use sandbox::Profile;

/// Profiles of the threads that a migration starts, for the filter of those that call [`send()`] and [`receive()`].
pub static PROFILES: &[&Profile] =
    &[&send::POOL_PROFILE, &send::SERVE_PROFILE, &receive::ACCEPT_PROFILE, &receive::MEMORY_PROFILE];

#[cfg(test)]
mod tests;

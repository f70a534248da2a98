//! The one command table: every verb with its method, path, body, reply and the states in which it is legal (`spec/rest-api.md`).
//!
//! Doors (REST, D-Bus, the command line) turn what they receive into a [`Command`] through a [`Verb`] of [`VERBS`], and every command
//! carries a typed reply. The control loop is the only one that receives commands. [`Reads`] are answered without it.
//!
//! ```text
//!  door --bytes--> Verb::call --Command + ReplyTo--> control loop
//!                     |                                  |
//!                     +--reads--> Published              +--Result<T, ApiError>--> Answer --> door
//! ```

mod answer;
mod calls;
mod channel;
pub mod dbus;
mod error;
mod events;
mod info;
mod jobs;
#[cfg(feature = "schema")]
pub mod openapi;
mod request;
#[cfg(feature = "schema")]
mod schema;
mod table;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod verb;

pub use answer::{Answer, Outcome, Reply, Stopped, WARNED_FIELDS, log_text};
pub use calls::Calls;
pub use channel::{Client, Inbox, ReplyTo, channel};
pub use error::{ApiError, Code};
pub use events::{EVENTS_KEPT, EventLog, EventReader, EventRecord, News, StartAt, Timestamp};
pub use info::{
    Counters, DeviceNode, MemorySource, Meters, MmioAddressRange, PciBarResource, PciBarWidth, PciDeviceInfo,
    Removal, Resource, RestoredMemory, VmInfo, VmState, VmmPing,
};
pub use jobs::{Job, JobPhase, JobState, Jobs};
pub use request::{MAX_BODY, MAX_DESCRIPTORS, Request, WantsDescriptors, With};
pub use table::{Command, Reads, VERBS};
pub use verb::{
    Body, CREATED, FAILED, Json, MIGRATING, Method, NONE, NoBody, PAUSED, RUNNING, State, States, Verb,
    WORKING,
};

/// Where all paths start.
pub const ROOT: &str = "/api/v1/";

#[cfg(test)]
mod tests;

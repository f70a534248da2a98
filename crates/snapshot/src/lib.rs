//! A snapshot's directory: the files of a VM that was saved, full or incremental (`docs/snapshots.md` describes the format).
//!
//! ```text
//!  Writer::create ─▶ write, from any thread, in any number of passes ─▶ finish ─▶ config.json, state.json, memory-ranges, memory-pages
//!  Snapshot::open ◀─ the directory, and those of its parents ◀───────────────────┘
//! ```
//! Configuration and machine state are JSON that this crate does not look into. RAM is bytes at guest-physical addresses, in 4 KiB
//! pages. A parent holds the pages that an incremental snapshot leaves out, and may be incremental itself. Files that are read are
//! hostile: sizes are limited before anything is read, and nothing of them is believed that was not compared.

mod bitmap;
mod directory;
mod error;
mod flatten;
mod inspect;
mod manifest;
mod memory;
mod ranges;
mod snapshot;
mod sparse;
#[cfg(test)]
mod tests;
mod writer;

pub use directory::{CONFIG, FILES, MEMORY, PAGES, STATE};
pub use error::{Damage, Error};
pub use flatten::flatten;
pub use inspect::{InspectedDevice, InspectedLink, InspectedRange, Inspection, inspect};
pub use manifest::FORMAT;
pub use snapshot::{Link, Snapshot};
pub use writer::{Summary, Writer};

/// Bytes of a page, the unit in which memory is stored.
pub const PAGE: u64 = 4096;
/// Snapshots that may lie on each other, the full one at the bottom included.
pub const MAX_DEPTH: usize = 64;
/// Bytes of RAM that a snapshot may have.
pub const MAX_MEMORY: u64 = 16 << 40;
/// Ranges of RAM that a snapshot may have.
pub const MAX_RANGES: usize = 4096;
/// Bytes of `config.json`.
pub const MAX_CONFIG: u64 = 16 << 20;
/// Bytes of `state.json`.
pub const MAX_STATE: u64 = 64 << 20;

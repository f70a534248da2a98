//! Why a snapshot cannot be written or read. Each error names the file, and the next step where that is not obvious.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::{FORMAT, MAX_DEPTH, MAX_MEMORY, MAX_RANGES};

/// The error of everything in this crate.
#[derive(Debug, Error)]
pub enum Error {
    /// The destination of a snapshot is something else.
    #[error("Destination is not a directory: {}", .0.display())]
    NotADirectory(PathBuf),
    /// There is a snapshot, or what an interrupted one left.
    #[error("{} exists already: name an empty directory, or remove the file", .0.display())]
    Exists(PathBuf),
    /// Two snapshots at once.
    #[error("Another snapshot is being written to {} at this moment", .0.display())]
    Busy(PathBuf),
    /// The kernel refused.
    #[error("Cannot {action} {}", path.display())]
    Io {
        /// `open`, for example.
        action: &'static str,
        /// What it was to be done with.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// No snapshot, or one that was never finished.
    #[error("There is no finished snapshot in {}: it has no {name}", dir.display())]
    Missing {
        /// Where it was looked for.
        dir: PathBuf,
        /// The file.
        name: &'static str,
    },
    /// A file of a snapshot is not what it should be.
    #[error("Cannot use {}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Damage,
    },
    /// What a caller wants to store cannot be stored.
    #[error("Cannot make a snapshot in {}", dir.display())]
    Unstorable {
        /// The destination.
        dir: PathBuf,
        /// What is wrong.
        source: Damage,
    },
    /// The parent cannot be used.
    #[error("Cannot use the parent of the snapshot in {}, by parent.path in {}", child.display(), path.display())]
    Parent {
        /// The directory of the incremental snapshot.
        child: PathBuf,
        /// The directory where its parent should be.
        path: PathBuf,
        /// Why it cannot be used.
        source: Box<Error>,
    },
    /// There is another snapshot where the parent was.
    #[error("The parent's id was {expected}, and this is {found}: put the parent back where it was")]
    WrongParent {
        /// The id that the child wants.
        expected: String,
        /// The id that there is.
        found: String,
    },
    /// A snapshot is its own ancestor.
    #[error("A snapshot is its own ancestor: its parent.path was changed")]
    Cycle,
    /// Too many snapshots lie on each other.
    #[error(
        "More than {MAX_DEPTH} snapshots lie on each other: run 'ch-remote snapshot flatten' on the parent"
    )]
    TooDeep,
    /// Memory that is not in the snapshot.
    #[error("{len:#x} bytes at {gpa:#x} are not memory of the snapshot, or not whole pages")]
    Outside {
        /// The guest-physical address.
        gpa: u64,
        /// How much.
        len: u64,
    },
    /// Whoever was asked for progress said no.
    #[error("The copy was given up")]
    Stopped,
}

/// What is wrong with a file.
#[derive(Debug, Error)]
pub enum Damage {
    /// It is a pipe, for example.
    #[error("It is not a regular file")]
    NotAFile,
    /// More than is ever written.
    #[error("It has {len} bytes, and {limit} are the most that are allowed")]
    TooLarge {
        /// Its length.
        len: u64,
        /// The longest allowed.
        limit: u64,
    },
    /// It does not fit the list of ranges.
    #[error("It has {len} bytes where memory.ranges asks for {expected}: copy it again, completely")]
    Length {
        /// Its length.
        len: u64,
        /// What it should be.
        expected: u64,
    },
    /// The content is not what was written.
    #[error("It was changed since it was written, its checksum differs: copy it again")]
    Checksum,
    /// Somebody changed it while it was in use.
    #[error("It was changed while it was in use")]
    Changed,
    /// `state.json` does not end as it was written.
    #[error("It does not end with the field checksum: it was edited, or not copied completely")]
    NoChecksum,
    /// `state.json` cannot be understood.
    #[error("It is not the state of a snapshot")]
    Malformed(#[source] serde_json::Error),
    /// `state.json` was made by something else.
    #[error("Its format is {0}, and this program reads format {FORMAT}: use the version that made it")]
    Format(u64),
    /// Too many ranges.
    #[error("memory.ranges has more than {MAX_RANGES} entries")]
    RangeCount,
    /// A range is not made of pages.
    #[error("memory.ranges[{0}] is empty or not made of whole pages")]
    RangeAlignment(usize),
    /// Ranges that do not ascend, or overlap.
    #[error("memory.ranges[{0}] begins before the end of the one in front of it")]
    RangeOrder(usize),
    /// Ranges of too much.
    #[error("With memory.ranges[{0}], they are more than {MAX_MEMORY} bytes or end beyond all addresses")]
    RangeTotal(usize),
    /// A page map has bits beyond its last page.
    #[error("It marks pages beyond the end of memory")]
    StrayPages,
    /// A path that JSON cannot hold.
    #[error("The path of the parent is not UTF-8: rename its directory")]
    ParentPath,
}

impl Error {
    /// Makes the error of something that was to be done to `path`.
    pub(crate) fn io<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source: source.into() }
    }

    /// Makes the error of a file that is not what it should be.
    pub(crate) fn damaged(path: &Path) -> impl FnOnce(Damage) -> Self {
        move |source| Self::Damaged { path: path.to_owned(), source }
    }
}

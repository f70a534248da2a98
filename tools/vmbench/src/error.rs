//! What can go wrong while measuring.

use std::io;
use std::path::PathBuf;

/// A measurement that could not be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A variable that `cargo xtask bench` sets is missing.
    #[error("{0} is not set: run `cargo xtask bench`")]
    Variable(&'static str),
    /// The command line is wrong.
    #[error("usage: vmbench host|guest|hotplug|state ROUNDS")]
    Usage,
    /// A file operation failed.
    #[error("{}", path.display())]
    File {
        /// The file it was about.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program could not be started or waited for.
    #[error("running {program}")]
    Run {
        /// The program's name.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("{program}: {what}")]
    Failed {
        /// The program's name.
        program: String,
        /// Its status or what it said.
        what: String,
    },
    /// The API's connection broke.
    #[error("calling the API of {who}")]
    Call {
        /// The contestant.
        who: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Something did not happen in time.
    #[error("{who}: waited {seconds} s for {what}; seen so far: {seen:?}")]
    Late {
        /// The contestant.
        who: &'static str,
        /// What was awaited.
        what: &'static str,
        /// How long.
        seconds: u64,
        /// The guest's output.
        seen: String,
    },
    /// The guest said something else than expected.
    #[error("{who}: the guest said {line:?}")]
    Guest {
        /// The contestant.
        who: &'static str,
        /// Its line.
        line: String,
    },
}

/// The result of a measurement.
pub(crate) type Result<T> = std::result::Result<T, Error>;

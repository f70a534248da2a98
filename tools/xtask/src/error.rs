//! What can go wrong in a task. Tasks are run by people: every variant says what was being done.

use std::io;
use std::path::{Path, PathBuf};

/// A failed task.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file or directory operation failed.
    #[error("{}", path.display())]
    File {
        /// The file it was about.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program could not be started or talked to.
    #[error("running {program}")]
    Run {
        /// The program's name.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program ran and failed.
    #[error("{command} failed ({status})\n{output}")]
    Failed {
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// What it said, if that was caught.
        output: String,
    },
    /// The command line of the task is wrong.
    #[error("{0}\n\n{usage}", usage = crate::USAGE)]
    Usage(String),
    /// A file has not the expected content.
    #[error("{}: {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The lab stopped before the command did.
    #[error("the lab ended without an exit code; the end of its console ({}):\n{tail}", log.display())]
    LabDied {
        /// The whole console log.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// The task did its work and the verdict is a failure that was already shown.
    #[error("{0}")]
    Verdict(String),
}

/// The result of a step of a task.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Names the file in an I/O error.
pub(crate) trait AtPath<T> {
    /// # Errors
    /// The I/O error, with `path` beside it.
    fn at(self, path: &Path) -> Result<T>;
}

impl<T> AtPath<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T> {
        self.map_err(|source| Error::File { path: path.to_owned(), source })
    }
}

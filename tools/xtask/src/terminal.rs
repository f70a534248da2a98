//! The person's terminal, when the lab takes it over.

use crate::error::{AtPath, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io;
use std::path::Path;

/// Keys go through untouched while this lives.
pub(crate) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Takes the terminal on standard input.
    ///
    /// # Errors
    /// Standard input is no terminal.
    pub(crate) fn enter() -> Result<Self> {
        let before = tcgetattr(io::stdin()).map_err(io::Error::from).at(Path::new("standard input"))?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)
            .map_err(io::Error::from)
            .at(Path::new("standard input"))?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Columns and rows of the terminal on standard output, or a common size.
pub(crate) fn size() -> (u16, u16) {
    tcgetwinsize(io::stdout()).map_or((80, 24), |size| (size.ws_col, size.ws_row))
}

//! The terminal that the VMM was started from: raw mode while a console uses it, and its size.

use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::process::getpgrp;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr};

/// Puts a terminal into raw mode and returns its former settings.
///
/// # Errors
/// `ENOTTY` if it is no terminal.
pub fn set_raw(fd: impl AsFd) -> io::Result<Termios> {
    let former = tcgetattr(&fd)?;
    let mut raw = former.clone();
    raw.make_raw();
    tcsetattr(&fd, OptionalActions::Now, &raw)?;
    Ok(former)
}

/// Whether this process may read `fd` and change its settings. The kernel stops one that a shell has started in the background, all of its
/// threads, when it tries.
pub fn is_in_foreground(fd: impl AsFd) -> bool {
    match tcgetpgrp(fd) {
        Ok(group) => group == getpgrp(),
        // A terminal that does not control this process, or none at all, knows no background.
        Err(error) => error == Errno::NOTTY,
    }
}

/// Columns and rows, or `None` where there is no terminal or it does not know.
pub fn size(fd: impl AsFd) -> Option<(u16, u16)> {
    let size = tcgetwinsize(fd).ok()?;
    (size.ws_col != 0 && size.ws_row != 0).then_some((size.ws_col, size.ws_row))
}

/// Standard output in raw mode; dropping it restores the former settings.
#[derive(Debug)]
pub struct RawStdout(Termios);

impl RawStdout {
    /// Switches standard output to raw mode, or `None` if it is no terminal, or that of another job.
    pub fn enter() -> Option<Self> {
        let stdout = rustix::stdio::stdout();
        if !isatty(stdout) || !is_in_foreground(stdout) {
            return None;
        }
        set_raw(stdout).ok().map(Self)
    }
}

impl Drop for RawStdout {
    fn drop(&mut self) {
        let stdout = rustix::stdio::stdout();
        // Whose turn it is now has settings of its own.
        if is_in_foreground(stdout) {
            // Nothing can be done about a terminal that went away.
            let _ = tcsetattr(stdout, OptionalActions::Now, &self.0);
        }
    }
}

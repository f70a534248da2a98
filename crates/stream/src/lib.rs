//! What stands at the host's end of a serial port or console: nothing, the terminal, a pseudo-terminal, a file or a socket
//! (`spec/devices.md` §13).
//!
//! A [`Stream`] is a leaf object. Whoever has output calls [`Stream::write`], which keeps what the peer does not take in a ring and
//! never waits for long. One thread waits for the stream's descriptor and calls [`Stream::service`], which takes in new peers, sends
//! what was kept, and reads input as far as the device has room: the rest waits in the kernel.

mod open;
mod peer;
mod ring;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use config::plan;
use host::Epoll;
use host::terminal::RawStdout;
use thiserror::Error;

use peer::Link;

/// Why a stream cannot be opened.
#[derive(Debug, Error)]
pub enum Error {
    /// The output file.
    #[error("Cannot open the console file '{}': check the directory and its permissions", .path.display())]
    File {
        /// Where it should be.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The output file is of a type that takes no characters.
    #[error("The console file '{}' is a socket or a block device: name a file, a FIFO or a terminal", .path.display())]
    NotForOutput {
        /// Where it is.
        path: PathBuf,
    },
    /// The listening socket.
    #[error("Cannot bind the console socket '{}': {}", .path.display(), socket_hint(.source))]
    Socket {
        /// Where it should be.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The pseudo-terminal.
    #[error("Cannot open a pseudo-terminal for the console")]
    Pty(#[source] io::Error),
    /// Standard output.
    #[error("Cannot use the standard output for the console")]
    Stdout(#[source] io::Error),
    /// Descriptors to wait with.
    #[error("Cannot wait for the console's input")]
    Watch(#[source] io::Error),
}

fn socket_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "something is there already: remove it if an earlier run has left it, or choose another path"
        }
        _ => "check the directory and its permissions",
    }
}

/// An open stream. Cloning shares it; the last clone closes it, restores the terminal and unlinks the socket.
#[derive(Clone)]
pub struct Stream(Arc<Shared>);

struct Shared {
    link: Mutex<Link>,
    epoll: Arc<Epoll>,
    slave: Option<PathBuf>,
    serviced: bool,
    _raw: Option<Arc<RawStdout>>,
}

impl Stream {
    /// Opens what the plan says; `None` if it says that there is nothing.
    ///
    /// # Errors
    /// [`enum@Error`] names what could not be opened.
    pub fn open(plan: &plan::Stream) -> Result<Option<Self>, Error> {
        open::open(plan)
    }

    /// Standard output as it is, without input and without a thread: a reader that keeps up gets everything, and of what one that
    /// stalls does not take the last MiB is kept until the next output.
    ///
    /// # Errors
    /// [`Error::Stdout`] or [`Error::Watch`] if no descriptor is left.
    pub fn stdout() -> Result<Self, Error> {
        open::stdout()
    }

    /// The path of the pseudo-terminal's slave, if this is one.
    pub fn slave(&self) -> Option<&Path> {
        self.0.slave.as_deref()
    }

    /// Whether a thread must wait for the descriptor and call [`Stream::service`]. Without, there is never input, and no output is
    /// left behind for long.
    pub fn needs_service(&self) -> bool {
        self.0.serviced
    }

    /// Sends output. What the peer does not take at once, or what comes while there is no peer, is kept: the last MiB of it.
    pub fn write(&self, bytes: &[u8]) {
        self.lock().write(bytes);
    }

    /// Does all that is due now and reads at most `input.len()` bytes; with an empty `input` the stream does not wake its thread
    /// for input until it is called with room again. Never waits.
    pub fn service(&self, input: &mut [u8]) -> usize {
        self.lock().service(input)
    }

    /// Columns and rows of the terminal at the other end, if there is one that knows.
    pub fn size(&self) -> Option<(u16, u16)> {
        self.lock().size()
    }

    fn lock(&self) -> MutexGuard<'_, Link> {
        self.0.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRawFd for Stream {
    /// Readable while [`Stream::service`] has something to do.
    fn as_raw_fd(&self) -> RawFd {
        self.0.epoll.as_raw_fd()
    }
}

impl io::Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Stream::write(self, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;

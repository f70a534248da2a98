//! `console`: joins this terminal and the pseudo terminal or socket of the VM's serial port or console, as `vm.info` names it.
//!
//! ```text
//!  stdin --raw bytes, Ctrl-] leaves--> to_peer --when it has room--> pty or socket
//!  stdout <------------------------------------------------------------+
//! ```

use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use clap::ValueEnum;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{self, OptionalActions, Termios};
use serde::Deserialize;

/// Ctrl-], as in telnet.
const LEAVE: u8 = 0x1d;
/// Bytes that may wait for a guest that does not read.
const BACKLOG: usize = 64 << 10;

/// The consoles a VM may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConsoleDevice {
    /// The first serial port
    Serial,
    /// The virtio console
    Console,
    /// The debug port
    DebugConsole,
}

/// Why there is no console.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsoleError {
    /// None has a mode one can attach to.
    #[error("The VM has no such console with mode pty or socket; start it with --serial pty, for example")]
    None,
    /// The reply of `vm.info` makes no sense.
    #[error("Error reading the VM's info")]
    Info(#[from] serde_json::Error),
    /// It cannot be opened.
    #[error("Error opening {}", path.display())]
    Open {
        /// The pseudo terminal or socket.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// `vm.info` named something else as pseudo terminal.
    #[error("{} is no terminal", .0.display())]
    NoTerminal(PathBuf),
    /// The kernel failed.
    #[error("Error moving characters")]
    Move(#[from] io::Error),
}

impl From<Errno> for ConsoleError {
    fn from(errno: Errno) -> Self {
        Self::Move(errno.into())
    }
}

#[derive(Deserialize)]
struct Info {
    config: Config,
}

#[derive(Deserialize)]
struct Config {
    serial: Option<Stream>,
    console: Option<Stream>,
    debug_console: Option<Stream>,
}

#[derive(Deserialize)]
struct Stream {
    mode: String,
    file: Option<PathBuf>,
    socket: Option<PathBuf>,
}

/// Where characters are to be had.
#[derive(Debug, PartialEq, Eq)]
enum ConsoleEnd {
    Pty(PathBuf),
    Socket(PathBuf),
}

/// Attaches to the console that `info` names until Ctrl-] or the VM's end.
///
/// # Errors
/// [`ConsoleError`].
pub(crate) fn attach(info: &[u8], device: Option<ConsoleDevice>) -> Result<(), ConsoleError> {
    let end = find(info, device)?;
    let stdin = io::stdin();
    let people = stdin.is_terminal();
    let peer = open(&end, people)?;
    if people {
        let (ConsoleEnd::Pty(path) | ConsoleEnd::Socket(path)) = &end;
        // Only people read it, and they see that it is missing.
        let _ = writeln!(io::stderr(), "Attached to {}; Ctrl-] leaves.", path.display());
    }
    let raw = if people { Some(RawMode::enter(stdin.as_fd())?) } else { None };
    let result = pump(stdin.as_fd(), people.then_some(LEAVE), &peer, &mut io::stdout().lock());
    drop(raw);
    if people {
        let _ = writeln!(io::stderr());
    }
    result
}

fn find(info: &[u8], device: Option<ConsoleDevice>) -> Result<ConsoleEnd, ConsoleError> {
    let Config { serial, console, debug_console } = serde_json::from_slice::<Info>(info)?.config;
    let all = [
        (ConsoleDevice::Serial, serial),
        (ConsoleDevice::Console, console),
        (ConsoleDevice::DebugConsole, debug_console),
    ];
    let wanted = all.into_iter().filter(|(own, _)| device.is_none_or(|device| device == *own));
    let end = |stream: Stream| match (stream.mode.as_str(), stream.file, stream.socket) {
        ("Pty", Some(path), _) => Some(ConsoleEnd::Pty(path)),
        ("Socket", _, Some(path)) => Some(ConsoleEnd::Socket(path)),
        _ => None,
    };
    wanted.filter_map(|(_, stream)| stream).find_map(end).ok_or(ConsoleError::None)
}

/// Opens it without ever blocking: its other side is a guest.
fn open(end: &ConsoleEnd, people: bool) -> Result<OwnedFd, ConsoleError> {
    match end {
        ConsoleEnd::Socket(path) => {
            let failed = |source| ConsoleError::Open { path: path.clone(), source };
            let stream = UnixStream::connect(path).map_err(failed)?;
            stream.set_nonblocking(true).map_err(failed)?;
            Ok(stream.into())
        }
        ConsoleEnd::Pty(path) => {
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let pty = rustix::fs::open(path, flags, Mode::empty())
                .map_err(|e| ConsoleError::Open { path: path.clone(), source: e.into() })?;
            if !termios::isatty(&pty) {
                return Err(ConsoleError::NoTerminal(path.clone()));
            }
            // The guest's own terminal echoes and edits lines; twice would be once too often.
            let mut mode = termios::tcgetattr(&pty)?;
            mode.make_raw();
            termios::tcsetattr(&pty, OptionalActions::Now, &mode)?;
            if people {
                termios::tcsetwinsize(&pty, termios::tcgetwinsize(io::stdin())?)?;
            }
            Ok(pty)
        }
    }
}

/// A terminal that passes every key on; it is as before when this is dropped.
struct RawMode<Fd: AsFd> {
    terminal: Fd,
    before: Termios,
}

impl<Fd: AsFd> RawMode<Fd> {
    fn enter(terminal: Fd) -> Result<Self, ConsoleError> {
        let before = termios::tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&terminal, OptionalActions::Now, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl<Fd: AsFd> Drop for RawMode<Fd> {
    fn drop(&mut self) {
        // A terminal that is gone needs no mode.
        let _ = termios::tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// Moves characters both ways until the key `leave` is read or `peer` ends. The end of `input` ends nothing: there may be more to see.
fn pump(
    input: impl AsFd,
    leave: Option<u8>,
    peer: impl AsFd,
    output: &mut dyn Write,
) -> Result<(), ConsoleError> {
    let mut to_peer: Vec<u8> = Vec::new();
    let mut input_open = true;
    let mut space = [0; 4096];
    loop {
        let (from_input, from_peer) = ready(&input, input_open, &peer, !to_peer.is_empty())?;
        if from_input {
            let count = rustix::io::read(&input, &mut space)?;
            let keys = space.get(..count).unwrap_or_default();
            input_open = count > 0;
            let end = leave.and_then(|leave| keys.iter().position(|key| *key == leave));
            let room = BACKLOG.saturating_sub(to_peer.len());
            let keys = keys.get(..end.unwrap_or(count)).unwrap_or_default();
            // A guest that does not read loses keys rather than keep its user from leaving.
            to_peer.extend(keys.iter().take(room));
            if end.is_some() {
                return flush(&peer, &mut to_peer);
            }
        }
        flush(&peer, &mut to_peer)?;
        if from_peer {
            match rustix::io::read(&peer, &mut space) {
                // A pseudo terminal whose master is closed says EIO.
                Ok(0) | Err(Errno::IO | Errno::CONNRESET) => return Ok(()),
                Ok(count) => output.write_all(space.get(..count).unwrap_or_default())?,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            output.flush()?;
        }
    }
}

/// Waits, and says whether `input` and `peer` can be read.
fn ready(
    input: impl AsFd,
    input_open: bool,
    peer: impl AsFd,
    waiting: bool,
) -> Result<(bool, bool), ConsoleError> {
    let some = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
    let events = if waiting { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
    let mut fds = vec![PollFd::new(&peer, events)];
    if input_open {
        fds.push(PollFd::new(&input, PollFlags::IN));
    }
    match poll(&mut fds, None) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let readable = |i: usize| fds.get(i).is_some_and(|fd: &PollFd<'_>| fd.revents().intersects(some));
    Ok((readable(1), readable(0)))
}

/// Writes what `peer` takes.
fn flush(peer: impl AsFd, to_peer: &mut Vec<u8>) -> Result<(), ConsoleError> {
    while !to_peer.is_empty() {
        match rustix::io::write(&peer, to_peer) {
            Ok(count) => drop(to_peer.drain(..count.min(to_peer.len()))),
            Err(Errno::AGAIN) => break,
            Err(Errno::INTR) => {}
            // Its end is noticed where it is read.
            Err(Errno::PIPE | Errno::IO | Errno::CONNRESET) => to_peer.clear(),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! Opening streams. Runs on the control thread when the VM's configuration is taken over.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use config::plan;
use host::own_file::OwnFile;
use host::terminal::RawStdout;
use host::{Epoll, TimerFd};
use rustix::fs::{FileType, Mode, OFlags};

use crate::peer::{Link, Out, Peer, Unlink, Writing};
use crate::{Error, Shared, Stream};

/// A write of this size to a blocking pipe that polls writable does not block (PIPE_BUF).
const SAFE_WRITE: usize = 4096;
/// The same of a blocking terminal, which polls writable for any room at all.
const SAFE_TERMINAL_WRITE: usize = 1;

pub(crate) fn open(plan: &plan::Stream) -> Result<Option<Stream>, Error> {
    let opened = match plan {
        plan::Stream::Off => return Ok(None),
        plan::Stream::Null => finish(Peer::Fixed { out: None, input: None }, None, None),
        plan::Stream::Tty => tty(),
        plan::Stream::Pty => pty(),
        plan::Stream::File(path) => file(path),
        plan::Stream::Socket(path) => socket(path),
    };
    opened.map(Some)
}

fn finish(peer: Peer, slave: Option<PathBuf>, raw: Option<Arc<RawStdout>>) -> Result<Stream, Error> {
    assemble(peer, slave, raw, true)
}

fn assemble(
    peer: Peer,
    slave: Option<PathBuf>,
    raw: Option<Arc<RawStdout>>,
    attended: bool,
) -> Result<Stream, Error> {
    let serviced = match &peer {
        Peer::Fixed { out, input } => input.is_some() || out.as_ref().is_some_and(|out| can_fill(&out.fd)),
        Peer::Pty { .. } | Peer::Socket { .. } => true,
    };
    let epoll = Arc::new(Epoll::new().map_err(Error::Watch)?);
    let link = Link::new(peer, epoll.clone(), attended).map_err(Error::Watch)?;
    Ok(Stream(Arc::new(Shared { link: Mutex::new(link), epoll, slave, serviced, _raw: raw })))
}

/// Whether writes may find no room: so it is with pipes, sockets and terminals, and not with files and `/dev/null`.
fn can_fill(fd: &OwnedFd) -> bool {
    let kind = file_type(fd.as_fd());
    matches!(kind, Some(FileType::Fifo | FileType::Socket)) || rustix::termios::isatty(fd)
}

fn file_type(fd: BorrowedFd<'_>) -> Option<FileType> {
    rustix::fs::fstat(fd).ok().map(|stat| FileType::from_raw_mode(stat.st_mode))
}

fn tty() -> Result<Stream, Error> {
    let (stdin, stdout) = (rustix::stdio::stdin(), rustix::stdio::stdout());
    let out = fixed_out(stdout).map_err(|e| Error::Stdout(e.into()))?;
    let is_terminal = rustix::termios::isatty(stdin);
    let is_ours = host::terminal::is_in_foreground(stdin);
    if is_terminal && !is_ours {
        tracing::warn!(target: "guest", "The console takes no input: this program runs in the background of its terminal");
    }
    let input = (is_terminal && is_ours).then(|| reopen(stdin, OFlags::RDONLY).or_else(|_| dup(stdin)));
    let input = input.transpose().map_err(|e| Error::Stdout(e.into()))?;
    finish(Peer::Fixed { out: Some(out), input }, None, raw_stdout())
}

pub(crate) fn stdout() -> Result<Stream, Error> {
    let out = fixed_out(rustix::stdio::stdout()).map_err(|e| Error::Stdout(e.into()))?;
    assemble(Peer::Fixed { out: Some(out), input: None }, None, None, false)
}

fn fixed_out(stdout: BorrowedFd<'_>) -> rustix::io::Result<Out> {
    let kind = file_type(stdout);
    // A file opened again would have a write position of its own, and a socket cannot be.
    if !matches!(kind, Some(FileType::RegularFile | FileType::Socket))
        && let Ok(fd) = reopen(stdout, OFlags::WRONLY)
    {
        return Ok(Out { fd, writing: Writing::NonBlocking });
    }
    let writing = match kind {
        Some(FileType::Socket) => Writing::Socket,
        _ if rustix::termios::isatty(stdout) => Writing::Polled { at_most: SAFE_TERMINAL_WRITE },
        _ => Writing::Polled { at_most: SAFE_WRITE },
    };
    Ok(Out { fd: dup(stdout)?, writing })
}

/// Non-blocking mode belongs to the open file, which the shell that started us shares: only an open file of our own may have it.
fn reopen(fd: BorrowedFd<'_>, access: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

fn dup(fd: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3)
}

/// Raw mode for as long as any stream uses the terminal: two that each saved and restored the settings could leave it raw.
fn raw_stdout() -> Option<Arc<RawStdout>> {
    static RAW: Mutex<Weak<RawStdout>> = Mutex::new(Weak::new());
    let mut shared = RAW.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(raw) = shared.upgrade() {
        return Some(raw);
    }
    let raw = Arc::new(RawStdout::enter()?);
    *shared = Arc::downgrade(&raw);
    Some(raw)
}

fn pty() -> Result<Stream, Error> {
    let pty = host::pty::open().map_err(Error::Pty)?;
    let timer = TimerFd::new().map_err(|e| Error::Pty(io::Error::from_raw_os_error(e.errno())))?;
    let peer = Peer::Pty { master: pty.master.into(), timer, open: false };
    finish(peer, Some(pty.slave), None)
}

fn file(path: &Path) -> Result<Stream, Error> {
    let failed = |source: rustix::io::Errno| Error::File { path: path.into(), source: source.into() };
    let access = match rustix::fs::stat(path).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
        // With a reading end of our own a FIFO can be opened before its reader comes, and keeps what it holds when that one leaves.
        Ok(FileType::Fifo) => OFlags::RDWR,
        Ok(FileType::Socket | FileType::BlockDevice) => {
            return Err(Error::NotForOutput { path: path.into() });
        }
        // Appending leaves no hole when the file is emptied while it is in use, as log rotation does.
        _ => OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND,
    };
    // A terminal's open would wait for its line, a FIFO's for its other end.
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o666)).map_err(failed)?;
    if file_type(fd.as_fd()) == Some(FileType::RegularFile) {
        rustix::fs::ftruncate(&fd, 0).map_err(failed)?;
    }
    let out = Out { fd, writing: Writing::NonBlocking };
    finish(Peer::Fixed { out: Some(out), input: None }, None, None)
}

fn socket(path: &Path) -> Result<Stream, Error> {
    let failed = |source| Error::Socket { path: path.into(), source };
    let listener = UnixListener::bind(path).map_err(failed)?;
    let unlink = Unlink(OwnFile::made_at(path.into()));
    listener.set_nonblocking(true).map_err(failed)?;
    finish(Peer::Socket { listener, client: None, _unlink: unlink }, None, None)
}

/// For tests: fixed descriptors as if they were standard output and input.
#[cfg(test)]
pub(crate) fn fixed(out: BorrowedFd<'_>, input: Option<OwnedFd>) -> Stream {
    let out = fixed_out(out).unwrap();
    finish(Peer::Fixed { out: Some(out), input }, None, None).unwrap()
}

/// For tests: a descriptor as if it were the standard output of [`Stream::stdout`]; `writing` instead of what would be chosen.
#[cfg(test)]
pub(crate) fn unattended(out: BorrowedFd<'_>, writing: Option<Writing>) -> Stream {
    let out = match writing {
        Some(writing) => Out { fd: dup(out).unwrap(), writing },
        None => fixed_out(out).unwrap(),
    };
    assemble(Peer::Fixed { out: Some(out), input: None }, None, None, false).unwrap()
}

//! Opening streams. Runs on the control thread when the VM's configuration is taken over.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use host::terminal::RawStdout;
use host::{Epoll, TimerFd};
use rustix::fs::{FileType, Mode, OFlags};

use crate::peer::{Link, Out, Peer, Unlink};
use crate::{Error, Shared, Stream, StreamConfig};

pub(crate) fn open(config: &StreamConfig) -> Result<Stream, Error> {
    match config {
        StreamConfig::Null => finish(Peer::Fixed { out: None, input: None }, None, None),
        StreamConfig::Tty => tty(),
        StreamConfig::Pty => pty(),
        StreamConfig::File(path) => file(path),
        StreamConfig::Socket(path) => socket(path),
    }
}

fn finish(peer: Peer, slave: Option<PathBuf>, raw: Option<Arc<RawStdout>>) -> Result<Stream, Error> {
    let serviced = match &peer {
        Peer::Fixed { out, input } => input.is_some() || out.as_ref().is_some_and(|out| can_fill(&out.fd)),
        Peer::Pty { .. } | Peer::Socket { .. } => true,
    };
    let epoll = Arc::new(Epoll::new().map_err(Error::Watch)?);
    let link = Link::new(peer, epoll.clone()).map_err(Error::Watch)?;
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
    let input = rustix::termios::isatty(stdin).then(|| reopen(stdin, OFlags::RDONLY).or_else(|_| dup(stdin)));
    let input = input.transpose().map_err(|e| Error::Stdout(e.into()))?;
    finish(Peer::Fixed { out: Some(out), input }, None, raw_stdout())
}

fn fixed_out(stdout: BorrowedFd<'_>) -> rustix::io::Result<Out> {
    // A file opened again would have a write position of its own.
    if file_type(stdout) != Some(FileType::RegularFile)
        && let Ok(fd) = reopen(stdout, OFlags::WRONLY)
    {
        return Ok(Out { fd, blocking: false });
    }
    Ok(Out { fd: dup(stdout)?, blocking: true })
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
    let failed = |source| Error::File { path: path.into(), source };
    let file = File::options().write(true).create(true).truncate(true).open(path).map_err(failed)?;
    let out = Out { fd: file.into(), blocking: true };
    finish(Peer::Fixed { out: Some(out), input: None }, None, None)
}

fn socket(path: &Path) -> Result<Stream, Error> {
    let failed = |source| Error::Socket { path: path.into(), source };
    let listener = UnixListener::bind(path).map_err(failed)?;
    let unlink = Unlink(path.into());
    listener.set_nonblocking(true).map_err(failed)?;
    finish(Peer::Socket { listener, client: None, _unlink: unlink }, None, None)
}

/// For tests: fixed descriptors as if they were standard output and input.
#[cfg(test)]
pub(crate) fn fixed(out: BorrowedFd<'_>, input: Option<OwnedFd>) -> Stream {
    let out = fixed_out(out).unwrap();
    finish(Peer::Fixed { out: Some(out), input }, None, None).unwrap()
}

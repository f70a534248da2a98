//! The guest's serial port as seen by the stopwatch: a FIFO, into which every contestant writes as into a file. No polling, no
//! connection to set up, and the same two system calls a byte on either side.

use crate::contestant::Process;
use crate::error::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, mkfifoat};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The reading end.
pub(crate) struct Serial {
    file: File,
    path: PathBuf,
    /// What was read and not handed out as a line yet.
    pending: String,
}

impl Serial {
    /// Makes the FIFO and opens it. It is opened for writing as well, so that a contestant's end is not the end of it.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn make(path: &Path) -> Result<Self> {
        let failed = |e: rustix::io::Errno| Error::File { path: path.to_owned(), source: e.into() };
        mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        Ok(Self { file: file.into(), path: path.to_owned(), pending: String::new() })
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Throws away what an earlier guest wrote.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn clear(&mut self) -> Result<()> {
        while self.read()? {}
        self.pending.clear();
        Ok(())
    }

    /// Waits until the guest has written the character `@`; returns when that was seen.
    ///
    /// # Errors
    /// It does not in time, or the contestant ends first.
    pub(crate) fn wait_mark(
        &mut self,
        who: &'static str,
        process: &mut Process,
        what: &'static str,
        limit: Duration,
    ) -> Result<Instant> {
        let deadline = Instant::now() + limit;
        loop {
            if self.pending.contains('@') {
                return Ok(Instant::now());
            }
            self.more(who, process, what, limit, deadline)?;
        }
    }

    /// The next line that begins with `@`, without it.
    ///
    /// # Errors
    /// It does not come in time, or the contestant ends first.
    pub(crate) fn next_line(
        &mut self,
        who: &'static str,
        process: &mut Process,
        limit: Duration,
    ) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            while let Some(end) = self.pending.find('\n') {
                let line: String = self.pending.drain(..=end).collect();
                if let Some(rest) = line.trim().strip_prefix('@') {
                    return Ok(rest.to_owned());
                }
            }
            self.more(who, process, "the guest's next line", limit, deadline)?;
        }
    }

    fn more(
        &mut self,
        who: &'static str,
        process: &mut Process,
        what: &'static str,
        limit: Duration,
        deadline: Instant,
    ) -> Result<()> {
        let file = |source: io::Error| Error::File { path: self.path.clone(), source };
        // Once a second is often enough to see that nobody is left to write.
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&second)).map_err(|e| file(e.into()))?;
        if self.read()? {
            return Ok(());
        }
        if process.has_ended() || Instant::now() > deadline {
            return Err(Error::Late { who, what, seconds: limit.as_secs(), seen: self.pending.clone() });
        }
        Ok(())
    }

    /// True if there was something.
    fn read(&mut self) -> Result<bool> {
        let mut buffer = [0; 4096];
        match self.file.read(&mut buffer) {
            Ok(count) => {
                self.pending.push_str(&String::from_utf8_lossy(&buffer[..count]));
                Ok(count > 0)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(source) => Err(Error::File { path: self.path.clone(), source }),
        }
    }
}

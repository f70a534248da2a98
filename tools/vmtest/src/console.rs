//! One console of a guest, seen from the host: a socket, a pty or a file. A thread of its own collects what the guest
//! writes and opens the console anew when it closes, because a reboot makes new sockets and ptys.

use crate::wait::{self, Deadline, Limit, STEP};
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

/// A reading and a writing end.
type Ends = (Box<dyn Read + Send>, Option<File>);
/// Opens the console; asked again after each close.
type Open = Box<dyn FnMut() -> io::Result<Ends> + Send>;

/// A console; clones share what was received.
#[derive(Clone)]
pub struct Console(Arc<Shared>);

struct Shared {
    name: String,
    received: Mutex<Received>,
    changed: Condvar,
}

#[derive(Default)]
struct Received {
    bytes: Vec<u8>,
    writer: Option<File>,
    closed: bool,
}

impl Console {
    /// The serial socket at `path`, which may not exist yet.
    pub fn socket(path: PathBuf) -> Self {
        Self::start(
            "socket",
            Box::new(move || {
                let stream = UnixStream::connect(&path)?;
                let writer = File::from(OwnedFd::from(stream.try_clone()?));
                Ok((Box::new(stream), Some(writer)))
            }),
        )
    }

    /// The pty whose current path `path` tells.
    pub fn pty(path: impl Fn() -> Option<PathBuf> + Send + 'static) -> Self {
        Self::start(
            "pty",
            Box::new(move || {
                let path = path().ok_or(io::ErrorKind::NotFound)?;
                let mut options = OpenOptions::new();
                // It must not become this process's terminal.
                options.read(true).write(true).custom_flags(OFlags::NOCTTY.bits().cast_signed());
                let file = options.open(path)?;
                let writer = file.try_clone()?;
                Ok((Box::new(file), Some(writer)))
            }),
        )
    }

    /// What the guest writes into the file at `path`; nothing can be sent.
    pub fn file(path: PathBuf) -> Self {
        Self::start(
            "file",
            Box::new(move || {
                let file = File::open(&path)?;
                Ok((Box::new(Tail(file)), None))
            }),
        )
    }

    /// The controlling end of a terminal that the VMM has as its standard input and output.
    pub fn terminal(controller: OwnedFd) -> Self {
        let controller = File::from(controller);
        Self::start(
            "terminal",
            Box::new(move || Ok((Box::new(controller.try_clone()?), Some(controller.try_clone()?)))),
        )
    }

    fn start(name: &str, mut open: Open) -> Self {
        let shared =
            Arc::new(Shared { name: name.to_owned(), received: Mutex::default(), changed: Condvar::new() });
        let console = Self(Arc::clone(&shared));
        thread::spawn(move || {
            while !shared.lock().closed {
                if let Ok((reader, writer)) = open() {
                    shared.lock().writer = writer;
                    shared.collect(reader);
                    shared.lock().writer = None;
                }
                // Not there yet, or gone: look again soon, unless the test ends.
                let state = shared.lock();
                drop(shared.changed.wait_timeout_while(state, STEP, |state| !state.closed));
            }
        });
        console
    }

    /// Everything received so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().bytes).into_owned()
    }

    /// What was received between two marks.
    pub fn slice(&self, from: usize, to: usize) -> String {
        String::from_utf8_lossy(self.0.lock().bytes.get(from..to).unwrap_or_default()).into_owned()
    }

    /// How many bytes were received so far: a place to search from.
    pub fn mark(&self) -> usize {
        self.0.lock().bytes.len()
    }

    /// Waits until `pattern` appears in what is received after the mark `from`; returns the mark behind it.
    ///
    /// # Panics
    /// It does not, and nothing else does within `limit`.
    pub fn wait_for(&self, pattern: &str, from: usize, limit: Limit) -> usize {
        self.find(pattern, from, limit).unwrap_or_else(|| {
            panic!("no {pattern:?} on the {}, and then nothing for {limit:?}", self.0.name);
        })
    }

    /// As [`Console::wait_for`], but `None` when it does not come. The limit begins anew with each byte: a guest that is slow but
    /// alive is waited for.
    pub fn find(&self, pattern: &str, from: usize, limit: Limit) -> Option<usize> {
        let pattern = pattern.as_bytes();
        let mut searched = from;
        let mut deadline = Deadline::after(limit);
        let mut state = self.0.lock();
        loop {
            let rest = state.bytes.get(searched..).unwrap_or_default();
            if let Some(at) = rest.windows(pattern.len()).position(|window| window == pattern) {
                return Some(searched + at + pattern.len());
            }
            let received = state.bytes.len();
            searched = received.saturating_sub(pattern.len()).max(from);
            let waited = self.0.changed.wait_timeout_while(state, STEP, |now| now.bytes.len() == received);
            state = waited.unwrap_or_else(|e| e.into_inner()).0;
            if state.bytes.len() != received {
                deadline.restart();
            } else if deadline.has_passed() {
                return None;
            }
        }
    }

    /// Types `text`, waiting for the console to be open first.
    ///
    /// # Panics
    /// It does not open, or takes no input.
    pub fn send(&self, text: &str) {
        let mut writer = wait::until(wait::BOOT, &format!("the {} to open", self.0.name), || {
            self.0.lock().writer.as_ref().and_then(|writer| writer.try_clone().ok())
        });
        writer.write_all(text.as_bytes()).unwrap();
    }

    /// Stops looking for the console again. What was received stays.
    pub fn close(&self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Received> {
        // A test that panicked while it looked at the bytes has not damaged them.
        self.received.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn collect(&self, mut reader: Box<dyn Read + Send>) {
        let mut buffer = [0; 4096];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    self.lock().bytes.extend_from_slice(&buffer[..count]);
                    self.changed.notify_all();
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // A pty without its other end.
                Err(_) => return,
            }
            if self.lock().closed {
                return;
            }
        }
    }
}

/// A growing file: its end is not the end, but a truncated file begins anew.
struct Tail(File);

impl Read for Tail {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.0.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            if io::Seek::stream_position(&mut self.0)? > self.0.metadata()?.len() {
                io::Seek::rewind(&mut self.0)?;
            }
            thread::sleep(STEP);
        }
    }
}

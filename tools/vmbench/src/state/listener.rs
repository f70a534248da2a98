//! Who listens to the beats of `tools/vmguest/src/beats.rs`: a thread that notes when each came, whatever else is done meanwhile.

use crate::contestant::Process;
use crate::error::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, mkfifoat};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use vmguest::scale;

/// Longer than any guest is silent, on a machine that others use too.
const LIMIT: Duration = Duration::from_secs(600);
/// How often to look whether there is somebody left to speak, or to listen for.
const LOOK: Duration = Duration::from_millis(100);
const READY: &[u8] = b"@ready\n";

/// A FIFO that takes what guests write to their serial ports, and the thread at its other end; which ends with this value.
pub(crate) struct Listener {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    heard: Mutex<Vec<(Instant, u8)>>,
    more: Condvar,
    is_ending: AtomicBool,
}

/// How long a guest did not run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Silence {
    /// The longest time without a beat, in milliseconds.
    pub(crate) heard: f64,
    /// The longest time between two wake-ups by the guest's own clock, in milliseconds.
    pub(crate) by_guest: f64,
}

impl Listener {
    /// Makes the FIFO and begins to listen.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn make(path: &Path) -> Result<Self> {
        let failed = |e: rustix::io::Errno| Error::File { path: path.to_owned(), source: e.into() };
        mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        // Also for writing, so that a contestant's end is not the end of it.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?.into();
        let shared = Arc::<Shared>::default();
        let own = shared.clone();
        let thread = thread::spawn(move || own.listen(file));
        Ok(Self { path: path.to_owned(), shared, thread: Some(thread) })
    }

    /// The FIFO.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Forgets what guests have said that do not run any more.
    pub(crate) fn forget(&self) {
        // What they wrote last has come by then.
        thread::sleep(LOOK);
        self.shared.heard().clear();
    }

    /// Waits until the guest is ready to beat.
    ///
    /// # Errors
    /// It is not in time, or its VMM ends first.
    pub(crate) fn wait_ready(&self, who: &'static str, process: &mut Process) -> Result<()> {
        let is_ready = |heard: &[(Instant, u8)]| {
            let bytes: Vec<u8> = heard.iter().map(|(_, byte)| *byte).collect();
            bytes.windows(READY.len()).any(|window| window == READY).then_some(())
        };
        self.wait(who, process, "the guest's work to begin", is_ready)?;
        self.forget();
        Ok(())
    }

    /// Waits for the `count`th beat after `since`; returns when it came.
    ///
    /// # Errors
    /// It does not come in time, or the VMM ends first.
    pub(crate) fn wait_beat(
        &self,
        who: &'static str,
        process: &mut Process,
        since: Instant,
        count: usize,
    ) -> Result<Instant> {
        let later = |heard: &[(Instant, u8)]| {
            let mut later = heard.iter().filter(|(when, _)| *when > since);
            later.nth(count.saturating_sub(1)).map(|(when, _)| *when)
        };
        self.wait(who, process, "the guest's next word", later)
    }

    /// The longest silence that ended after `since`.
    pub(crate) fn silence(&self, since: Instant) -> Silence {
        longest(&self.shared.heard(), since)
    }

    fn wait<T>(
        &self,
        who: &'static str,
        process: &mut Process,
        what: &'static str,
        look: impl Fn(&[(Instant, u8)]) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + LIMIT;
        let mut heard = self.shared.heard();
        loop {
            if let Some(found) = look(&heard) {
                return Ok(found);
            }
            if process.has_ended() || Instant::now() > deadline {
                let seen = heard.iter().map(|(_, byte)| char::from(*byte)).collect();
                return Err(Error::Late { who, what, seconds: LIMIT.as_secs(), seen });
            }
            heard = self.shared.more.wait_timeout(heard, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.is_ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Shared {
    fn heard(&self) -> MutexGuard<'_, Vec<(Instant, u8)>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, mut file: File) {
        let look = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
        let mut buffer = [0; 4096];
        while !self.is_ending.load(Ordering::Relaxed) {
            let _ = poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&look));
            let Ok(count) = file.read(&mut buffer) else { continue };
            let now = Instant::now();
            self.heard().extend(buffer[..count].iter().map(|byte| (now, *byte)));
            self.more.notify_all();
        }
    }
}

fn longest(heard: &[(Instant, u8)], since: Instant) -> Silence {
    let mut silence = Silence { heard: 0.0, by_guest: 0.0 };
    let mut before: Option<Instant> = None;
    for (when, byte) in heard {
        if *when > since {
            let waited = before.map_or(0.0, |before| (*when - before).as_secs_f64() * 1e3);
            silence.heard = silence.heard.max(waited);
            silence.by_guest = silence.by_guest.max(scale::milliseconds(*byte).unwrap_or(0.0));
        }
        before = Some(*when);
    }
    silence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_belongs_to_what_began_in_it() {
        let start = Instant::now();
        let beat = |ms, of| (start + Duration::from_millis(ms), scale::letter(Duration::from_millis(of)));
        let heard = [beat(0, 1), beat(500, 490), beat(510, 1), beat(600, 80), beat(610, 1)];
        let silence = longest(&heard, start + Duration::from_millis(520));
        assert_eq!(silence.heard, 90.0);
        assert!(silence.by_guest > 60.0 && silence.by_guest <= 80.0, "{silence:?}");
        assert_eq!(longest(&heard, start + Duration::from_secs(1)), Silence { heard: 0.0, by_guest: 0.0 });
        assert_eq!(longest(&[], start), Silence { heard: 0.0, by_guest: 0.0 });
    }
}

//! What comes from the other end of a migration, of any bytes. The first byte chooses the mode, the second how many of the others, in
//! units of 16, come on the first connection; the rest comes on each of two further ones. Then the other end is gone.
//!
//! Nothing panics, nothing is written outside of RAM, and the machine is where the result says.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use config::TimeoutStrategy;
use migration::{
    Accept, Connection, Destination, DestinationMemory, Dial, Left, Limits, Link, MachineError, Pages,
    Progress, Ram, Range, ReceiveSettings, Received, SendSettings, Source, SourceMemory, Watch, receive,
    send,
};

use crate::bytes::Bytes;

const RANGES: [Range; 2] = [(0, 0x4000), (0x8000, 0x2000)];
/// Whoever comes back is there already.
const LIMITS: Limits = Limits {
    settle: Duration::ZERO,
    orphan: Duration::from_millis(5),
    grace: Duration::ZERO,
    fault: Duration::from_millis(20),
    fault_again: Duration::ZERO,
    ..Limits::UNIX
};

/// Reads what the other end has sent before it went.
struct Script(VecDeque<u8>);

impl Read for Script {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Link for Script {
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn witness(&self) -> u32 {
        1
    }
}

/// The connections that the other end makes, or takes.
struct Scripts(Mutex<VecDeque<Script>>);

impl Scripts {
    fn new(mut bytes: Bytes<'_>) -> Self {
        let first = 16 * usize::from(bytes.byte());
        let (first, second) = bytes.0.split_at(first.min(bytes.0.len()));
        let script = |bytes: &[u8]| Script(bytes.iter().copied().collect());
        Self(Mutex::new([script(first), script(second), script(second)].into()))
    }

    fn next(&self, watch: &Watch) -> Option<Connection> {
        let script = self.0.lock().unwrap().pop_front()?;
        Some(Connection::new(Box::new(script), watch.clone()))
    }
}

impl Dial for Scripts {
    fn dial(&self, watch: &Watch) -> io::Result<Connection> {
        self.next(watch).ok_or(ErrorKind::ConnectionRefused.into())
    }
}

impl Accept for Scripts {
    fn accept(&mut self, watch: &Watch) -> io::Result<Option<Connection>> {
        let next = self.next(watch);
        if next.is_none() {
            thread::park_timeout(Duration::from_millis(1));
        }
        Ok(next)
    }
}

/// RAM that knows its bounds and nothing else.
struct Bounds;

fn check(gpa: u64, len: u64) {
    let end = gpa.checked_add(len).unwrap();
    assert!(
        RANGES.iter().any(|(base, held)| gpa >= *base && end <= base + held),
        "{len} bytes at {gpa:#x} are not in RAM"
    );
}

impl SourceMemory for Bounds {
    fn read(&self, gpa: u64, bytes: &mut [u8]) -> Result<(), MachineError> {
        check(gpa, bytes.len() as u64);
        bytes.fill(1);
        Ok(())
    }
}

impl DestinationMemory for Bounds {
    fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), MachineError> {
        check(gpa, bytes.len() as u64);
        Ok(())
    }

    fn clear(&self, gpa: u64, len: u64) -> Result<(), MachineError> {
        check(gpa, len);
        Ok(())
    }
}

#[derive(Default)]
struct Comer {
    whole: bool,
    completed: bool,
    pages: Option<Arc<Pages>>,
}

impl Destination for Comer {
    fn memory_fd(&mut self, _slot: u32, _fd: OwnedFd) -> Result<(), MachineError> {
        Ok(())
    }

    fn config(&mut self, _bytes: &[u8]) -> Result<Ram, MachineError> {
        Ok(Ram { ranges: RANGES.to_vec(), memory: Arc::new(Bounds) })
    }

    fn fill_from(&mut self, pages: Arc<Pages>) -> Result<(), MachineError> {
        self.pages = Some(pages);
        Ok(())
    }

    fn state(&mut self, _bytes: &[u8]) -> Result<(), MachineError> {
        assert!(!self.whole);
        self.whole = true;
        Ok(())
    }

    fn complete(&mut self, _run: bool) -> Result<(), MachineError> {
        assert!(self.whole && !self.completed);
        self.completed = true;
        Ok(())
    }

    fn abandon(&mut self) {
        assert!(!self.completed);
        *self = Self::default();
    }
}

/// From the source, at the destination.
pub(crate) fn from_source(data: &[u8]) {
    receives(data);
}

fn receives(data: &[u8]) -> bool {
    let mut bytes = Bytes(data);
    let postcopy = bytes.byte() & 1 != 0;
    let mut comer = Comer::default();
    let scripts = Box::new(Scripts::new(bytes));
    let received =
        receive(scripts, &mut comer, ReceiveSettings { postcopy, limits: LIMITS }, &Watch::default());
    if let Some(pages) = comer.pages.take() {
        let mut page = [0; 16];
        // The source is gone, sooner or later.
        let _ = pages.read(0x1000, &mut page);
        pages.finish();
    }
    match &received {
        Ok(Received::Owned { failed }) => assert!(comer.completed && failed.is_none()),
        Ok(Received::Orphaned) => assert!(comer.whole && !comer.completed && !postcopy),
        Err(error) => assert!(!comer.whole && !error.to_string().is_empty()),
    }
    received.is_ok()
}

struct Goer {
    local: bool,
    running: bool,
    holds: bool,
    dirty: u8,
}

impl Source for Goer {
    fn is_running(&self) -> bool {
        self.running
    }

    fn ranges(&self) -> Vec<Range> {
        RANGES.to_vec()
    }

    fn occupied(&mut self) -> Result<Vec<Range>, MachineError> {
        Ok(self.ranges())
    }

    fn memory(&self) -> Arc<dyn SourceMemory> {
        Arc::new(Bounds)
    }

    fn memory_fds(&mut self) -> Result<Vec<(u32, OwnedFd)>, MachineError> {
        assert!(self.local);
        Ok(Vec::new())
    }

    fn config(&mut self) -> Result<Vec<u8>, MachineError> {
        Ok(b"{}".to_vec())
    }

    fn track(&mut self, _on: bool) -> Result<(), MachineError> {
        Ok(())
    }

    fn take_dirty(&mut self) -> Result<Vec<Range>, MachineError> {
        self.dirty = self.dirty.saturating_sub(1);
        Ok(if self.dirty == 0 { Vec::new() } else { vec![RANGES[1]] })
    }

    fn throttle(&mut self, _percent: u8) -> Result<(), MachineError> {
        Ok(())
    }

    fn pause(&mut self) -> Result<(), MachineError> {
        assert!(self.running && self.holds);
        self.running = false;
        Ok(())
    }

    fn resume(&mut self) -> Result<(), MachineError> {
        assert!(!self.running && self.holds);
        self.running = true;
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<u8>, MachineError> {
        assert!(!self.running);
        Ok(b"{}".to_vec())
    }

    fn release(&mut self) -> Result<(), MachineError> {
        self.holds = false;
        Ok(())
    }

    fn take_back(&mut self) -> Result<(), MachineError> {
        self.holds = true;
        Ok(())
    }

    fn progress(&mut self, _progress: &Progress) {}
}

/// From the destination, at the source.
pub(crate) fn from_destination(data: &[u8]) {
    sends(data);
}

fn sends(data: &[u8]) -> bool {
    let mut bytes = Bytes(data);
    let mode = bytes.byte();
    let flag = |bit: u8| mode & 1 << bit != 0;
    let [running, local, postcopy, preserve_source] = [flag(0), flag(1), flag(2), flag(3)];
    let settings = SendSettings {
        local,
        preserve_source: local && preserve_source,
        downtime: Duration::ZERO,
        timeout: Duration::from_secs(600),
        on_timeout: TimeoutStrategy::Cancel,
        connections: if flag(4) { 2 } else { 1 },
        postcopy: postcopy && !local,
        throttle: flag(5),
        limits: LIMITS,
    };
    let mut goer = Goer { local, running, holds: true, dirty: 3 };
    let dial: Arc<dyn Dial> = Arc::new(Scripts::new(bytes));
    let sent = send(&mut goer, &dial, &settings, &Watch::default());
    match &sent {
        Ok(_) => assert!(!goer.running && goer.holds == settings.preserve_source),
        Err(failure) => match &failure.left {
            Left::AsBefore => assert!(goer.holds && goer.running == running),
            Left::Unknown => assert!(!goer.holds && !goer.running),
            Left::Paused(reason) => panic!("{reason}"),
        },
    }
    sent.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A corpus of conversations that end early would test little.
    #[test]
    fn machines_move() {
        let seed =
            |name| std::fs::read(format!("{}/../../fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        for name in ["precopy", "reference", "two-connections", "postcopy"] {
            assert!(receives(&seed(format!("migration_source/{name}"))), "{name}");
        }
        for name in ["abandoned", "descriptor"] {
            assert!(!receives(&seed(format!("migration_source/{name}"))), "{name}");
        }
        for name in
            ["precopy", "reference", "paused", "local", "preserved", "two-connections", "postcopy", "settled"]
        {
            assert!(sends(&seed(format!("migration_destination/{name}"))), "{name}");
        }
        for name in ["refused-config", "refused-state"] {
            assert!(!sends(&seed(format!("migration_destination/{name}"))), "{name}");
        }
    }
}

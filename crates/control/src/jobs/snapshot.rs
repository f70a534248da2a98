//! `vm.snapshot`: RAM is written while the guest runs, pass after pass over what it has changed, until little is left. Then it is held for
//! the rest and for the state of the CPUs and devices, which takes as long for a large guest as for a small one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{ApiError, Code, JobPhase, ReplyTo};
use config::VmSnapshotConfig;
use machine::{DirtyRam, Machine};
use memory::{Bytes, GuestAddress, GuestRam, SavedRange};
use pager::{Pager, PagerError};
use sandbox::{Profile, groups};
use snapshot::Writer;

use super::{Finish, Held, Link};
use crate::{Control, blame};

/// The thread of a job: it reads RAM and writes files.
pub(crate) static PROFILE: Profile =
    Profile::new("job", &[groups::KVM_ALL, groups::READ_FILES, groups::WRITE_FILES, groups::DISCARD]);

/// Bytes that are read and written at once. A job looks in between whether it is cancelled.
const PIECE: u64 = 1 << 20;
/// What may be left when the guest is held: as much as is copied in a few milliseconds.
const LITTLE: u64 = 8 << 20;
/// Passes over RAM after which the guest is held, however much it changes.
const PASSES: u32 = 10;

/// A stretch of RAM: its first address and its bytes.
pub(super) type Range = (u64, u64);

impl Control {
    pub(crate) fn snapshot(&mut self, config: VmSnapshotConfig, reply: ReplyTo<()>) {
        self.tell("snapshotting");
        match self.prepare_snapshot(config) {
            Ok(task) => self.start_job("vm.snapshot", &PROFILE, reply, move |link| task.run(link)),
            Err(error) => reply.send(Err(error)),
        }
    }

    fn prepare_snapshot(&mut self, config: VmSnapshotConfig) -> Result<Task, ApiError> {
        let directory = directory(&config.destination_url)?;
        let machine = self.running()?;
        if let Some(removed) = machine.removals().first() {
            let why =
                format!("The guest has not let go of device '{}' yet: ask again when it has", removed.id);
            return Err(ApiError::new(Code::Pending, [why]));
        }
        let writes = if machine.is_paused() { None } else { watch(machine)? };
        let ram = machine.ram();
        let pager = self.vm.as_ref().and_then(|vm| vm.pager.clone());
        Ok(Task { directory, parent: config.parent, ram, writes, pager })
    }

    /// The configuration as a snapshot keeps it.
    pub(super) fn saved_config(&self) -> Result<Vec<u8>, ApiError> {
        let config = self.vm.as_ref().map(|vm| vm.plan.config());
        serde_json::to_vec_pretty(&config).map_err(|e| ApiError::from_error(Code::Internal, &e))
    }
}

fn watch(machine: &Machine) -> Result<Option<DirtyRam>, ApiError> {
    machine.watch_writes().map_err(|e| ApiError::from_error(Code::Internal, &e))
}

/// The directory that a `file://` URL names (`spec/lifecycle.md` §4).
pub(crate) fn directory(url: &str) -> Result<PathBuf, ApiError> {
    let wrong = |why: String| ApiError::new(Code::InvalidConfig, [why]);
    let path = url.strip_prefix("file://").filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| {
        wrong(format!("Could not extract path from URL: {url}: write file:// and a directory"))
    })?;
    if Path::new(path).is_dir() {
        Ok(path.into())
    } else {
        Err(wrong(format!("Destination is not a directory: {path}")))
    }
}

/// What the thread works on.
struct Task {
    directory: PathBuf,
    parent: Option<PathBuf>,
    ram: GuestRam,
    /// The log of what the guest writes meanwhile; `None` if it stands still, or nobody can tell.
    writes: Option<DirtyRam>,
    /// What fills the RAM of a VM that was restored on demand.
    pager: Option<Arc<Pager>>,
}

/// Waits until all of RAM has come. Pages that are still to come look as if there were none.
pub(super) fn complete(link: &Link, pager: Option<&Pager>) -> Result<(), ApiError> {
    const LOOK: Duration = Duration::from_millis(50);
    let Some(pager) = pager else { return Ok(()) };
    loop {
        link.go_on()?;
        match pager.finish(LOOK) {
            Ok(()) => return Ok(()),
            Err(PagerError::Late { left }) => link.progress.enter(JobPhase::Preparing, left),
            Err(error) => return Err(blame::pager_failed(&error)),
        }
    }
}

impl Task {
    fn run(self, link: &Link) -> Result<Finish, ApiError> {
        let ranges = self.ram.ranges();
        let ranges: Vec<Range> =
            ranges.iter().filter(|range| !range.in_users_file).map(SavedRange::addresses).collect();
        let writer = Writer::create(&self.directory, &ranges, self.parent.as_deref());
        let writer = writer.map_err(|e| blame::snapshot_failed(&e))?;
        complete(link, self.pager.as_deref())?;
        let copy = Copy { link, ram: &self.ram, writer: &writer };
        let occupied: Vec<Range> =
            ranges.iter().flat_map(|(base, len)| self.ram.map().occupied(*base, *len)).collect();
        let held = match &self.writes {
            Some(writes) => copy.while_running(writes, occupied)?,
            None => {
                let held = link.hold()?;
                copy.pass(&occupied)?;
                link.let_go();
                held
            }
        };
        drop(self.writes);
        link.go_on()?;
        link.progress.enter(JobPhase::Finishing, 0);
        let state = serde_json::to_value(&held.tree).map_err(|e| ApiError::from_error(Code::Internal, &e))?;
        writer.finish(&held.config, state).map_err(|e| blame::snapshot_failed(&e))?;
        Ok(None)
    }
}

/// RAM on its way to a snapshot.
struct Copy<'a> {
    link: &'a Link,
    ram: &'a GuestRam,
    writer: &'a Writer,
}

impl Copy<'_> {
    /// Pass after pass, the first over `all`, then the rest while the machine is held.
    fn while_running(&self, writes: &DirtyRam, all: Vec<Range>) -> Result<Held, ApiError> {
        let taken = || writes.take().map_err(|e| ApiError::from_error(Code::Internal, &e));
        let mut left = all;
        for _ in 0..PASSES {
            let (bytes, began) = (total(&left), Instant::now());
            self.pass(&left)?;
            left = taken()?;
            self.estimate(bytes, total(&left), began);
            // A guest that writes as fast as it is copied is not waited for.
            if total(&left) <= LITTLE || total(&left) >= bytes {
                break;
            }
        }
        self.pass(&left)?;
        let held = self.link.hold()?;
        left = taken()?;
        if total(&left) > 8 * LITTLE {
            self.pass(&left)?;
            self.link.let_go();
        } else {
            // What is copied now is written when the guest runs again.
            let copy = |piece: Range| {
                let mut bytes = Vec::new();
                self.read(piece, &mut bytes).map(|()| (piece.0, bytes))
            };
            let copies: Vec<_> = pieces(&left).map(copy).collect::<Result<_, _>>()?;
            self.link.let_go();
            for (base, bytes) in copies {
                self.write(base, &bytes)?;
            }
        }
        Ok(held)
    }

    /// What the last pass over `bytes` tells of one with the guest held.
    fn estimate(&self, bytes: u64, left: u64, began: Instant) {
        let seconds = began.elapsed().as_secs_f64().max(1e-6);
        let downtime_ms = left as f64 / (bytes.max(1) as f64 / seconds) * 1e3;
        self.link.progress.estimate((left as f64 / seconds) as u64, downtime_ms as u64);
    }

    fn pass(&self, ranges: &[Range]) -> Result<(), ApiError> {
        self.link.progress.enter(JobPhase::Memory, total(ranges));
        let mut bytes = Vec::new();
        for piece in pieces(ranges) {
            self.link.go_on()?;
            self.read(piece, &mut bytes)?;
            self.write(piece.0, &bytes)?;
        }
        Ok(())
    }

    fn read(&self, (base, len): Range, bytes: &mut Vec<u8>) -> Result<(), ApiError> {
        bytes.resize(len as usize, 0);
        let read = self.ram.map().read_slice(bytes, GuestAddress(base));
        read.map_err(|e| ApiError::from_error(Code::Internal, &e).within("Guest RAM cannot be read"))
    }

    fn write(&self, base: u64, bytes: &[u8]) -> Result<(), ApiError> {
        self.writer.write(base, bytes).map_err(|e| blame::snapshot_failed(&e))?;
        self.link.progress.advance(bytes.len() as u64);
        Ok(())
    }
}

pub(super) fn total(ranges: &[Range]) -> u64 {
    ranges.iter().map(|(_, len)| len).sum()
}

/// The same bytes in pieces that are not too large.
pub(super) fn pieces(ranges: &[Range]) -> impl Iterator<Item = Range> {
    ranges.iter().flat_map(|(base, len)| {
        let (base, len) = (*base, *len);
        (0..len).step_by(PIECE as usize).map(move |at| (base + at, PIECE.min(len - at)))
    })
}

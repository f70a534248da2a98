//! `vm.restore`: what takes its time happens on the job's thread, which reads the snapshot and fills RAM; the machine is built on control's.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use api::{ApiError, Code, JobPhase, MemorySource, ReplyTo, RestoredMemory, With};
use config::{Background, MemoryRestoreMode, Plan, RestoreConfig, VmConfig};
use device::Events;
use libc::{
    SYS_fcntl, SYS_ftruncate, SYS_getcwd, SYS_inotify_add_watch, SYS_inotify_init1, SYS_mbind,
    SYS_memfd_create, SYS_readlink, SYS_readlinkat,
};
use machine::{Descriptors, Generation, Start, Tree};
use memory::{Bytes, GuestAddress, GuestRam, RangeMode, RangeSource, SavedRange};
use migration::Pages;
use pager::{PageSource, Pager, Prefault};
use sandbox::call::{Call, any, equal};
use sandbox::{Profile, groups};
use serde::Deserialize;
use snapshot::Snapshot;

use super::snapshot::{Range, directory, pieces};
use super::{Finish, Guard, Link, Progress};
use crate::control::Vm;
use crate::verbs::{Done, check_saved, show_debugger};
use crate::{Control, blame, missing};

/// The thread of a restore: it reads files and makes RAM.
pub(crate) static PROFILE: Profile =
    Profile::new("restore", &[groups::READ_FILES, groups::DISCARD, MAKE_RAM]);

pub(super) const MAKE_RAM: &[Call] = &[
    equal(SYS_fcntl, 1, libc::F_DUPFD_CLOEXEC),
    any(SYS_ftruncate),
    any(SYS_getcwd),
    any(SYS_inotify_add_watch),
    any(SYS_inotify_init1),
    any(SYS_mbind),
    any(SYS_memfd_create),
    any(SYS_readlink),
    any(SYS_readlinkat),
];

impl Control {
    pub(crate) fn restore(&mut self, With { body, descriptors }: With<RestoreConfig>, reply: ReplyTo<()>) {
        let work = move |link: &Link| -> Result<Finish, ApiError> {
            let restored = Restored::read(&body, descriptors, &link.progress)?;
            Ok(Some(Box::new(move |control| control.take_over(restored, Generation::New))))
        };
        self.start_job("vm.restore", &PROFILE, reply, work);
    }

    /// The same for a snapshot that the command line names, on this thread: nobody else wants anything yet.
    pub(crate) fn restore_at_once(&mut self, config: &RestoreConfig) -> Done {
        let descriptors = inherited(config)?;
        let progress = self.jobs.open("vm.restore");
        let restored = Restored::read(config, descriptors, &progress);
        let done = restored.and_then(|restored| self.take_over(restored, Generation::New));
        self.tell_of_job(&progress, &done);
        done
    }

    /// Makes the VM of what was read. After a failure there is none.
    pub(super) fn take_over(&mut self, restored: Restored, generation: Generation) -> Done {
        self.tell("restoring");
        let taken = self.take_over_machine(restored, generation);
        if taken.is_err() {
            self.vm = None;
            self.publish();
        }
        let resume = taken?;
        self.tell("restored");
        if resume { self.resume() } else { Ok(()) }
    }

    fn take_over_machine(&mut self, restored: Restored, generation: Generation) -> Result<bool, ApiError> {
        let Restored { plan, tree, memory, descriptors, resume } = restored;
        let RestoredRam { ram, sources, demand, guard } = memory;
        let hypervisor = self.hypervisor()?;
        self.take_up(plan, descriptors)?;
        let pager = demand.map(|demand| demand.start(&ram, self.events.clone())).transpose()?;
        let Some(vm) = self.vm.as_mut() else { return Ok(false) };
        vm.pager = pager.map(Arc::new);
        let Some(consoles) = vm.consoles.clone() else { return Ok(false) };
        let Vm { plan, descriptors, .. } = &*vm;
        let start = Start::Restore { tree: &tree, ram, generation };
        let built = machine::build(plan, start, hypervisor.as_ref(), consoles, descriptors, &self.events);
        let machine = built.map_err(|e| blame::build_failed(&e))?;
        missing::check_built(&machine)?;
        show_debugger(self.debug.as_deref(), &machine)?;
        vm.machine = Some(machine);
        vm.restored = Some(sources);
        vm.guard = guard;
        self.watch_snapshot();
        self.plan_next_look(Instant::now());
        self.publish();
        Ok(resume)
    }
}

/// A snapshot that has been read, with everything in it that a machine is built from.
pub(super) struct Restored {
    pub(super) plan: Plan,
    pub(super) tree: Tree,
    pub(super) memory: RestoredRam,
    pub(super) descriptors: Descriptors,
    pub(super) resume: bool,
}

/// RAM that is as it was, or comes to be so while the guest runs.
pub(super) struct RestoredRam {
    pub(super) ram: GuestRam,
    /// Where it comes from.
    pub(super) sources: Vec<RestoredMemory>,
    pub(super) demand: Option<Demand>,
    /// If RAM lies in files that others can change.
    pub(super) guard: Option<Guard>,
}

/// RAM that is to come while the guest runs.
pub(super) struct Demand {
    pages: PagesOf,
    /// All that is to come.
    runs: Vec<Range>,
    prefault: Prefault,
}

impl Demand {
    /// All of these ranges come from another process.
    pub(super) fn of_pages(pages: Arc<Pages>, ranges: &[SavedRange]) -> Self {
        let runs = ranges.iter().map(SavedRange::addresses).collect();
        Self { pages: PagesOf::Source(pages), runs, prefault: Prefault::Full }
    }

    fn start(self, ram: &GuestRam, events: Events) -> Result<Pager, ApiError> {
        let pager = Pager::start(ram, &self.runs, self.pages, self.prefault, events);
        pager.map_err(|e| blame::pager_failed(&e))
    }
}

/// Where pages that a guest touches come from.
enum PagesOf {
    /// A snapshot's files.
    Snapshot(Box<Snapshot>),
    /// The process that had the machine before.
    Source(Arc<Pages>),
}

impl PageSource for PagesOf {
    fn read(&mut self, base: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Snapshot(snapshot) => snapshot.read(base, buffer),
            Self::Source(pages) => pages.read(base, buffer).map_err(io::Error::other),
        }
    }
}

impl Drop for PagesOf {
    /// When nothing is missing any more, or nobody wants it.
    fn drop(&mut self) {
        if let Self::Source(pages) = self {
            pages.finish();
        }
    }
}

impl Restored {
    fn read(
        config: &RestoreConfig,
        descriptors: Vec<OwnedFd>,
        progress: &Progress,
    ) -> Result<Self, ApiError> {
        let invalid = |e: config::RestoreError| {
            let code = if e.is_duplicate() { Code::Duplicate } else { Code::InvalidConfig };
            ApiError::from_error(code, &e)
        };
        config.check().map_err(invalid)?;
        let url = config.source_url.to_string_lossy();
        let directory = directory(&url).map_err(|e| e.within("Invalid restore source URL"))?;
        let snapshot = Snapshot::open(&directory).map_err(|e| blame::snapshot_failed(&e))?;
        let (mut saved, _): (VmConfig, _) = config::from_json(snapshot.config())
            .map_err(|e| unreadable(&e, "config.json is no configuration"))?;
        config.check_against(&saved).map_err(invalid)?;
        config.apply(&mut saved).map_err(invalid)?;
        let descriptors = share_out(config, descriptors, &mut saved);
        let mut plan = check_saved(saved)?;
        let tree = Tree::deserialize(snapshot.state())
            .map_err(|e| unreadable(&e, "state.json holds no state of a machine"))?;
        tree.settle(&mut plan);
        let ram = Ram { snapshot, config, progress };
        let memory = ram.restore(&plan, tree.ram())?;
        Ok(Self { plan, tree, memory, descriptors, resume: config.resume })
    }
}

fn unread(error: &io::Error) -> ApiError {
    ApiError::from_error(Code::Internal, error).within("The snapshot's memory cannot be read")
}

fn unreadable(error: &serde_json::Error, what: &str) -> ApiError {
    ApiError::from_error(Code::InvalidConfig, error).within(what)
}

/// Gives each network device the descriptors that are its own, and shows their numbers.
fn share_out(config: &RestoreConfig, descriptors: Vec<OwnedFd>, saved: &mut VmConfig) -> Descriptors {
    use std::os::fd::AsRawFd;
    let mut left = descriptors.into_iter();
    let mut shared = Descriptors::new();
    for new in config.net_fds.iter().flatten() {
        let own: Vec<OwnedFd> = left.by_ref().take(new.num_fds).collect();
        let net = saved.net.iter_mut().flatten().find(|net| net.pci.id.as_ref() == Some(&new.id));
        if let Some(net) = net {
            net.fds = Some(own.iter().map(AsRawFd::as_raw_fd).collect());
            shared.insert(new.id.clone(), own);
        }
    }
    shared
}

/// The descriptors of this process that flags name.
fn inherited(config: &RestoreConfig) -> Result<Vec<OwnedFd>, ApiError> {
    let numbers = config.net_fds.iter().flatten().flat_map(|net| net.fds.iter().flatten());
    numbers.map(|number| crate::sections::inherit(*number)).collect()
}

/// RAM on its way out of a snapshot.
struct Ram<'a> {
    snapshot: Snapshot,
    config: &'a RestoreConfig,
    progress: &'a Progress,
}

impl RangeSource for Ram<'_> {
    fn file(&self, range: &SavedRange) -> Option<(&File, u64)> {
        let file = self.snapshot.base_file(range.base, range.len);
        file.filter(|_| self.mode() == MemoryRestoreMode::CopyOnWrite)
    }
}

impl Ram<'_> {
    /// RAM as it was: mapped from the snapshot's file, filled from it, or to be filled.
    fn restore(self, plan: &Plan, ranges: &[SavedRange]) -> Result<RestoredRam, ApiError> {
        let restored = GuestRam::restore(&plan.memory.zones, ranges, &self);
        let (ram, modes) = restored.map_err(|e| blame::ram_failed(&e))?;
        let sources: Vec<_> =
            ranges.iter().zip(modes).map(|(range, mode)| source(range, mode, self.mode())).collect();
        let wanted = self.wanted(&sources)?;
        let guard = self.guard(&sources);
        if self.mode() == MemoryRestoreMode::OnDemand {
            return Ok(RestoredRam { guard, ..self.on_demand(ram, sources, wanted) });
        }
        self.fill(&ram, &wanted)?;
        Ok(RestoredRam { ram, sources, demand: None, guard })
    }

    /// Watches the files that RAM stays in.
    fn guard(&self, sources: &[RestoredMemory]) -> Option<Guard> {
        let stays = sources.iter().filter(|source| source.mode == MemorySource::CopyOnWrite);
        let files = stays.filter_map(|source| self.snapshot.base_file(source.base, source.size));
        let guard = Guard::over(files.map(|(file, _)| file));
        guard.inspect_err(|e| tracing::warn!("Nobody will tell if the snapshot is changed: {e}")).ok()
    }

    fn mode(&self) -> MemoryRestoreMode {
        self.config.memory_restore_mode.unwrap_or(MemoryRestoreMode::CopyOnWrite)
    }

    /// What is to be copied: all that is stored, where the file is not mapped, and what later snapshots of a chain have of the rest.
    fn wanted(&self, sources: &[RestoredMemory]) -> Result<Vec<Range>, ApiError> {
        let is_mapped = |address: u64| {
            let of = |source: &&RestoredMemory| (source.base..source.base + source.size).contains(&address);
            sources.iter().find(of).is_some_and(|source| source.mode == MemorySource::CopyOnWrite)
        };
        let mut wanted = Vec::new();
        if sources.iter().any(|source| source.mode != MemorySource::CopyOnWrite) {
            for run in self.snapshot.data_runs() {
                wanted.extend(Some(run.map_err(|e| unread(&e))?).filter(|(base, _)| !is_mapped(*base)));
            }
        }
        wanted.extend(self.snapshot.stored_above_base().filter(|(base, _)| is_mapped(*base)));
        Ok(wanted)
    }

    /// Has pages come while the guest runs.
    fn on_demand(self, ram: GuestRam, mut sources: Vec<RestoredMemory>, runs: Vec<Range>) -> RestoredRam {
        let prefault = match (self.config.background_rate, self.config.background) {
            (Some(bytes), _) => Prefault::Rate(bytes),
            (None, Some(Background::Off)) => Prefault::Off,
            (None, _) => Prefault::Full,
        };
        let pages = PagesOf::Snapshot(Box::new(self.snapshot));
        for source in sources.iter_mut().filter(|source| source.mode == MemorySource::Copy) {
            source.mode = MemorySource::OnDemand;
        }
        RestoredRam { ram, sources, demand: Some(Demand { pages, runs, prefault }), guard: None }
    }

    fn fill(&self, ram: &GuestRam, wanted: &[Range]) -> Result<(), ApiError> {
        self.progress.enter(JobPhase::Memory, wanted.iter().map(|(_, len)| len).sum());
        let mut bytes = Vec::new();
        for (base, len) in pieces(wanted) {
            if self.progress.is_cancelled() {
                return Err(self.progress.cancelled());
            }
            bytes.resize(len as usize, 0);
            self.snapshot.read(base, &mut bytes).map_err(|e| unread(&e))?;
            let written = ram.map().write_slice(&bytes, GuestAddress(base));
            written.map_err(|e| {
                ApiError::from_error(Code::InvalidConfig, &e)
                    .within("memory-ranges has RAM that the state does not know")
            })?;
            self.progress.advance(len);
        }
        Ok(())
    }
}

/// What is told of a range.
fn source(range: &SavedRange, mode: RangeMode, wanted: MemoryRestoreMode) -> RestoredMemory {
    let (mode, why) = match mode {
        RangeMode::CopyOnWrite => (MemorySource::CopyOnWrite, None),
        RangeMode::Shared => (MemorySource::Shared, None),
        RangeMode::Users => (MemorySource::OwnFile, None),
        RangeMode::Fresh(why) if wanted == MemoryRestoreMode::CopyOnWrite => {
            (MemorySource::Copy, Some(why.to_string()))
        }
        RangeMode::Fresh(_) => (MemorySource::Copy, None),
    };
    RestoredMemory { base: range.base, size: range.len, zone: range.zone.clone(), mode, why }
}

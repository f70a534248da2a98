//! `vm.restore`: what takes its time happens on the job's thread, which reads the snapshot and fills RAM; the machine is built on control's.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use api::{ApiError, Code, JobPhase, ReplyTo, With};
use config::{MemoryRestoreMode, Plan, RestoreConfig, VmConfig};
use machine::{Descriptors, Generation, Start, Tree};
use memory::{Bytes, GuestAddress, GuestRam, RangeMode, RangeSource, SavedRange};
use serde::Deserialize;
use snapshot::Snapshot;

use super::snapshot::{PROFILE, Range, directory, pieces};
use super::{Finish, Link, Progress};
use crate::control::Vm;
use crate::verbs::{Done, check};
use crate::{Control, blame};

impl Control {
    pub(crate) fn restore(&mut self, With { body, descriptors }: With<RestoreConfig>, reply: ReplyTo<()>) {
        let work = move |link: &Link| -> Result<Finish, ApiError> {
            let restored = Restored::read(&body, descriptors, &link.progress)?;
            Ok(Some(Box::new(move |control| control.take_over(restored))))
        };
        self.start_job("vm.restore", &PROFILE, reply, work);
    }

    /// The same for a snapshot that the command line names, on this thread: nobody else wants anything yet.
    pub(crate) fn restore_at_once(&mut self, config: &RestoreConfig) -> Done {
        let descriptors = inherited(config)?;
        let progress = self.jobs.open("vm.restore");
        let restored = Restored::read(config, descriptors, &progress);
        let done = restored.and_then(|restored| self.take_over(restored));
        self.tell_of_job(&progress, &done);
        done
    }

    /// Makes the VM of what was read. After a failure there is none.
    fn take_over(&mut self, restored: Restored) -> Done {
        self.tell("restoring");
        let taken = self.take_over_machine(restored);
        if taken.is_err() {
            self.vm = None;
            self.publish();
        }
        let resume = taken?;
        self.tell("restored");
        if resume { self.resume() } else { Ok(()) }
    }

    fn take_over_machine(&mut self, restored: Restored) -> Result<bool, ApiError> {
        let Restored { plan, tree, ram, descriptors, resume } = restored;
        let hypervisor = self.hypervisor()?;
        self.take_up(plan, descriptors)?;
        let Some(vm) = self.vm.as_mut() else { return Ok(false) };
        let Some(consoles) = vm.consoles.clone() else { return Ok(false) };
        let Vm { plan, descriptors, .. } = &*vm;
        let start = Start::Restore { tree: &tree, ram, generation: Generation::New };
        let built = machine::build(plan, start, hypervisor.as_ref(), consoles, descriptors, &self.events);
        vm.machine = Some(built.map_err(|e| blame::build_failed(&e))?);
        self.publish();
        Ok(resume)
    }
}

/// A snapshot that has been read, with everything in it that a machine is built from.
struct Restored {
    plan: Plan,
    tree: Tree,
    ram: GuestRam,
    descriptors: Descriptors,
    resume: bool,
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
        let mut plan = check(saved)?;
        let tree = Tree::deserialize(snapshot.state())
            .map_err(|e| unreadable(&e, "state.json holds no state of a machine"))?;
        tree.settle(&mut plan);
        let ram = Ram { snapshot: &snapshot, mode: config.memory_restore_mode, progress };
        let ram = ram.restore(&plan, tree.ram())?;
        Ok(Self { plan, tree, ram, descriptors, resume: config.resume })
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
    snapshot: &'a Snapshot,
    mode: Option<MemoryRestoreMode>,
    progress: &'a Progress,
}

impl RangeSource for Ram<'_> {
    fn file(&self, range: &SavedRange) -> Option<(&File, u64)> {
        let shares = self.mode.unwrap_or(MemoryRestoreMode::CopyOnWrite) == MemoryRestoreMode::CopyOnWrite;
        self.snapshot.base_file(range.base, range.len).filter(|_| shares)
    }
}

impl Ram<'_> {
    /// RAM as it was: mapped from the snapshot's file, or filled from it.
    fn restore(&self, plan: &Plan, ranges: &[SavedRange]) -> Result<GuestRam, ApiError> {
        let restored = GuestRam::restore(&plan.memory.zones, ranges, self);
        let (ram, modes) = restored.map_err(|e| blame::ram_failed(&e))?;
        let mapped: Vec<Range> = ranges
            .iter()
            .zip(&modes)
            .filter(|(_, mode)| **mode == RangeMode::CopyOnWrite)
            .map(|(range, _)| range.addresses())
            .collect();
        let is_mapped =
            |address: u64| mapped.iter().any(|(base, len)| (*base..base + len).contains(&address));
        let mut wanted = Vec::new();
        if mapped.len() < ranges.len() {
            for run in self.snapshot.data_runs() {
                let run = run.map_err(|e| unread(&e))?;
                wanted.extend(Some(run).filter(|(base, _)| !is_mapped(*base)));
            }
        }
        wanted.extend(self.snapshot.stored_above_base().filter(|(base, _)| is_mapped(*base)));
        self.fill(&ram, &wanted)?;
        Ok(ram)
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

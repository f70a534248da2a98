//! `vm.send-migration`: the machine goes to another process, which waits in `vm.receive-migration`. Who owns the guest at which moment is the
//! business of [`migration`]; here is what it asks of the machine.
//!
//! A machine that lets go of what only one side may hold (locks, taps, sockets) is dropped: its RAM and its state are all it takes to build
//! it again, if it comes to that.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use api::{ApiError, Code, JobPhase, ReplyTo};
use config::{MemoryMode, VmSendMigrationData};
use machine::{DirtyRam, Generation, Start, Tree};
use memory::{Bytes, GuestAddress, GuestRam, SavedRange};
use migration::{
    Dial, Left, Limits, MachineError, Phase, Range, SendFailure, SendSettings, Sent, Source, SourceMemory,
    Watch,
};
use sandbox::{Profile, groups};

use super::restore::MAKE_RAM;
use super::snapshot::complete;
use super::{Finish, Held, Link, SEND};
use crate::control::Vm;
use crate::verbs::{Done, open_consoles};
use crate::{Control, blame};

/// The thread of a migration, at either end, and of all that it starts.
pub(crate) static PROFILE: Profile = Profile::new(
    "migration",
    &[
        groups::KVM_ALL,
        groups::EPOLL,
        groups::READ_FILES,
        groups::DISCARD,
        groups::SPAWN,
        MAKE_RAM,
        migration::CONNECT,
    ],
);

/// What is left of a machine that has let go of everything: enough to build it again.
pub(crate) struct Released {
    tree: Tree,
    ram: GuestRam,
}

/// What the destination makes its RAM and its plan from.
#[derive(serde::Serialize, serde::Deserialize)]
pub(super) struct Offer {
    pub(super) config: config::VmConfig,
    pub(super) ram: Vec<SavedRange>,
}

impl Control {
    /// Answers when the migration has begun; what becomes of it is told by events and `vm.jobs`.
    pub(crate) fn send_migration(&mut self, data: VmSendMigrationData, reply: ReplyTo<()>) {
        match self.prepare_sending(&data) {
            Ok(sending) => {
                let ending = sending.settings.preserve_source;
                self.start_job(SEND, &PROFILE, ReplyTo::new(|_| {}), move |link| sending.run(link, !ending));
                reply.send(Ok(()));
            }
            Err(error) => reply.send(Err(error)),
        }
    }

    fn prepare_sending(&mut self, data: &VmSendMigrationData) -> Result<Sending, ApiError> {
        let url = data.check().map_err(|e| {
            ApiError::from_error(Code::InvalidConfig, &e).within("Error validating send migration parameters")
        })?;
        let dial = migration::dial(&url, data.tls_dir.as_deref()).map_err(|e| blame::migration_failed(&e))?;
        let limits = if data.destination_url.starts_with("unix:") { Limits::UNIX } else { Limits::TCP };
        let settings = SendSettings {
            local: data.local,
            preserve_source: data.preserve_source,
            downtime: Duration::from_millis(data.downtime_ms.get()),
            timeout: Duration::from_secs(data.timeout_s.get()),
            on_timeout: data.timeout_strategy,
            connections: data.connections.get(),
            postcopy: data.memory_mode == MemoryMode::Postcopy,
            throttle: false,
            limits,
        };
        let machine = self.running()?;
        if let Some(removed) = machine.removals().first() {
            let why =
                format!("The guest has not let go of device '{}' yet: ask again when it has", removed.id);
            return Err(ApiError::new(Code::Pending, [why]));
        }
        let (ram, is_running) = (machine.ram(), !machine.is_paused());
        let config = self.vm.as_ref().map(|vm| vm.plan.config().clone()).unwrap_or_default();
        let offer = Offer { config, ram: ram.ranges() };
        let pager = self.vm.as_ref().and_then(|vm| vm.pager.clone());
        Ok(Sending { dial, settings, ram, is_running, offer, pager })
    }

    /// Drops the machine, and keeps what it takes to build it again.
    fn release(&mut self, tree: Tree) -> Done {
        let Some(vm) = self.vm.as_mut() else { return Ok(()) };
        let Some(machine) = vm.machine.take() else { return Ok(()) };
        vm.released = Some(Released { tree, ram: machine.ram() });
        drop(machine);
        vm.consoles = None;
        Ok(())
    }

    /// Builds a machine again that had let go of everything. It is paused then.
    pub(crate) fn take_back(&mut self) -> Done {
        let hypervisor = self.hypervisor()?;
        let Some(vm) = self.vm.as_mut() else { return Ok(()) };
        let Some(Released { tree, ram }) = &vm.released else { return Ok(()) };
        let consoles = open_consoles(&vm.plan)?;
        vm.consoles = Some(consoles.clone());
        let start = Start::Restore { tree, ram: ram.clone(), generation: Generation::Same };
        let Vm { plan, descriptors, .. } = &*vm;
        let built = machine::build(plan, start, hypervisor.as_ref(), consoles, descriptors, &self.events);
        vm.machine = Some(built.map_err(|e| blame::build_failed(&e))?);
        vm.released = None;
        self.publish();
        Ok(())
    }
}

/// A migration that is to begin.
struct Sending {
    dial: Arc<dyn Dial>,
    settings: SendSettings,
    ram: GuestRam,
    is_running: bool,
    offer: Offer,
    pager: Option<Arc<pager::Pager>>,
}

impl Sending {
    fn run(self, link: &Link, ends: bool) -> Result<Finish, ApiError> {
        tell(link, "migration-started", None);
        let sent = complete(link, self.pager.as_deref()).and_then(|()| {
            let mut leaving = Leaving {
                link,
                ram: &self.ram,
                offer: &self.offer,
                is_running: self.is_running,
                writes: None,
                held: None,
                pass: None,
            };
            let watch = Watch::new(link.progress.cancel_flag());
            migration::send(&mut leaving, &self.dial, &self.settings, &watch)
                .map_err(|failure| failed(link, failure))
        });
        match sent {
            Ok(sent) => {
                told_lost(sent);
                tell(link, "migration-finished", None);
                Ok(Some(Box::new(move |control| control.machine_is_gone(ends))))
            }
            Err(error) => {
                tell(link, "migration-failed", None);
                Err(error)
            }
        }
    }
}

fn told_lost(sent: Sent) {
    if let Some(error) = sent.pages_lost {
        tracing::error!("The guest has gone, and some of its memory could not follow: {error}");
    }
}

fn failed(link: &Link, SendFailure { error, left }: SendFailure) -> ApiError {
    let error = ApiError::from_error(Code::Internal, &error);
    match left {
        Left::AsBefore => error,
        Left::Paused(why) => {
            error.within(&format!("The VM stays paused here, and vm.resume tries again: {why}"))
        }
        Left::Unknown => {
            tracing::error!("{}: it is not known whether the destination has the VM", link.progress.verb);
            error.within(
                "The VM may be at the destination: look there, and vm.resume it here only if it is not there",
            )
        }
    }
}

/// Tells an event from the job's thread, in order with those of control.
fn tell(link: &Link, event: &'static str, id: Option<u32>) {
    // A control loop that is gone tells nothing any more.
    let _ = link.with(move |control| {
        match id {
            Some(id) => control.events.record("vm", event, &[("id", &id.to_string())]),
            None => control.tell(event),
        }
        Ok(())
    });
}

impl Control {
    /// After a migration: the VM is no more here, and the process ends if it `ends`. A machine that is preserved stays paused.
    fn machine_is_gone(&mut self, ends: bool) -> Done {
        if ends {
            self.ending = true;
        }
        self.publish();
        Ok(())
    }
}

/// The machine as [`migration::send()`] sees it.
struct Leaving<'a> {
    link: &'a Link,
    ram: &'a GuestRam,
    offer: &'a Offer,
    is_running: bool,
    writes: Option<DirtyRam>,
    held: Option<Held>,
    /// The pass that was told last.
    pass: Option<u32>,
}

impl Leaving<'_> {
    fn tree(&mut self) -> Result<Tree, MachineError> {
        if self.held.is_none() {
            self.held = Some(self.link.hold()?);
        }
        let held = self.held.as_ref().map(|held| held.tree.clone());
        held.ok_or_else(|| "The machine is not held".into())
    }
}

impl Source for Leaving<'_> {
    fn is_running(&self) -> bool {
        self.is_running
    }

    fn ranges(&self) -> Vec<Range> {
        self.offer.ram.iter().map(SavedRange::addresses).collect()
    }

    fn occupied(&mut self) -> Result<Vec<Range>, MachineError> {
        let map = self.ram.map();
        Ok(self.ranges().into_iter().flat_map(|(base, len)| map.occupied(base, len)).collect())
    }

    fn memory(&self) -> Arc<dyn SourceMemory> {
        Arc::new(LeavingRam(self.ram.clone()))
    }

    fn memory_fds(&mut self) -> Result<Vec<(u32, OwnedFd)>, MachineError> {
        let slot = |base: u64| self.offer.ram.iter().position(|range| range.base == base);
        let files = self.ram.shared_files()?.into_iter();
        let slots = files.filter_map(|(base, file)| Some((u32::try_from(slot(base)?).ok()?, file)));
        Ok(slots.collect())
    }

    fn config(&mut self) -> Result<Vec<u8>, MachineError> {
        Ok(serde_json::to_vec(self.offer)?)
    }

    fn track(&mut self, on: bool) -> Result<(), MachineError> {
        self.writes = None;
        if on {
            let watch = |control: &mut Control| {
                let writes = control.running()?.watch_writes();
                writes.map_err(|e| ApiError::from_error(Code::Internal, &e))
            };
            let writes = self.link.with(watch)?;
            self.writes = Some(writes.ok_or("This hypervisor does not log what the guest writes")?);
        }
        Ok(())
    }

    fn take_dirty(&mut self) -> Result<Vec<Range>, MachineError> {
        Ok(self.writes.as_ref().map(DirtyRam::take).transpose()?.unwrap_or_default())
    }

    fn throttle(&mut self, _: u8) -> Result<(), MachineError> {
        Ok(())
    }

    fn pause(&mut self) -> Result<(), MachineError> {
        tell(self.link, "pausing", None);
        self.held = Some(self.link.hold()?);
        tell(self.link, "paused", None);
        Ok(())
    }

    fn resume(&mut self) -> Result<(), MachineError> {
        tell(self.link, "resuming", None);
        self.held = None;
        self.link.with(|control| {
            control.let_go_for_job();
            control.publish();
            Ok(())
        })?;
        tell(self.link, "resumed", None);
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<u8>, MachineError> {
        tell(self.link, "snapshotting", None);
        let state = serde_json::to_vec(&self.tree()?)?;
        tell(self.link, "snapshotted", None);
        Ok(state)
    }

    fn release(&mut self) -> Result<(), MachineError> {
        let tree = self.tree()?;
        // The log keeps the hypervisor's machine, and that the memory.
        self.writes = None;
        Ok(self.link.with(move |control| control.release(tree))?)
    }

    fn take_back(&mut self) -> Result<(), MachineError> {
        Ok(self.link.with(Control::take_back)?)
    }

    fn progress(&mut self, progress: &migration::Progress) {
        let job = &self.link.progress;
        let phase = match progress.phase {
            Phase::Connecting => JobPhase::Preparing,
            Phase::Precopy => JobPhase::Memory,
            Phase::Handover => JobPhase::Holding,
            Phase::Postcopy => JobPhase::Finishing,
        };
        job.enter(phase, progress.left_bytes);
        job.set(progress.sent_bytes, progress.left_bytes);
        job.estimate(progress.dirty_rate, progress.downtime_ms);
        if progress.phase == Phase::Precopy && self.pass != Some(progress.pass) {
            self.pass = Some(progress.pass);
            tell(self.link, "migration-memory-iteration", Some(progress.pass));
        }
    }
}

/// RAM that other threads read.
struct LeavingRam(GuestRam);

impl SourceMemory for LeavingRam {
    fn read(&self, gpa: u64, bytes: &mut [u8]) -> Result<(), MachineError> {
        Ok(self.0.map().read_slice(bytes, GuestAddress(gpa))?)
    }
}

//! `vm.receive-migration`: waits for another process that hands its machine over.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use api::{ApiError, Code, JobPhase, MemorySource, ReplyTo, RestoredMemory, With};
use config::{MemoryMode, Plan, RestoreConfig, VmReceiveMigrationData};
use machine::{Descriptors, Generation, Tree};
use memory::{Bytes, GuestAddress, GuestRam, NoFiles, RangeMode, RangeSource, SavedRange};
use migration::{
    Accept, Destination, DestinationMemory, Limits, MachineError, Pages, Ram, ReceiveSettings, Received,
    Watch,
};

use super::restore::{Demand, Restored, RestoredRam};
use super::send::{Offer, PROFILE};
use super::{Finish, Link};
use crate::verbs::check_saved;
use crate::{Control, blame};

impl Control {
    /// Answers when the machine is here.
    pub(crate) fn receive_migration(
        &mut self,
        With { body, .. }: With<VmReceiveMigrationData>,
        reply: ReplyTo<()>,
    ) {
        match prepare(&body) {
            Ok((listener, settings)) => {
                if self.vm.is_some() {
                    tracing::warn!("The VM's configuration is replaced by that of the one that comes");
                }
                self.tell("migration-receive-ready");
                let work = move |link: &Link| run(link, body, listener, settings);
                self.start_job("vm.receive-migration", &PROFILE, reply, work);
            }
            Err(error) => reply.send(Err(error)),
        }
    }

    fn forget_arrival(&mut self) {
        self.vm = None;
        self.publish();
    }
}

fn prepare(data: &VmReceiveMigrationData) -> Result<(Box<dyn Accept>, ReceiveSettings), ApiError> {
    let url = data.check().map_err(|e| ApiError::from_error(Code::InvalidConfig, &e))?;
    let listener =
        migration::listen(&url, data.tls_dir.as_deref()).map_err(|e| blame::migration_failed(&e))?;
    let limits = if data.receiver_url.starts_with("unix:") { Limits::UNIX } else { Limits::TCP };
    Ok((listener, ReceiveSettings { postcopy: data.memory_mode == MemoryMode::Postcopy, limits }))
}

fn run(
    link: &Link,
    data: VmReceiveMigrationData,
    listener: Box<dyn Accept>,
    settings: ReceiveSettings,
) -> Result<Finish, ApiError> {
    let mut arriving = Arriving { link, data, fds: Vec::new(), made: None, demand: None };
    let watch = Watch::new(link.progress.cancel_flag());
    let received = migration::receive(listener, &mut arriving, settings, &watch);
    let failed = |control: &mut Control| {
        control.tell("migration-receive-failed");
        Ok(())
    };
    match received {
        Ok(Received::Owned { failed: None }) => {
            link.with(|control| {
                control.tell("migration-receive-finished");
                Ok(())
            })?;
            Ok(None)
        }
        Ok(Received::Owned { failed: Some(why) }) => {
            link.with(failed)?;
            let why = format!("The VM is here and paused, because it could not go on: {why}");
            Err(ApiError::new(Code::Internal, [why]))
        }
        Ok(Received::Orphaned) => {
            link.with(failed)?;
            Err(ApiError::new(
                Code::Internal,
                ["The source could not be asked whether it has let the VM go: it is here and paused; vm.resume it \
                  only if it does not run there, or vm.delete it"
                    .into()],
            ))
        }
        Err(error) => {
            link.with(failed)?;
            Err(ApiError::from_error(Code::Internal, &error).within("Migration was aborted"))
        }
    }
}

/// What is there of the machine before its state comes.
struct Made {
    plan: Plan,
    ram: GuestRam,
    ranges: Vec<SavedRange>,
    /// How its contents come, unless they come later.
    source: MemorySource,
}

/// The machine as [`migration::receive()`] sees it.
struct Arriving<'a> {
    link: &'a Link,
    data: VmReceiveMigrationData,
    /// The source's memory, by slot.
    fds: Vec<(u32, OwnedFd)>,
    made: Option<Made>,
    demand: Option<Arc<Pages>>,
}

/// The source's own memory, by the first address of each range.
struct Given(BTreeMap<u64, File>);

impl RangeSource for Given {
    fn file(&self, _: &SavedRange) -> Option<(&File, u64)> {
        None
    }

    fn shared(&self, range: &SavedRange) -> Option<&File> {
        self.0.get(&range.base)
    }
}

impl Arriving<'_> {
    /// RAM that is the source's own memory.
    fn adopt(&mut self, plan: &Plan, ranges: &[SavedRange]) -> Result<GuestRam, MachineError> {
        let file = |(slot, fd): (u32, OwnedFd)| {
            Some((ranges.get(usize::try_from(slot).ok()?)?.base, File::from(fd)))
        };
        let given = Given(self.fds.drain(..).filter_map(file).collect());
        let (ram, modes) = GuestRam::restore(&plan.memory.zones, ranges, &given)?;
        let is_missing = |mode: &RangeMode| !matches!(mode, RangeMode::Shared | RangeMode::Users);
        match modes.iter().position(is_missing) {
            None => Ok(ram),
            Some(slot) => Err(format!("The memory of slot {slot} has not come").into()),
        }
    }
}

impl Destination for Arriving<'_> {
    fn started(&mut self) {
        // A control loop that is gone tells nothing any more.
        let _ = self.link.with(|control| {
            control.tell("migration-receive-started");
            Ok(())
        });
    }

    fn memory_fd(&mut self, slot: u32, fd: OwnedFd) -> Result<(), MachineError> {
        self.fds.push((slot, fd));
        Ok(())
    }

    fn config(&mut self, bytes: &[u8]) -> Result<Ram, MachineError> {
        let Offer { mut config, ram: ranges } = serde_json::from_slice(bytes)?;
        self.data.check_against(&config)?;
        let replaced =
            RestoreConfig { zone_updates: self.data.zone_updates.clone(), ..RestoreConfig::default() };
        replaced.apply(&mut config)?;
        let plan = check_saved(config)?;
        let (ram, source) = if self.fds.is_empty() {
            (GuestRam::restore(&plan.memory.zones, &ranges, &NoFiles)?.0, MemorySource::Copy)
        } else {
            (self.adopt(&plan, &ranges)?, MemorySource::Shared)
        };
        self.link.progress.enter(JobPhase::Memory, ram.total());
        let addresses = ranges.iter().map(SavedRange::addresses).collect();
        let memory = Arc::new(ArrivingRam(ram.clone()));
        self.made = Some(Made { plan, ram, ranges, source });
        Ok(Ram { ranges: addresses, memory })
    }

    fn fill_from(&mut self, pages: Arc<Pages>) -> Result<(), MachineError> {
        self.demand = Some(pages);
        Ok(())
    }

    fn state(&mut self, bytes: &[u8]) -> Result<(), MachineError> {
        let tree: Tree = serde_json::from_slice(bytes)?;
        let Made { mut plan, ram, ranges, source } =
            self.made.take().ok_or("The configuration has not come")?;
        tree.settle(&mut plan);
        let demand = self.demand.take();
        let mode = if demand.is_some() { MemorySource::OnDemand } else { source };
        let sources = ranges.iter().map(|range| told(range, mode)).collect();
        let demand = demand.map(|pages| Demand::of_pages(pages, tree.ram()));
        let memory = RestoredRam { ram, sources, demand, guard: None };
        let restored = Restored { plan, tree, memory, descriptors: Descriptors::new(), resume: false };
        Ok(self.link.with(move |control| control.take_over(restored, Generation::Same))?)
    }

    fn complete(&mut self, run: bool) -> Result<(), MachineError> {
        if run {
            self.link.with(Control::resume)?;
        }
        Ok(())
    }

    fn abandon(&mut self) {
        self.made = None;
        // A control loop that is gone has dropped all there is.
        let _ = self.link.with(|control| {
            control.drop_machine();
            control.forget_arrival();
            Ok(())
        });
    }
}

fn told(range: &SavedRange, mode: MemorySource) -> RestoredMemory {
    RestoredMemory { base: range.base, size: range.len, zone: range.zone.clone(), mode, why: None }
}

/// RAM that other threads fill.
struct ArrivingRam(GuestRam);

impl DestinationMemory for ArrivingRam {
    fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), MachineError> {
        Ok(self.0.map().write_slice(bytes, GuestAddress(gpa))?)
    }

    fn clear(&self, gpa: u64, len: u64) -> Result<(), MachineError> {
        Ok(self.0.dma().view().discard(GuestAddress(gpa), len)?)
    }
}

//! `vm.coredump`: the machine stands still while its RAM is written to an ELF core file, and goes on while the file is brought to the disk.

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use api::{ApiError, Code, JobPhase, ReplyTo};
use config::VmCoredumpData;
use coredump::Source;
use memory::{Bytes, GuestAddress, GuestRam, SavedRange};
use pager::Pager;

use super::snapshot::{PROFILE, Range, complete, total};
use super::{Finish, Link};
use crate::{Control, blame};

impl Control {
    pub(crate) fn coredump(&mut self, config: VmCoredumpData, reply: ReplyTo<()>) {
        self.tell("coredumping");
        match self.prepare_coredump(&config) {
            Ok(task) => self.start_job("vm.coredump", &PROFILE, reply, move |link| task.run(link)),
            Err(error) => reply.send(Err(error)),
        }
    }

    fn prepare_coredump(&mut self, config: &VmCoredumpData) -> Result<Task, ApiError> {
        let url = &config.destination_url;
        let path = url.strip_prefix("file://").filter(|path| !path.is_empty()).ok_or_else(|| {
            let why = format!("Could not extract path from URL: {url}: write file:// and a new file's path");
            ApiError::new(Code::InvalidConfig, [why])
        })?;
        let ram = self.running()?.ram();
        let pager = self.vm.as_ref().and_then(|vm| vm.pager.clone());
        Ok(Task { path: path.into(), ram, pager })
    }
}

struct Task {
    path: PathBuf,
    ram: GuestRam,
    /// What fills the RAM of a VM that was restored on demand.
    pager: Option<Arc<Pager>>,
}

impl Task {
    fn run(self, link: &Link) -> Result<Finish, ApiError> {
        complete(link, self.pager.as_deref())?;
        let held = link.hold()?;
        let map = self.ram.map();
        let ranges: Vec<Range> = self.ram.ranges().iter().map(SavedRange::addresses).collect();
        let occupied: Vec<Range> = ranges.iter().flat_map(|(base, len)| map.occupied(*base, *len)).collect();
        link.progress.enter(JobPhase::Holding, total(&ranges));
        let source = Source { cpus: held.tree.vcpus(), ranges: &ranges, occupied: &occupied };
        let read =
            |base, bytes: &mut [u8]| map.read_slice(bytes, GuestAddress(base)).map_err(io::Error::other);
        let mut so_far = 0;
        let told = |done: u64| {
            link.progress.advance(done - so_far);
            so_far = done;
            link.go_on().map_or(ControlFlow::Break(()), |()| ControlFlow::Continue(()))
        };
        let core = coredump::write(&self.path, &source, read, told);
        link.let_go();
        // What was cancelled says so itself.
        link.go_on()?;
        let core = core.map_err(|e| blame::coredump_failed(&e))?;
        link.progress.enter(JobPhase::Finishing, 0);
        core.keep().map_err(|e| blame::coredump_failed(&e))?;
        Ok(None)
    }
}

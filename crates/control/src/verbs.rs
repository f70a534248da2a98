//! What each verb does. `dispatch` has one arm per verb; admission has been granted.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use api::{ApiError, Code, Command, Stopped, Verb};
use config::plan::Extra;
use config::{Plan, Problems, RestoreConfig, VmConfig, VmResizeDisk};
use hv::Hypervisor;
use machine::{Consoles, DebugDesk, Descriptors, GenerationId, Machine, Start};

use crate::control::Vm;
use crate::{Control, blame, missing, sections};

pub(crate) type Done = Result<(), ApiError>;

fn internal(error: &dyn Error) -> ApiError {
    ApiError::from_error(Code::Internal, error)
}

impl Control {
    pub(crate) fn dispatch(&mut self, command: Command) {
        match command {
            Command::VmmShutdown { reply, .. } => {
                self.ending = true;
                reply.send(Ok(Stopped));
            }
            Command::VmCreate { body, reply } => reply.send(self.create(*body)),
            Command::VmDelete { reply, .. } => reply.send(self.delete()),
            Command::VmBoot { reply, .. } => reply.send(self.boot()),
            Command::VmShutdown { reply, .. } => reply.send(self.shut_down()),
            Command::VmReboot { reply, .. } => reply.send(self.reboot()),
            Command::VmPowerButton { reply, .. } => reply.send(self.with_machine(|m| {
                m.press_power_button();
                Ok::<_, Infallible>(())
            })),
            Command::VmPause { reply, .. } => reply.send(self.between("pausing", "paused", Machine::pause)),
            Command::VmResume { reply, .. } => reply.send(self.resume()),
            Command::VmNmi { reply, .. } => reply.send(self.with_machine(|m| m.nmi())),
            Command::VmAddDisk { body, reply } => reply.send(self.add(Extra::Disk(body))),
            Command::VmAddNet { body, reply } => reply.send(self.add_net(body)),
            Command::VmAddFs { body, reply } => reply.send(self.add(Extra::Fs(body))),
            Command::VmAddGenericVhostUser { body, reply } => {
                reply.send(self.add(Extra::GenericVhostUser(body)));
            }
            Command::VmAddPmem { body, reply } => reply.send(self.add(Extra::Pmem(body))),
            Command::VmAddVdpa { body, reply } => reply.send(self.add(Extra::Vdpa(body))),
            Command::VmAddVsock { body, reply } => reply.send(self.add(Extra::Vsock(body))),
            Command::VmAddDevice { body, reply } => reply.send(self.add_device(body)),
            Command::VmAddUserDevice { body, reply } => reply.send(self.add(Extra::UserDevice(body))),
            Command::VmRemoveDevice { body, reply } => reply.send(self.remove_device(&body.id)),
            Command::VmResize { body, reply } => reply.send(self.resize(&body)),
            Command::VmResizeZone { body, reply } => reply.send(self.resize_zone(&body)),
            Command::VmCancelJob { body, reply } => self.cancel_job(body.id, reply),
            Command::VmSnapshot { body, reply } => self.snapshot(body, reply),
            Command::VmCoredump { body, reply } => self.coredump(body, reply),
            Command::VmSendMigration { body, reply } => self.send_migration(body, reply),
            Command::VmReceiveMigration { body, reply } => self.receive_migration(body, reply),
            Command::VmRestore { body, reply } => self.restore(body, reply),
            Command::VmResizeDisk { body, reply } => reply.send(self.resize_disk(&body)),
        }
    }

    /// Refused verbs leave their entry event all the same (`spec/events.md` §4).
    pub(crate) fn note_refusal(&self, verb: &str) {
        match verb {
            "vm.pause" => self.tell("pausing"),
            "vm.resume" => self.tell("resuming"),
            "vm.reboot" => self.tell("rebooting"),
            "vm.snapshot" => self.tell("snapshotting"),
            "vm.boot" if self.machine_is_absent() => self.tell("booting"),
            _ => {}
        }
    }

    pub(crate) fn machine_is_absent(&self) -> bool {
        self.vm.as_ref().is_none_or(|vm| vm.machine.is_none())
    }

    pub(crate) fn tell(&self, event: &'static str) {
        self.events.record("vm", event, &[]);
    }

    fn create(&mut self, mut config: VmConfig) -> Done {
        sections::forget_descriptors(&mut config);
        self.take_up(check(config)?, Descriptors::new())
    }

    pub(crate) fn take_up(&mut self, plan: Plan, descriptors: Descriptors) -> Done {
        for warning in plan.warnings() {
            tracing::warn!("{warning}");
        }
        let consoles = open_consoles(&plan)?;
        self.confine(&plan)?;
        self.vm = Some(Vm {
            plan,
            descriptors,
            consoles: Some(consoles),
            machine: None,
            pager: None,
            restored: None,
            released: None,
            guard: None,
        });
        self.publish();
        Ok(())
    }

    /// What `vm.create` does, for a VM given on the command line: descriptors that its flags name are those of this process.
    ///
    /// # Errors
    /// Its own, within what the verb says of failures.
    pub fn create_given(&mut self, config: VmConfig) -> Done {
        let created = check(config).and_then(|plan| {
            let descriptors = sections::inherit_descriptors(&plan)?;
            self.take_up(plan, descriptors)
        });
        created.map_err(|e| within("vm.create", e))
    }

    /// What `vm.boot` does, for a VM given on the command line.
    ///
    /// # Errors
    /// Its own, within what the verb says of failures.
    pub fn boot_given(&mut self) -> Done {
        self.boot().map_err(|e| within("vm.boot", e))
    }

    /// What `vm.restore` does, for a snapshot given on the command line.
    ///
    /// # Errors
    /// Its own, within what the verb says of failures.
    pub fn restore_given(&mut self, config: &RestoreConfig) -> Done {
        self.restore_at_once(config).map_err(|e| within("vm.restore", e))
    }

    fn boot(&mut self) -> Done {
        self.tell("booting");
        self.build_machine(None)?;
        self.tell("booted");
        Ok(())
    }

    /// The hypervisor, opened when it is first asked for.
    pub(crate) fn hypervisor(&mut self) -> Result<Arc<dyn Hypervisor>, ApiError> {
        let hypervisor = match &self.hypervisor {
            Some(hypervisor) => hypervisor.clone(),
            None => (self.open_hypervisor)().map_err(|e| blame::no_hypervisor(&e))?,
        };
        Ok(self.hypervisor.insert(hypervisor).clone())
    }

    /// Builds and starts a machine from the plan; `generation` is that of the one before, if the guest reboots. A failure leaves the VM as it
    /// was: created.
    fn build_machine(&mut self, generation: Option<GenerationId>) -> Done {
        let hypervisor = self.hypervisor()?;
        let Some(vm) = self.vm.as_mut() else { return Ok(()) };
        let consoles = match vm.consoles.take() {
            Some(consoles) => consoles,
            None => open_consoles(&vm.plan)?,
        };
        vm.consoles = Some(consoles.clone());
        let Vm { plan, descriptors, .. } = &*vm;
        let start = Start::Boot { generation };
        let built = machine::build(plan, start, hypervisor.as_ref(), consoles, descriptors, &self.events);
        let mut machine = built.map_err(|e| blame::build_failed(&e))?;
        missing::check_built(&machine)?;
        machine.slots().for_each(|(id, slot)| vm.plan.settle(id, slot));
        // News of a machine that is gone does not concern this one.
        let _ = self.events.take();
        self.kept.clear();
        show_debugger(self.debug.as_deref(), &machine)?;
        machine.start();
        vm.machine = Some(machine);
        self.plan_next_look(Instant::now());
        self.publish();
        Ok(())
    }

    fn shut_down(&mut self) -> Done {
        // A restore that is under way has no machine yet.
        self.running()?;
        self.stop_machine();
        Ok(())
    }

    /// Drops the machine, if there is one, and closes its consoles. Whoever hears of it finds it in `vm.info`.
    pub(crate) fn stop_machine(&mut self) {
        self.give_up_job();
        self.kept.clear();
        if self.drop_machine() {
            self.close_consoles();
            self.publish();
            self.tell("shutdown");
        }
    }

    /// The next machine opens them anew.
    fn close_consoles(&mut self) {
        if let Some(vm) = self.vm.as_mut() {
            vm.consoles = None;
        }
    }

    /// Also what a guest's reset comes to.
    pub(crate) fn reboot(&mut self) -> Done {
        self.tell("rebooting");
        let generation = self.running()?.generation();
        self.give_up_job();
        self.drop_machine();
        self.close_consoles();
        let rebuilt = self.build_machine(Some(generation));
        self.publish();
        rebuilt?;
        self.tell("rebooted");
        Ok(())
    }

    fn delete(&mut self) -> Done {
        self.give_up_job();
        self.stop_machine();
        if self.vm.take().is_some() {
            self.publish();
            self.tell("deleted");
        }
        Ok(())
    }

    /// The end of everything: as `vmm.shutdown`, however it came about.
    pub(crate) fn shut_down_vmm(&mut self) {
        // Deleting cannot fail.
        let _ = self.delete();
        self.events.record("vmm", "shutdown", &[]);
    }

    pub(crate) fn resume(&mut self) -> Done {
        if self.vm.as_ref().is_some_and(|vm| vm.released.is_some()) {
            self.take_back()?;
        }
        self.between("resuming", "resumed", |machine| {
            machine.resume();
            Ok::<_, Infallible>(())
        })?;
        self.kept.drain(..).for_each(|event| self.events.raise(event));
        Ok(())
    }

    fn resize_disk(&mut self, VmResizeDisk { id, desired_size }: &VmResizeDisk) -> Done {
        self.running()?.resize_disk(id, *desired_size).map_err(|e| blame::resize_disk_failed(&e))
    }

    pub(crate) fn running(&mut self) -> Result<&mut Machine, ApiError> {
        self.machine().ok_or_else(|| ApiError::new(Code::IllegalState, ["VM is not running".into()]))
    }

    fn with_machine<E: Error>(&mut self, act: impl FnOnce(&mut Machine) -> Result<(), E>) -> Done {
        act(self.running()?).map_err(|e| internal(&e))
    }

    /// Does something that has an event before and one after its success.
    fn between<E: Error>(
        &mut self,
        before: &'static str,
        after: &'static str,
        act: impl FnOnce(&mut Machine) -> Result<(), E>,
    ) -> Done {
        self.tell(before);
        self.with_machine(act)?;
        self.publish();
        self.tell(after);
        Ok(())
    }
}

/// Lets debuggers have a machine that is to start next.
pub(crate) fn show_debugger(desk: Option<&DebugDesk>, machine: &Machine) -> Done {
    desk.map_or(Ok(()), |desk| desk.take_in(machine.debugger())).map_err(|e| internal(&e))
}

/// What the verb says of failures, in front of why.
fn within(verb: &str, error: ApiError) -> ApiError {
    match Verb::find(verb) {
        Some(verb) => error.within(verb.fails),
        None => error,
    }
}

fn check(config: VmConfig) -> Result<Plan, ApiError> {
    config::check(config).map_err(|problems| refused(&problems))
}

/// The same for a machine that has run.
pub(crate) fn check_saved(config: VmConfig) -> Result<Plan, ApiError> {
    config::check_saved(config).map_err(|problems| refused(&problems))
}

fn refused(problems: &Problems) -> ApiError {
    for problem in problems.iter() {
        tracing::warn!("{}: {problem}: {}", problem.path, problem.hint);
    }
    ApiError::from_problems(problems)
}

pub(crate) fn open_consoles(plan: &Plan) -> Result<Consoles, ApiError> {
    Consoles::open(plan).map_err(|e| blame::consoles_failed(&e))
}

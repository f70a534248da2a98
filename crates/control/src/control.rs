//! The loop itself: what wakes it and what it owns.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Instant;

use api::{ApiError, Command, Inbox, RestoredMemory, State, VmInfo, VmState};
use config::Plan;
use device::{Event, Events};
use host::signals::{Signal, Signals};
use host::{ControlOperation, Epoll, EpollEvent, EventSet};
use hv::Hypervisor;
use machine::{Consoles, DebugDesk, Descriptors, Machine};
use pager::Pager;
use sandbox::Grant;
use thiserror::Error;

use crate::Published;
use crate::jobs::{Guard, JobRunner, Released};
use crate::missing::{self, NextLook};
use crate::published::Shown;

/// Opens the hypervisor when the first machine is built: a VMM that only answers questions needs none.
pub type OpenHypervisor = Box<dyn Fn() -> Result<Arc<dyn Hypervisor>, hv::Error>>;

/// How the loop behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The guest's power-off ends the VM, not the process.
    pub no_shutdown: bool,
    /// Shows more in the log, or less.
    pub adjust_log: fn(more: bool),
}

impl Default for Options {
    fn default() -> Self {
        Self { no_shutdown: false, adjust_log: |_| {} }
    }
}

/// Why the loop ended otherwise than it was asked to.
#[derive(Debug, Error)]
pub enum Ended {
    /// It cannot wait for anything.
    #[error("The control loop cannot wait for events")]
    Wait(#[from] io::Error),
    /// A vCPU cannot go on.
    #[error("A vCPU failed: the log says why")]
    Vcpu,
    /// The guest has lost memory. The text says which.
    #[error("{0}")]
    Memory(String),
    /// The guest's reset could not be carried out.
    #[error("The VM could not reboot")]
    Reboot(#[source] ApiError),
}

/// A configuration, and what stands behind it.
pub(crate) struct Vm {
    pub(crate) plan: Plan,
    /// What devices of the plan are to use; kept for every machine built from it.
    pub(crate) descriptors: Descriptors,
    /// Opened with the configuration; handed to each machine built from it; `None` after a shutdown until the next boot.
    pub(crate) consoles: Option<Consoles>,
    pub(crate) machine: Option<Machine>,
    /// What is left of a machine that was offered to another process, which could not be asked whether it has it.
    pub(crate) released: Option<Released>,
    /// Hears of changes of the snapshot that the machine's RAM lies in.
    pub(crate) guard: Option<Guard>,
    /// What fills the machine's RAM, if it was restored on demand. It goes after the machine.
    pub(crate) pager: Option<Arc<Pager>>,
    /// Where the machine's RAM came from, if it was restored.
    pub(crate) restored: Option<Vec<RestoredMemory>>,
}

/// The control loop and all it owns.
pub struct Control {
    pub(crate) vm: Option<Vm>,
    pub(crate) events: Events,
    pub(crate) hypervisor: Option<Arc<dyn Hypervisor>>,
    pub(crate) open_hypervisor: OpenHypervisor,
    /// What this thread was confined to, by each VM that asked for it.
    pub(crate) confined: Vec<Vec<Grant>>,
    /// Set when the process is to end.
    pub(crate) ending: bool,
    /// What the guest asked for while it was being paused. It is done when it goes on.
    pub(crate) kept: Vec<Event>,
    pub(crate) jobs: JobRunner,
    /// Where a debugger finds the machine, if there may be one.
    pub(crate) debug: Option<Arc<DebugDesk>>,
    pub(crate) next_look: NextLook,
    inbox: Inbox,
    /// What the loop waits for, once it runs.
    epoll: Option<Epoll>,
    published: Arc<Published>,
    options: Options,
}

impl Control {
    /// A loop without a VM.
    pub fn new(
        inbox: Inbox,
        events: Events,
        published: Arc<Published>,
        open_hypervisor: OpenHypervisor,
        options: Options,
    ) -> Self {
        missing::expect(&events);
        Self {
            vm: None,
            events,
            hypervisor: None,
            open_hypervisor,
            confined: Vec::new(),
            ending: false,
            kept: Vec::new(),
            jobs: JobRunner::new(published.jobs().clone()),
            debug: None,
            next_look: NextLook::default(),
            inbox,
            epoll: None,
            published,
            options,
        }
    }

    /// Puts all machines to come on this desk: the first waits for a debugger.
    pub fn debug_through(&mut self, desk: Arc<DebugDesk>) {
        self.debug = Some(desk);
    }

    /// Runs until `vmm.shutdown`, a signal or the guest ends it. What is left of the VM is deleted.
    ///
    /// # Errors
    /// [`Ended`] if it ended because something broke.
    pub fn run(mut self, signals: &Signals) -> Result<(), Ended> {
        let result = self.serve(signals);
        self.shut_down_vmm();
        result
    }

    fn serve(&mut self, signals: &Signals) -> Result<(), Ended> {
        let epoll = Epoll::new()?;
        for fd in [self.inbox.wake_fd().as_raw_fd(), self.events.wake_fd().as_raw_fd(), signals.as_raw_fd()] {
            epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 0))?;
        }
        self.epoll = Some(epoll);
        self.watch_snapshot();
        let mut ready = [EpollEvent::default(); 4];
        while !self.ending {
            let patience = self.patience();
            match self.epoll.as_ref().map(|epoll| epoll.wait(patience, &mut ready)) {
                Some(Err(e)) if e.kind() != io::ErrorKind::Interrupted => return Err(e.into()),
                _ => {}
            }
            self.inbox.clear_wake();
            while let Some(signal) = signals.next() {
                self.obey(signal);
            }
            self.look_after_guest()?;
            while let Some(command) = self.inbox.next().filter(|_| !self.ending) {
                self.execute(command);
            }
        }
        Ok(())
    }

    /// Has the loop wake up when the snapshot is changed that RAM lies in.
    pub(crate) fn watch_snapshot(&self) {
        let guard = self.vm.as_ref().and_then(|vm| vm.guard.as_ref());
        let (Some(guard), Some(epoll)) = (guard, &self.epoll) else { return };
        let (fd, event) = (guard.as_fd().as_raw_fd(), EpollEvent::new(EventSet::IN, 0));
        if let Err(e) = epoll.ctl(ControlOperation::Add, fd, event) {
            tracing::warn!("Nobody will tell if the snapshot is changed: {e}");
        }
    }

    fn obey(&mut self, signal: Signal) {
        match signal {
            Signal::Terminate => self.ending = true,
            Signal::LogMore => (self.options.adjust_log)(true),
            Signal::LogLess => (self.options.adjust_log)(false),
            Signal::WindowChanged => {
                if let Some(machine) = self.machine() {
                    machine.console_resized();
                }
            }
        }
    }

    /// Acts on what the guest or the machine's threads have raised.
    fn look_after_guest(&mut self) -> Result<(), Ended> {
        let raised = self.events.take();
        self.look_after_job();
        self.look_after_snapshot();
        self.look_for_missing()?;
        self.look_at_files(Instant::now());
        let Some(machine) = self.machine() else { return Ok(()) };
        if raised.has(Event::Fatal) {
            return Err(Ended::Vcpu);
        }
        if raised.has(Event::News) {
            machine.look_after();
            self.publish();
        }
        if raised.has(Event::Ejected) {
            self.part_with_ejected();
        }
        self.tell_of_overdue();
        let Some(machine) = self.machine() else { return Ok(()) };
        let wanted = [Event::PowerOff, Event::Reset].into_iter().find(|event| raised.has(*event));
        let is_paused = machine.is_paused();
        if wanted.is_some() && !is_paused {
            // The machine that the job works on is no more.
            self.give_up_job();
        }
        if is_paused {
            self.kept.extend(wanted);
            return Ok(());
        }
        match wanted {
            Some(Event::PowerOff) if self.options.no_shutdown => self.stop_machine(),
            Some(Event::PowerOff) => self.ending = true,
            Some(_) => self.reboot().map_err(Ended::Reboot)?,
            None => {}
        }
        Ok(())
    }

    fn execute(&mut self, command: Command) {
        let verb = command.verb();
        tracing::info!("API request: {}", verb.name);
        match verb.admit(self.state()) {
            Ok(()) => self.dispatch(command),
            Err(error) => {
                self.note_refusal(verb.name);
                command.refuse(error);
            }
        }
    }

    pub(crate) fn state(&self) -> State {
        self.jobs.state().unwrap_or_else(|| self.state_of_vm())
    }

    /// The same, whatever is done with it.
    fn state_of_vm(&self) -> State {
        let Some(vm) = &self.vm else { return State::None };
        match &vm.machine {
            None if vm.released.is_some() => State::Paused,
            None => State::Created,
            Some(machine) if machine.is_paused() => State::Paused,
            Some(_) => State::Running,
        }
    }

    pub(crate) fn machine(&mut self) -> Option<&mut Machine> {
        self.vm.as_mut()?.machine.as_mut()
    }

    /// Shows doors what has become of the VM.
    pub(crate) fn publish(&self) {
        let state = self.state_of_vm();
        let machine = self.vm.as_ref().and_then(|vm| vm.machine.as_ref());
        if let Some(desk) = &self.debug {
            desk.update(machine.map(Machine::debugger));
        }
        let is_debugged = self.debug.as_ref().is_some_and(|desk| desk.is_stopped());
        let info = self.vm.as_ref().map(|vm| {
            let mut config = vm.plan.config().clone();
            if let Some(consoles) = &vm.consoles {
                consoles.amend(&mut config);
            }
            if let Some(machine) = machine {
                machine.amend(&mut config);
            }
            VmInfo {
                config,
                state: match state {
                    State::Running if is_debugged => VmState::BreakPoint,
                    State::Running => VmState::Running,
                    State::Paused => VmState::Paused,
                    State::None | State::Created | State::Migrating | State::Working => VmState::Created,
                },
                memory_actual_size: machine.map_or_else(|| vm.plan.memory.total(), Machine::ram_size),
                restored_memory: vm.restored.clone(),
                device_tree: machine.map(Machine::device_tree),
            }
        });
        self.published.publish(Shown {
            state,
            info,
            readings: machine.map(|machine| Arc::new(machine.readings())),
        });
    }
}

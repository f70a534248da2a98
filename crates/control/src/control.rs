//! The loop itself: what wakes it and what it owns.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Instant;

use api::{ApiError, Command, Inbox, State, VmInfo, VmState};
use config::Plan;
use device::{Event, Events};
use host::signals::{Signal, Signals};
use host::{ControlOperation, Epoll, EpollEvent, EventSet};
use hv::Hypervisor;
use machine::{Consoles, Descriptors, Machine};
use sandbox::Grant;
use thiserror::Error;

use crate::Published;
use crate::missing::NextLook;
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
    pub(crate) next_look: NextLook,
    inbox: Inbox,
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
        Self {
            vm: None,
            events,
            hypervisor: None,
            open_hypervisor,
            confined: Vec::new(),
            ending: false,
            kept: Vec::new(),
            next_look: NextLook::default(),
            inbox,
            published,
            options,
        }
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
        let mut ready = [EpollEvent::default(); 3];
        while !self.ending {
            match epoll.wait(self.patience(), &mut ready) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e.into()),
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
        self.look_for_missing()?;
        self.look_at_files(Instant::now());
        let Some(machine) = self.machine() else { return Ok(()) };
        if raised.has(Event::Fatal) {
            return Err(Ended::Vcpu);
        }
        if raised.has(Event::News) {
            machine.look_after();
        }
        if raised.has(Event::Ejected) {
            self.part_with_ejected();
        }
        self.tell_of_overdue();
        let Some(machine) = self.machine() else { return Ok(()) };
        let wanted = [Event::PowerOff, Event::Reset].into_iter().find(|event| raised.has(*event));
        if machine.is_paused() {
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
        match self.vm.as_ref().map(|vm| &vm.machine) {
            None => State::None,
            Some(None) => State::Created,
            Some(Some(machine)) if machine.is_paused() => State::Paused,
            Some(Some(_)) => State::Running,
        }
    }

    pub(crate) fn machine(&mut self) -> Option<&mut Machine> {
        self.vm.as_mut()?.machine.as_mut()
    }

    /// Shows doors what has become of the VM.
    pub(crate) fn publish(&self) {
        let state = self.state();
        let machine = self.vm.as_ref().and_then(|vm| vm.machine.as_ref());
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
                    State::Running => VmState::Running,
                    State::Paused => VmState::Paused,
                    State::None | State::Created | State::Migrating => VmState::Created,
                },
                memory_actual_size: machine.map_or_else(|| vm.plan.memory.total(), Machine::ram_size),
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

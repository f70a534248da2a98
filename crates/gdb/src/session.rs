//! One client's session with one machine: who is let go, and why it has stopped again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use gdbstub::common::{Signal, Tid};
use gdbstub::conn::ConnectionExt;
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::stub::run_blocking::{Event, WaitForStopReasonError};
use host::EventFd;
use hv::{CpuState, SystemRegisters, paging};
use machine::{DebugDesk, DebugStops, Debugger, VcpuError};

use crate::breakpoints::Breakpoints;
use crate::wire::{Waiting, Wire};

pub(crate) type StopReason = MultiThreadStopReason<u64>;
type WaitError = WaitForStopReasonError<VcpuError, io::Error>;

/// gdb's number for a vCPU.
pub(crate) fn tid(vcpu: u32) -> Tid {
    NonZeroUsize::MIN.saturating_add(vcpu as usize)
}

/// A vCPU by gdb's number.
pub(crate) fn vcpu(tid: Tid) -> u32 {
    u32::try_from(tid.get() - 1).unwrap_or(u32::MAX)
}

pub(crate) struct Session {
    desk: Arc<DebugDesk>,
    end: Arc<EventFd>,
    /// What the guest, the client, control or the VMM's end may bring while the guest runs.
    news: Waiting,
    stops: Arc<DebugStops>,
    /// The machine's number on the desk.
    number: u64,
    pub(crate) machine: Debugger,
    pub(crate) breakpoints: Breakpoints,
    /// Whom the client lets go next, and whether by one instruction only.
    pub(crate) actions: BTreeMap<u32, bool>,
    /// Only those that have an action are let go.
    pub(crate) only_these: bool,
    /// Who was let go last.
    running: Running,
    /// Of vCPUs that are held, as far as somebody asked.
    system: BTreeMap<u32, SystemRegisters>,
}

/// Whom a client has let go.
#[derive(Clone, Debug)]
enum Running {
    All,
    Some(BTreeSet<u32>),
    /// One, by one instruction.
    Step(u32),
}

impl Running {
    fn has(&self, number: u32) -> bool {
        match self {
            Self::All => true,
            Self::Some(chosen) => chosen.contains(&number),
            Self::Step(only) => number == *only,
        }
    }
}

impl Session {
    /// Stops the machine; waits for one if there is none. `None`: the client or the VMM ended first.
    pub(crate) fn begin(desk: Arc<DebugDesk>, wire: &Wire, end: Arc<EventFd>) -> io::Result<Option<Self>> {
        let coming = Waiting::new(&[desk.changed_fd().as_raw_fd(), end.as_raw_fd()])?;
        coming.add_hang_up(wire.raw_fd())?;
        let (number, machine) = loop {
            if let Some(found) = desk.machine() {
                break found;
            }
            if coming.ready(true)?.iter().any(|fd| *fd != desk.changed_fd().as_raw_fd()) {
                return Ok(None);
            }
            desk.clear_change();
        };
        let stops = Arc::new(DebugStops::new()?);
        let descriptors = [&*end, desk.changed_fd(), stops.wake_fd()].map(AsRawFd::as_raw_fd);
        let news = Waiting::new(&[descriptors.as_slice(), &[wire.raw_fd()]].concat())?;
        let session = Self {
            desk,
            end,
            news,
            stops,
            number,
            machine,
            breakpoints: Breakpoints::default(),
            actions: BTreeMap::new(),
            only_these: false,
            running: Running::All,
            system: BTreeMap::new(),
        };
        session.desk.set_waits(true);
        session.halt().map_err(io::Error::other)?;
        Ok(Some(session))
    }

    /// Holds all vCPUs.
    fn halt(&self) -> Result<(), VcpuError> {
        self.machine.stop()?;
        self.desk.set_stopped(self.number, true);
        Ok(())
    }

    /// Lets the vCPUs go that the client has chosen. While one is stepped the others are held, so that it is alone with what it does.
    pub(crate) fn go(&mut self) -> Result<(), VcpuError> {
        if !self.take_over() {
            // `wait` is to find that out.
            return Ok(());
        }
        let step = self.actions.iter().find(|(_, steps)| **steps).map(|(number, _)| *number);
        self.running = match step {
            Some(number) => Running::Step(number),
            None if self.only_these => Running::Some(self.actions.keys().copied().collect()),
            None => Running::All,
        };
        self.system.clear();
        // What had come while the guest was being stopped comes again.
        self.stops.take();
        let wanted = self.breakpoints.debugging(step.is_some());
        self.desk.set_stopped(self.number, false);
        self.machine.go(|number| self.running.has(number), Some(&wanted), &self.stops)
    }

    /// Whether the machine is the same still. Its vCPUs may be others.
    fn take_over(&mut self) -> bool {
        match self.desk.machine() {
            Some((number, machine)) if number == self.number => {
                self.machine = machine;
                true
            }
            _ => false,
        }
    }

    /// Waits for a vCPU that stops, or for the client.
    pub(crate) fn wait(&mut self, wire: &mut Wire) -> Result<Event<StopReason>, WaitError> {
        loop {
            if wire.has_input() {
                return wire.read().map(Event::IncomingData).map_err(WaitError::Connection);
            }
            let ready = self.news.ready(true).map_err(WaitError::Connection)?;
            if ready.contains(&self.end.as_raw_fd()) {
                return Err(WaitError::Connection(ErrorKind::ConnectionAborted.into()));
            }
            if ready.contains(&wire.raw_fd()) {
                return wire.read().map(Event::IncomingData).map_err(WaitError::Connection);
            }
            if ready.contains(&self.desk.changed_fd().as_raw_fd()) {
                self.desk.clear_change();
                let before: BTreeSet<u32> = self.machine.vcpus().collect();
                if !self.take_over() {
                    return Ok(Event::TargetStopped(StopReason::Exited(0)));
                }
                self.welcome(&before).map_err(WaitError::Target)?;
            }
            if let Some(number) = self.stops.take().first() {
                let reason = self.halt().and_then(|()| self.reason(*number));
                return reason.map(Event::TargetStopped).map_err(WaitError::Target);
            }
        }
    }

    /// vCPUs that were plugged in stop where the others do.
    fn welcome(&self, before: &BTreeSet<u32>) -> Result<(), VcpuError> {
        if !matches!(self.running, Running::All) {
            return Ok(());
        }
        let wanted = self.breakpoints.debugging(false);
        self.machine.go(|number| !before.contains(&number), Some(&wanted), &self.stops)
    }

    fn reason(&self, number: u32) -> Result<StopReason, VcpuError> {
        let state = self.machine.state(number)?.unwrap_or_default();
        let at = state.registers.rip.wrapping_add(state.system.cs.base);
        let wanted = self.breakpoints.debugging(false);
        let tid = tid(number);
        Ok(match self.running {
            Running::Step(_) => StopReason::SignalWithThread { tid, signal: Signal::SIGTRAP },
            _ if wanted.software.contains(&at) => StopReason::SwBreak(tid),
            _ if wanted.hardware.contains(&Some(at)) => StopReason::HwBreak(tid),
            _ => StopReason::SignalWithThread { tid, signal: Signal::SIGTRAP },
        })
    }

    /// The client wants the guest to stop where it is.
    pub(crate) fn interrupt(&mut self) -> Result<StopReason, VcpuError> {
        self.halt()?;
        let first = self.machine.vcpus().next().unwrap_or_default();
        Ok(StopReason::SignalWithThread { tid: tid(first), signal: Signal::SIGINT })
    }

    /// The state of a vCPU; an error if there is none of this number.
    pub(crate) fn state(&self, number: u32) -> Result<CpuState, VcpuError> {
        self.machine.state(number)?.ok_or(VcpuError::Ended(number))
    }

    /// Where a linear address leads on a vCPU.
    pub(crate) fn translate(&mut self, number: u32, linear: u64) -> Result<Option<u64>, VcpuError> {
        let system = match self.system.get(&number) {
            Some(system) => *system,
            None => {
                let system = self.state(number)?.system;
                self.system.insert(number, system);
                system
            }
        };
        let read = |address| {
            let mut entry = [0; 8];
            self.machine.read(address, &mut entry).then(|| u64::from_le_bytes(entry))
        };
        Ok(paging::translate(&system, linear, read))
    }

    /// Where a linear address leads on whichever vCPU has it mapped.
    pub(crate) fn translate_anywhere(&mut self, linear: u64) -> Result<Option<u64>, VcpuError> {
        for number in self.machine.vcpus().collect::<Vec<_>>() {
            if let Some(physical) = self.translate(number, linear)? {
                return Ok(Some(physical));
            }
        }
        Ok(None)
    }

    /// Leaves no trace in the guest, and lets it run on.
    pub(crate) fn end(mut self) -> Result<(), VcpuError> {
        if !self.take_over() {
            // The next machine waits for the next client.
            return Ok(());
        }
        self.desk.set_waits(false);
        self.machine.stop()?;
        self.breakpoints.clear(&self.machine);
        self.machine.go(|_| true, None, &self.stops)?;
        self.desk.set_stopped(self.number, false);
        Ok(())
    }
}

//! A session as `gdbstub` sees it: what each packet of the protocol comes to.

use std::io;

use gdbstub::arch::Arch;
use gdbstub::common::{Signal, Tid};
use gdbstub::stub::run_blocking::{BlockingEventLoop, Event, WaitForStopReasonError};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::single_register_access::{SingleRegisterAccess, SingleRegisterAccessOps};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, SwBreakpoint, SwBreakpointOps,
};
use gdbstub::target::{Target, TargetError, TargetResult};
use gdbstub_arch::x86::X86_64_SSE;
use gdbstub_arch::x86::reg::X86_64CoreRegs;
use gdbstub_arch::x86::reg::id::X86_64CoreRegId;
use hv::Registers;
use machine::VcpuError;

use crate::registers;
use crate::session::{Session, StopReason, tid, vcpu};
use crate::wire::Wire;

const PAGE: u64 = 4096;

type Kind = <X86_64_SSE as Arch>::BreakpointKind;

fn fatal(error: VcpuError) -> TargetError<VcpuError> {
    TargetError::Fatal(error)
}

/// Parts of a range of linear addresses that each lie in one page: how long each is.
fn pages(start: u64, len: usize) -> impl Iterator<Item = (u64, usize)> {
    let (mut at, mut left) = (start, len);
    std::iter::from_fn(move || {
        let part = left.min((PAGE - at % PAGE) as usize);
        let here = at;
        at = at.wrapping_add(part as u64);
        left -= part;
        (part > 0).then_some((here, part))
    })
}

impl Session {
    fn change_registers(&self, number: u32, changed: Option<Registers>) -> TargetResult<(), Self> {
        let registers = changed.ok_or(TargetError::NonFatal)?;
        self.machine.set_registers(number, &registers).map_err(fatal)
    }
}

impl Target for Session {
    type Arch = X86_64_SSE;
    type Error = VcpuError;

    fn base_ops(&mut self) -> BaseOps<'_, Self::Arch, Self::Error> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Session {
    fn read_registers(&mut self, regs: &mut X86_64CoreRegs, tid: Tid) -> TargetResult<(), Self> {
        *regs = registers::shown(&self.state(vcpu(tid)).map_err(fatal)?);
        Ok(())
    }

    fn write_registers(&mut self, regs: &X86_64CoreRegs, tid: Tid) -> TargetResult<(), Self> {
        let state = self.state(vcpu(tid)).map_err(fatal)?;
        self.change_registers(vcpu(tid), registers::changed(&state, regs))
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let mut read = 0;
        for (linear, len) in pages(start, data.len()) {
            let physical = self.translate(vcpu(tid), linear).map_err(fatal)?;
            let part = &mut data[read..read + len];
            if !physical.is_some_and(|physical| self.breakpoints.read(&self.machine, physical, part)) {
                break;
            }
            read += len;
        }
        if read == 0 && !data.is_empty() { Err(TargetError::NonFatal) } else { Ok(read) }
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let mut rest = data;
        for (linear, len) in pages(start, data.len()) {
            let (part, others) = rest.split_at(len);
            let physical = self.translate(vcpu(tid), linear).map_err(fatal)?.ok_or(TargetError::NonFatal)?;
            if !self.breakpoints.write(&self.machine, physical, part) {
                return Err(TargetError::NonFatal);
            }
            rest = others;
        }
        Ok(())
    }

    fn list_active_threads(&mut self, thread_is_active: &mut dyn FnMut(Tid)) -> Result<(), VcpuError> {
        self.machine.vcpus().map(tid).for_each(thread_is_active);
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl SingleRegisterAccess<Tid> for Session {
    fn read_register(&mut self, tid: Tid, id: X86_64CoreRegId, buf: &mut [u8]) -> TargetResult<usize, Self> {
        let shown = registers::shown(&self.state(vcpu(tid)).map_err(fatal)?);
        let bytes = registers::one(&shown, id).ok_or(TargetError::NonFatal)?;
        buf.get_mut(..bytes.len()).ok_or(TargetError::NonFatal)?.copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn write_register(&mut self, tid: Tid, id: X86_64CoreRegId, val: &[u8]) -> TargetResult<(), Self> {
        let state = self.state(vcpu(tid)).map_err(fatal)?;
        let mut wanted = registers::shown(&state);
        registers::set_one(&mut wanted, id, val).ok_or(TargetError::NonFatal)?;
        self.change_registers(vcpu(tid), registers::changed(&state, &wanted))
    }
}

/// Signals are for processes: what gdb would send with an action is left out.
impl MultiThreadResume for Session {
    fn resume(&mut self) -> Result<(), VcpuError> {
        self.go()
    }

    fn clear_resume_actions(&mut self) -> Result<(), VcpuError> {
        self.actions.clear();
        self.only_these = false;
        Ok(())
    }

    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), VcpuError> {
        self.actions.insert(vcpu(tid), false);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Session {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), VcpuError> {
        self.actions.insert(vcpu(tid), true);
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Session {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), VcpuError> {
        self.only_these = true;
        Ok(())
    }
}

impl Breakpoints for Session {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }
}

/// `break`: INT3 in RAM. Where nothing is mapped yet, as before the kernel's own page tables are there, one of the CPU's breakpoints.
impl SwBreakpoint for Session {
    fn add_sw_breakpoint(&mut self, linear: u64, _: Kind) -> TargetResult<bool, Self> {
        let physical = self.translate_anywhere(linear).map_err(fatal)?;
        let is_set = physical.is_some_and(|at| self.breakpoints.add_software(&self.machine, linear, at));
        Ok(is_set || self.breakpoints.add_hardware(linear))
    }

    fn remove_sw_breakpoint(&mut self, linear: u64, _: Kind) -> TargetResult<bool, Self> {
        let was_set = self.breakpoints.remove_software(&self.machine, linear);
        Ok(was_set || self.breakpoints.remove_hardware(linear))
    }
}

/// `hbreak`.
impl HwBreakpoint for Session {
    fn add_hw_breakpoint(&mut self, linear: u64, _: Kind) -> TargetResult<bool, Self> {
        Ok(self.breakpoints.add_hardware(linear))
    }

    fn remove_hw_breakpoint(&mut self, linear: u64, _: Kind) -> TargetResult<bool, Self> {
        Ok(self.breakpoints.remove_hardware(linear))
    }
}

/// How `gdbstub` waits while the guest runs.
pub(crate) enum Loop {}

impl BlockingEventLoop for Loop {
    type Target = Session;
    type Connection = Wire;
    type StopReason = StopReason;

    fn wait_for_stop_reason(
        session: &mut Session,
        wire: &mut Wire,
    ) -> Result<Event<StopReason>, WaitForStopReasonError<VcpuError, io::Error>> {
        session.wait(wire)
    }

    fn on_interrupt(session: &mut Session) -> Result<Option<StopReason>, VcpuError> {
        session.interrupt().map(Some)
    }
}

//! One KVM vCPU: the run loop and its state, on the vCPU's own thread.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use host::kick;
use hv::cpuid::Leaf;
use hv::{
    CpuState, EXIT_REASONS, Error, ExitReason, Exits, Kicker, Registers, SystemRegisters, Vcpu, VcpuDebug,
    VcpuExit, VcpuIo,
};
use kvm_bindings::{KVM_CAP_HYPERV_SYNIC, KVM_EXIT_HYPERV_HCALL, kvm_enable_cap, kvm_run};
use kvm_ioctls::{VcpuExit as KvmExit, VcpuFd};
use rustix::io::Errno;

use crate::convert::{Common, msrs};
use crate::debug::DebugState;
use crate::slots::Slots;
use crate::{convert, cpuid, tsc};

pub(crate) struct KvmVcpu {
    pub(crate) fd: VcpuFd,
    pub(crate) debug: DebugState,
    /// The page shared with KVM; `fd` keeps it mapped.
    run: *mut kvm_run,
    stop: Arc<AtomicBool>,
    target: kick::Target,
    common: Arc<Common>,
    /// What it was created with.
    fresh: Box<CpuState>,
    exits: Arc<Exits>,
    /// What the guest can reach stays mapped as long as it can run.
    _memory: Arc<Slots>,
}

// SAFETY: `run` points into a mapping that `fd` owns and moves with it; only the thread that owns the vCPU uses either.
unsafe impl Send for KvmVcpu {}

impl KvmVcpu {
    pub(crate) fn new(
        mut fd: VcpuFd,
        leaves: &[Leaf],
        common: Arc<Common>,
        debug: DebugState,
        memory: Arc<Slots>,
    ) -> Result<Self, Error> {
        let table = cpuid::to_kvm(leaves).map_err(|e| {
            Error::operation("hold so many CPUID leaves", std::io::Error::other(format!("{e:?}")))
        })?;
        if hv::cpuid::promise_synic(leaves) {
            let synic = kvm_enable_cap { cap: KVM_CAP_HYPERV_SYNIC, ..kvm_enable_cap::default() };
            fd.enable_cap(&synic)
                .map_err(|e| Error::operation("switch on Hyper-V's interrupt controller", e))?;
        }
        fd.set_cpuid2(&table).map_err(|e| Error::operation("set a vCPU's CPUID", e))?;
        // KVM finds vCPUs by their APICs' ids in a table that it makes anew while a vCPU is created, just before it counts that one among
        // the machine's, and then whenever an APIC changes. At boot the first one does so; a vCPU that comes later would hear no IPI.
        let lapic = fd.get_lapic().map_err(|e| Error::operation("read a vCPU's local APIC", e))?;
        fd.set_lapic(&lapic).map_err(|e| Error::operation("set a vCPU's local APIC", e))?;
        let run = std::ptr::from_mut(fd.get_kvm_run());
        common.counters.join(&fd)?;
        let fresh = Box::new(power_on(convert::read_state(&fd, &common)?));
        Ok(Self {
            fd,
            debug,
            run,
            stop: Arc::default(),
            target: kick::Target::default(),
            common,
            fresh,
            exits: Arc::new(Exits::new(&EXIT_REASONS)),
            _memory: memory,
        })
    }

    fn run_armed(&mut self, io: &dyn VcpuIo) -> Result<VcpuExit, Error> {
        loop {
            let run = self.run;
            let exit = self.fd.run();
            self.exits.bump(reason(&exit) as usize);
            match exit {
                Ok(KvmExit::IoIn(port, data)) => {
                    data.chunks_mut(io_width(run)).for_each(|unit| io.pio_read(port, unit));
                }
                Ok(KvmExit::IoOut(port, data)) => {
                    data.chunks(io_width(run)).for_each(|unit| io.pio_write(port, unit));
                }
                Ok(KvmExit::MmioRead(address, data)) => io.mmio_read(address, data),
                Ok(KvmExit::MmioWrite(address, data)) => io.mmio_write(address, data),
                Ok(KvmExit::IoapicEoi(vector)) => io.end_of_interrupt(vector),
                Ok(KvmExit::Hyperv) => self.refuse_hypercall(),
                Ok(KvmExit::Debug(exit)) => {
                    if self.debugger_waits_for(&exit)? {
                        return Ok(VcpuExit::Debug);
                    }
                }
                Ok(KvmExit::Shutdown) => return Ok(VcpuExit::Shutdown),
                Ok(KvmExit::Intr | KvmExit::Hlt) => {}
                Ok(KvmExit::FailEntry(reason, cpu)) => {
                    return Err(Error::Stuck(format!(
                        "entry failed on CPU {cpu}, hardware reason {reason:#x}"
                    )));
                }
                Ok(KvmExit::InternalError) => return Err(self.internal_error()),
                Ok(KvmExit::MemoryFault { gpa, .. }) => return Err(no_memory(&format!("{gpa:#x}"))),
                Ok(other) => return Err(Error::Stuck(format!("KVM reports {other:?}"))),
                Err(e) => match std::io::Error::from(e).kind() {
                    ErrorKind::Interrupted | ErrorKind::WouldBlock => {
                        self.fd.set_kvm_immediate_exit(0);
                        if self.stop.swap(false, Ordering::SeqCst) {
                            return Ok(VcpuExit::Stopped);
                        }
                    }
                    // Older kernels do not say which address.
                    _ if e.errno() == Errno::FAULT.raw_os_error() => {
                        return Err(no_memory("an unknown address"));
                    }
                    _ => return Err(Error::operation("run a vCPU", e)),
                },
            }
        }
    }

    /// Hypercalls that KVM does not answer by itself are about messages and events between virtual machines, of which there are none.
    /// The other reasons for this exit (where the guest wants its messages) need no answer.
    fn refuse_hypercall(&self) {
        const INVALID_CODE: u64 = 2;
        // SAFETY: the run page is mapped, and KVM filled this member before it reported a reason of Hyper-V's; its type says which
        // part of the union that is.
        unsafe {
            let hyperv = &raw mut (*self.run).__bindgen_anon_1.hyperv;
            if (*hyperv).type_ == KVM_EXIT_HYPERV_HCALL {
                (*hyperv).u.hcall.result = INVALID_CODE;
            }
        }
    }

    fn internal_error(&self) -> Error {
        // SAFETY: the run page is mapped, and KVM filled this member before it reported an internal error.
        let suberror = unsafe { (*self.run).__bindgen_anon_1.internal.suberror };
        let place =
            self.fd.get_regs().map_or_else(|_| "an unknown place".into(), |regs| format!("{:#x}", regs.rip));
        Error::Stuck(format!("KVM internal error {suberror} at {place}"))
    }
}

/// Of a guest that touches memory whose pages the host cannot produce.
fn no_memory(place: &str) -> Error {
    Error::Stuck(format!(
        "the host has nothing behind the guest's memory at {place}: a file behind it has become shorter, its file system is full, or the \
         host's huge pages have run out"
    ))
}

/// What a reset puts in, of what a new vCPU has.
fn power_on(mut state: CpuState) -> CpuState {
    state.msr.retain(|number, _| !is_of_the_machine(*number));
    // A zero from us has KVM synchronise the counter with the other vCPUs', as it did at the creation.
    state.msr.insert(tsc::MSR, 0);
    state.tsc = None;
    state
}

/// Whether all vCPUs share an MSR: the wall clock of KVM, and what of Hyper-V's is not for each virtual processor (Hypervisor Top-Level
/// Functional Specification, appendix C).
fn is_of_the_machine(msr: u32) -> bool {
    matches!(
        msr,
        0x11 | 0x4b56_4d00
            | 0x4000_0000
            | 0x4000_0001
            | 0x4000_0020
            | 0x4000_0021
            | 0x4000_00f1..=0x4000_00ff
            | 0x4000_0100..=0x4000_0118
    )
}

fn reason(exit: &Result<KvmExit<'_>, kvm_ioctls::Error>) -> ExitReason {
    match exit {
        Ok(KvmExit::IoIn(..)) => ExitReason::PortRead,
        Ok(KvmExit::IoOut(..)) => ExitReason::PortWrite,
        Ok(KvmExit::MmioRead(..)) => ExitReason::MmioRead,
        Ok(KvmExit::MmioWrite(..)) => ExitReason::MmioWrite,
        Ok(KvmExit::IoapicEoi(..)) => ExitReason::EndOfInterrupt,
        _ => ExitReason::Other,
    }
}

/// Bytes per access of the port instruction KVM reports: string instructions deliver several at once.
fn io_width(run: *mut kvm_run) -> usize {
    // SAFETY: the run page is mapped while the vCPU lives, and KVM filled this member before it reported a port access.
    usize::from(unsafe { (*run).__bindgen_anon_1.io.size }).max(1)
}

impl Vcpu for KvmVcpu {
    fn run(&mut self, io: &dyn VcpuIo) -> Result<VcpuExit, Error> {
        // SAFETY: the byte lies in the run page, which outlives this call; `disarm` below ends its use.
        unsafe { self.target.arm(&raw mut (*self.run).immediate_exit) };
        let exit =
            if self.stop.swap(false, Ordering::SeqCst) { Ok(VcpuExit::Stopped) } else { self.run_armed(io) };
        self.target.disarm();
        exit
    }

    fn exits(&self) -> Arc<Exits> {
        self.exits.clone()
    }

    fn kicker(&self) -> Box<dyn Kicker> {
        Box::new(KvmKicker { stop: self.stop.clone(), target: self.target.clone() })
    }

    fn inject_nmi(&mut self) -> Result<(), Error> {
        self.fd.nmi().map_err(|e| Error::operation("inject an NMI", e))
    }

    fn state(&mut self) -> Result<CpuState, Error> {
        convert::read_state(&self.fd, &self.common)
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), Error> {
        convert::write_state(&self.fd, state, &self.common)
    }

    fn reset(&mut self) -> Result<(), Error> {
        // The first round ends a guest of the guest, in whose registers it may have written; the second finds the vCPU's own.
        for _ in 0..2 {
            // Reading lets KVM act on what waits for the vCPU, so that it does not wait any longer.
            let now = self.state()?;
            let mut state = self.fresh.as_ref().clone();
            // Some MSRs can be read only, and those have not changed.
            state.msr.retain(|number, value| now.msr.get(number) != Some(value));
            self.set_state(&state)?;
        }
        Ok(())
    }

    fn set_boot_registers(&mut self, registers: &Registers, system: &SystemRegisters) -> Result<(), Error> {
        convert::write_registers(&self.fd, registers, system)
    }

    fn set_msrs(&mut self, values: &[(u32, u64)]) -> Result<(), Error> {
        msrs::write(&self.fd, values.iter().copied())
    }

    fn system_registers(&mut self) -> Result<SystemRegisters, Error> {
        convert::read_system(&self.fd)
    }

    fn note_pause(&mut self) {
        // A guest without the KVM clock has nothing to be told: EINVAL.
        let _ = self.fd.kvmclock_ctrl();
    }

    fn debug(&mut self) -> Option<&mut dyn VcpuDebug> {
        Some(self)
    }
}

struct KvmKicker {
    stop: Arc<AtomicBool>,
    target: kick::Target,
}

impl Kicker for KvmKicker {
    fn kick(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.target.kick();
    }
}

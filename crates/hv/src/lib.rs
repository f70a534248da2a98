//! The hypervisor seam: what the machine asks of whatever runs the CPU, in neutral terms.
//!
//! A back end (KVM; later a software CPU) implements these traits, and nothing of its own types leaves its crate. What a back end may
//! lack is an `Option`, never a method that answers "unsupported".

mod clock;
mod cpu;
pub mod cpuid;
mod debug;
#[cfg(feature = "fake-hypervisor")]
pub mod fake;
mod features;
pub mod paging;
mod tsc;

use std::sync::Arc;

use device::{Doorbells, Msi, MsiSource};
use memory::HostMemory;
use meter::Tally;
use thiserror::Error;

pub use clock::{ClockReading, GuestClock};
pub use cpu::{
    CpuState, DebugRegisters, DescriptorTable, Exception, ExceptionStage, PendingEvents, Registers, RunState,
    Segment, SystemRegisters,
};
pub use debug::{BREAKPOINTS, Debugging, VcpuDebug};
pub use tsc::TscReading;

/// Why a back end refused.
#[derive(Debug, Error)]
pub enum Error {
    /// The back end cannot be used on this host at all. The text says why and what to do.
    #[error("{0}")]
    Unavailable(String),
    /// One operation failed.
    #[error("The hypervisor cannot {operation}")]
    Operation {
        /// What was asked, such as "create a vCPU".
        operation: &'static str,
        /// The kernel's reason.
        #[source]
        source: std::io::Error,
    },
    /// The guest's CPU cannot go on. The text says what the hypervisor reported.
    #[error("A vCPU cannot go on: {0}")]
    Stuck(String),
}

impl Error {
    /// [`Error::Operation`].
    pub fn operation(operation: &'static str, source: impl Into<std::io::Error>) -> Self {
        Self::Operation { operation, source: source.into() }
    }
}

/// A back end that can make virtual machines.
pub trait Hypervisor: Send + Sync {
    /// The CPUID leaves a guest may be shown on this host.
    ///
    /// # Errors
    /// [`Error::Operation`].
    fn supported_cpuid(&self) -> Result<Vec<cpuid::Leaf>, Error>;

    /// The most vCPUs one machine can have.
    fn max_vcpus(&self) -> u32;

    /// A machine without memory and vCPUs.
    ///
    /// # Errors
    /// [`Error::Operation`].
    fn create_vm(&self) -> Result<Arc<dyn Vm>, Error>;
}

/// What the guest may do with memory it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappingKind {
    /// RAM: the guest's writes are logged while the dirty log runs.
    Ram,
    /// Read-only memory: the guest's writes come to [`VcpuIo::mmio_write`].
    Rom,
    /// A device's memory (a BAR, a shared region, persistent memory): writable and never logged, because its contents belong to the
    /// device and not to RAM.
    Device,
}

/// Host memory and where the guest sees it.
pub struct Mapping {
    /// First guest-physical address, a multiple of the page size.
    pub guest: u64,
    /// What lies there; its start and size are multiples of the page size.
    pub memory: Arc<dyn HostMemory>,
    /// What the guest may do with it.
    pub kind: MappingKind,
}

/// Names a [`Mapping`] of one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RegionId(pub u32);

/// One virtual machine.
pub trait Vm: Send + Sync {
    /// Gives the guest host memory. The machine keeps it alive until [`Vm::unmap`] has succeeded, or as long as any of its CPUs could
    /// reach it.
    ///
    /// # Errors
    /// [`Error::Operation`], if the guest has memory there already, or addresses are no multiples of the page size.
    fn map(&self, mapping: Mapping) -> Result<RegionId, Error>;

    /// Takes memory away and lets go of it; nothing if that is done already.
    ///
    /// # Errors
    /// [`Error::Operation`]: the guest has the memory still, and the call may be repeated.
    fn unmap(&self, id: RegionId) -> Result<(), Error>;

    /// A vCPU in its power-on state. `apic_id` is unique; `cpuid` is what it shows the guest.
    ///
    /// # Errors
    /// [`Error::Operation`].
    fn create_vcpu(&self, apic_id: u32, cpuid: &[cpuid::Leaf]) -> Result<Box<dyn Vcpu>, Error>;

    /// The local APICs, and the way interrupts take to them.
    fn irqchip(&self) -> Arc<dyn IrqChip>;

    /// Writes that signal descriptors; `None`: devices see the writes.
    fn doorbells(&self) -> Option<Arc<dyn Doorbells>>;

    /// Which pages the guest wrote; `None`: this back end cannot tell.
    fn dirty_log(&self) -> Option<&dyn DirtyLog>;

    /// The guest's paravirtual clock; `None`: it has none.
    fn clock(&self) -> Option<&dyn GuestClock>;
}

/// The way interrupts take from devices to the local APICs.
pub trait IrqChip: MsiSource {
    /// Sends one message-signalled interrupt.
    fn send(&self, msi: Msi);

    /// Tells where an IOAPIC pin leads while it is level-triggered, so that the end of its interrupt is reported through
    /// [`VcpuIo::end_of_interrupt`]; `None`: it leads nowhere or is edge-triggered.
    fn watch_level_pin(&self, pin: u8, msi: Option<Msi>);
}

/// The log of pages that the guest wrote to [`MappingKind::Ram`].
pub trait DirtyLog {
    /// Starts logging with a clean log. RAM that is mapped later is logged as well.
    ///
    /// # Errors
    /// [`Error::Operation`]; then some RAM may be logged already, until [`DirtyLog::stop`].
    fn start(&self) -> Result<(), Error>;

    /// Stops logging.
    ///
    /// # Errors
    /// [`Error::Operation`]; the call may be repeated.
    fn stop(&self) -> Result<(), Error>;

    /// Takes a region's log: one bit per 4 KiB page, least significant first.
    ///
    /// # Errors
    /// [`Error::Operation`], also if the region is not logged.
    fn take(&self, id: RegionId) -> Result<Vec<u64>, Error>;
}

/// Exits of a vCPU to the VMM. What a hypervisor handles by itself is not among them.
pub type Exits = Tally<6>;

/// Why the guest came to the VMM: the names of [`Exits`], in order.
pub const EXIT_REASONS: [&str; 6] =
    ["port_read", "port_write", "mmio_read", "mmio_write", "end_of_interrupt", "other"];

/// An index into [`EXIT_REASONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ExitReason {
    PortRead,
    PortWrite,
    MmioRead,
    MmioWrite,
    EndOfInterrupt,
    Other,
}

/// Why a vCPU came back from running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VcpuExit {
    /// Somebody kicked it.
    Stopped,
    /// The guest's CPU shut down (triple fault).
    Shutdown,
    /// What a debugger asked for has come: see [`Debugging`].
    Debug,
}

/// One vCPU, owned by its thread.
pub trait Vcpu: Send {
    /// Runs the guest on the calling thread until there is a life-cycle reason to stop. Its I/O goes through `io`.
    ///
    /// # Errors
    /// [`Error::Operation`] if the guest cannot go on.
    fn run(&mut self, io: &dyn VcpuIo) -> Result<VcpuExit, Error>;

    /// How often the guest came to the VMM, by reason, counted by the thread that runs it.
    fn exits(&self) -> Arc<Exits>;

    /// A handle that makes [`Vcpu::run`] return [`VcpuExit::Stopped`], at once or the next time it is called.
    fn kicker(&self) -> Box<dyn Kicker>;

    /// Delivers a non-maskable interrupt.
    ///
    /// # Errors
    /// [`Error::Operation`].
    fn inject_nmi(&mut self) -> Result<(), Error>;

    /// Everything the guest can see of the CPU.
    ///
    /// # Errors
    /// [`Error::Operation`].
    fn state(&mut self) -> Result<CpuState, Error>;

    /// Puts a state in. Its time stamp counter goes on from the reading, set forward by the real time that has passed since, and has the same
    /// distance to those of the machine's other vCPUs as it had. RAM and the paravirtual clock ([`Vm::clock`]) are in place before: some
    /// registers have a hypervisor write to RAM at once.
    ///
    /// # Errors
    /// [`Error::Operation`], also if there is something in the state that this host does not have.
    fn set_state(&mut self, state: &CpuState) -> Result<(), Error>;

    /// Back to power-on, as [`Vm::create_vcpu`] made it: whatever waits for it is forgotten. Its time stamp counter goes with those of
    /// the other vCPUs.
    ///
    /// # Errors
    /// [`Error::Operation`].
    fn reset(&mut self) -> Result<(), Error>;

    /// Puts in only the registers a boot protocol sets.
    ///
    /// # Errors
    /// [`Error::Operation`].
    fn set_boot_registers(&mut self, registers: &Registers, system: &SystemRegisters) -> Result<(), Error>;

    /// Puts in some model-specific registers, by number.
    ///
    /// # Errors
    /// [`Error::Operation`].
    fn set_msrs(&mut self, values: &[(u32, u64)]) -> Result<(), Error>;

    /// The system registers as they are.
    ///
    /// # Errors
    /// [`Error::Operation`].
    fn system_registers(&mut self) -> Result<SystemRegisters, Error>;

    /// Tells the guest's clock that the vCPU was held, so that its watchdogs do not bark.
    fn note_pause(&mut self) {}

    /// What debuggers need; `None`: this back end cannot be debugged.
    fn debug(&mut self) -> Option<&mut dyn VcpuDebug> {
        None
    }
}

/// Interrupts one vCPU's run.
pub trait Kicker: Send + Sync {
    /// Kicks. Never waits.
    fn kick(&self);
}

/// Where a running vCPU's I/O goes. Called on the vCPU's thread.
pub trait VcpuIo: Sync {
    /// The guest reads a port. `data` has 1, 2 or 4 bytes.
    fn pio_read(&self, port: u16, data: &mut [u8]);

    /// The guest writes a port.
    fn pio_write(&self, port: u16, data: &[u8]);

    /// The guest reads memory that is not RAM. `data` has 1 to 8 bytes.
    fn mmio_read(&self, address: u64, data: &mut [u8]);

    /// The guest writes memory that is not RAM.
    fn mmio_write(&self, address: u64, data: &[u8]);

    /// The guest finished a level-triggered interrupt.
    fn end_of_interrupt(&self, vector: u8);
}

//! What the two ends of a migration ask of their machines.

use std::error::Error;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::pages::Pages;
use crate::progress::Progress;
use crate::ranges::Range;

/// Why a machine could not do what was asked.
pub type MachineError = Box<dyn Error + Send + Sync>;

/// The guest's RAM, to be read while it may be running.
pub trait SourceMemory: Send + Sync {
    /// Fills `bytes` from `gpa` on. Reading does not allocate what the guest never touched.
    ///
    /// # Errors
    /// Part of it is no RAM.
    fn read(&self, gpa: u64, bytes: &mut [u8]) -> Result<(), MachineError>;
}

/// The machine that goes. One thread calls, in the order of a migration; the guest runs until [`Source::pause`].
pub trait Source {
    /// Whether the guest runs, so that it has to run at the other end too.
    fn is_running(&self) -> bool;

    /// All ranges of RAM, also empty room that the guest could make RAM of.
    fn ranges(&self) -> Vec<Range>;

    /// The part of [`Source::ranges`] that may hold anything but zeroes.
    ///
    /// # Errors
    /// The machine's.
    fn occupied(&mut self) -> Result<Vec<Range>, MachineError>;

    /// RAM.
    fn memory(&self) -> Arc<dyn SourceMemory>;

    /// RAM as descriptors by slot, for `local`.
    ///
    /// # Errors
    /// It has none that could be shared.
    fn memory_fds(&mut self) -> Result<Vec<(u32, OwnedFd)>, MachineError>;

    /// What the destination makes its RAM from: at most [`crate::wire::DOCUMENT_LIMIT`] bytes.
    ///
    /// # Errors
    /// The machine's.
    fn config(&mut self) -> Result<Vec<u8>, MachineError>;

    /// Starts to note which pages are written, or stops it.
    ///
    /// # Errors
    /// The machine's.
    fn track(&mut self, on: bool) -> Result<(), MachineError>;

    /// Pages written since they were last asked for, by the guest or on its behalf.
    ///
    /// # Errors
    /// The machine's.
    fn take_dirty(&mut self) -> Result<Vec<Range>, MachineError>;

    /// Takes `percent` (0 to 99) of its time from the guest's CPUs, so that it writes less. Doing nothing is an answer.
    ///
    /// # Errors
    /// The machine's.
    fn throttle(&mut self, percent: u8) -> Result<(), MachineError>;

    /// Holds the guest still. Called once, only if it runs.
    ///
    /// # Errors
    /// It still runs.
    fn pause(&mut self) -> Result<(), MachineError>;

    /// Lets the guest go on after [`Source::pause`], whose migration has failed.
    ///
    /// # Errors
    /// It stays paused.
    fn resume(&mut self) -> Result<(), MachineError>;

    /// The state of everything but RAM; may write to RAM. At most [`crate::wire::DOCUMENT_LIMIT`] bytes.
    ///
    /// # Errors
    /// The machine's.
    fn state(&mut self) -> Result<Vec<u8>, MachineError>;

    /// Lets go of what only one side may hold, such as the locks of disks. The machine stays whole.
    ///
    /// # Errors
    /// It still holds them.
    fn release(&mut self) -> Result<(), MachineError>;

    /// Takes back what [`Source::release`] let go of.
    ///
    /// # Errors
    /// Somebody else holds them: the machine must not run.
    fn take_back(&mut self) -> Result<(), MachineError>;

    /// How far it is. Called often; must not wait.
    fn progress(&mut self, progress: &Progress);
}

/// The RAM that is being filled.
pub trait DestinationMemory: Send + Sync {
    /// Writes `bytes` at `gpa`, which lies in the ranges that [`Destination::config`] has named.
    ///
    /// # Errors
    /// The machine's.
    fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), MachineError>;

    /// Makes `len` bytes at `gpa` zero, and needs no memory of the host's for it if it can.
    ///
    /// # Errors
    /// The machine's.
    fn clear(&self, gpa: u64, len: u64) -> Result<(), MachineError>;
}

/// RAM that [`Destination::config`] made: all zero, or the source's own memory.
pub struct Ram {
    /// Where it lies.
    pub ranges: Vec<Range>,
    /// The way into it.
    pub memory: Arc<dyn DestinationMemory>,
}

/// The machine that comes. One thread calls, in the order of a migration.
pub trait Destination {
    /// A source has introduced itself.
    fn started(&mut self) {}

    /// Memory of the source's, for `local`. Its length is not to be trusted.
    ///
    /// # Errors
    /// It cannot be used: the migration is refused.
    fn memory_fd(&mut self, slot: u32, fd: OwnedFd) -> Result<(), MachineError>;

    /// Makes the machine's RAM.
    ///
    /// # Errors
    /// The migration is refused.
    fn config(&mut self, bytes: &[u8]) -> Result<Ram, MachineError>;

    /// Postcopy: from now on RAM is filled from `pages` when it is touched.
    ///
    /// # Errors
    /// The migration is refused.
    fn fill_from(&mut self, pages: Arc<Pages>) -> Result<(), MachineError>;

    /// Builds the whole machine and takes what only one side may hold. No instruction of the guest's is executed, and nothing that the
    /// source could miss is written, neither to disks nor to RAM that it still has (`local`).
    ///
    /// # Errors
    /// The migration is refused, and nothing is held.
    fn state(&mut self, bytes: &[u8]) -> Result<(), MachineError>;

    /// The machine is this side's now. With `run` the guest goes on.
    ///
    /// # Errors
    /// The guest stays paused, and the machine is this side's all the same.
    fn complete(&mut self, run: bool) -> Result<(), MachineError>;

    /// The machine will never be this side's: drops all there is of it, and lets go of what it holds before it returns.
    fn abandon(&mut self);
}

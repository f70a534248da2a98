//! What a debugger asks of a vCPU.

use std::sync::Arc;

use crate::{Error, Registers};

/// How many breakpoints a CPU has in hardware.
pub const BREAKPOINTS: usize = 4;

/// When a vCPU is to come back with [`crate::VcpuExit::Debug`]. Addresses are linear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Debugging {
    /// Before it executes the instruction there.
    pub hardware: [Option<u64>; BREAKPOINTS],
    /// At an INT3 that the debugger has put there, ascending. INT3 elsewhere is the guest's own and goes to the guest.
    pub software: Arc<[u64]>,
    /// After one instruction.
    pub step: bool,
}

/// A vCPU that can be debugged. Called while it does not run.
pub trait VcpuDebug {
    /// Says when to come back from now on; `None`: nobody debugs any more.
    ///
    /// # Errors
    /// [`Error::Operation`].
    fn set(&mut self, wanted: Option<&Debugging>) -> Result<(), Error>;

    /// Puts in the general registers, and nothing else.
    ///
    /// # Errors
    /// [`Error::Operation`].
    fn set_registers(&mut self, registers: &Registers) -> Result<(), Error>;
}

//! A debugger's way to vCPUs and RAM: it stops and steps CPUs while control owns the machine and goes on with its own work.

use std::sync::Arc;
use std::time::Duration;

use hv::{CpuState, Debugging, Registers};
use memory::{Bytes, GuestAddress, GuestRam};

use super::VcpuError;
use super::post::{Post, ask, try_ask};
use super::thread::{Go, Mail};
use crate::debug::DebugStops;

/// A hand on the vCPUs that a machine had when it was asked for; see [`crate::Machine::debugger`]. Any thread may use it, and it holds up
/// nobody: a machine that ends takes its vCPUs along, and what is asked of them afterwards is answered with [`VcpuError::Ended`].
#[derive(Clone)]
pub struct Debugger {
    posts: Vec<(u32, Post)>,
    patience: Duration,
    ram: GuestRam,
}

impl Debugger {
    pub(super) fn new(posts: Vec<(u32, Post)>, patience: Duration, ram: GuestRam) -> Self {
        Self { posts, patience, ram }
    }

    /// The vCPUs, by number.
    pub fn vcpus(&self) -> impl Iterator<Item = u32> {
        self.posts.iter().map(|(number, _)| *number)
    }

    fn posts(&self, chosen: impl Fn(u32) -> bool) -> impl Iterator<Item = (u32, &Post)> {
        self.posts.iter().filter(move |(number, _)| chosen(*number)).map(|(number, post)| (*number, post))
    }

    /// Holds all vCPUs. They stay held until [`Debugger::go`], also when control lets the machine run.
    ///
    /// # Errors
    /// [`VcpuError`]; then some are held.
    pub fn stop(&self) -> Result<(), VcpuError> {
        ask(self.posts(|_| true), self.patience, Mail::Stop).map(drop)
    }

    /// Lets vCPUs go on until there is what is `wanted`; `stops` hears of that. `None`: nothing is, and the guest sees no debugger any
    /// more. Where control has paused the machine, they go on when control resumes it.
    ///
    /// # Errors
    /// [`VcpuError`]; then some go on.
    pub fn go(
        &self,
        chosen: impl Fn(u32) -> bool,
        wanted: Option<&Debugging>,
        stops: &Arc<DebugStops>,
    ) -> Result<(), VcpuError> {
        let go = Go { wanted: wanted.cloned(), stops: stops.clone() };
        try_ask(self.posts(chosen), self.patience, |done| Mail::Go(go.clone(), done)).map(drop)
    }

    /// The state of the vCPU `number`, which is held; `None`: there is no such vCPU.
    ///
    /// # Errors
    /// [`VcpuError`].
    pub fn state(&self, number: u32) -> Result<Option<CpuState>, VcpuError> {
        let states = try_ask(self.posts(|other| other == number), self.patience, Mail::Save)?;
        Ok(states.into_values().next())
    }

    /// Gives the vCPU `number`, which is held, other general registers.
    ///
    /// # Errors
    /// [`VcpuError`].
    pub fn set_registers(&self, number: u32, registers: &Registers) -> Result<(), VcpuError> {
        let question = |done| Mail::SetRegisters(*registers, done);
        try_ask(self.posts(|other| other == number), self.patience, question).map(drop)
    }

    /// Reads RAM at a guest-physical address; whether all of it is RAM.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
        self.ram.map().read_slice(bytes, GuestAddress(address)).is_ok()
    }

    /// Writes RAM at a guest-physical address; whether all of it is RAM.
    pub fn write(&self, address: u64, bytes: &[u8]) -> bool {
        self.ram.map().write_slice(bytes, GuestAddress(address)).is_ok()
    }
}

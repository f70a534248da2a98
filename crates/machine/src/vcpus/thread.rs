//! What a vCPU's thread does.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use boot::boot_msrs;
use device::{Event, Events};
use hv::{CpuState, Debugging, Error, Registers, Vcpu, VcpuDebug, VcpuExit, VcpuIo};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::cores::Neighbours;
use crate::debug::DebugStops;

/// What is asked of a vCPU's thread.
pub(super) enum Mail {
    Run,
    Pause(Sender<()>),
    Nmi(Sender<Result<(), Error>>),
    Save(Sender<Result<CpuState, Error>>),
    /// A debugger wants it to stand still, whatever others want.
    Stop(Sender<()>),
    /// A debugger lets it go on.
    Go(Go, Sender<Result<(), Error>>),
    SetRegisters(Registers, Sender<Result<(), Error>>),
    /// Hold, and go back to power-on.
    Reset(Sender<Result<(), Error>>),
    Exit,
}

/// How far a debugger lets a vCPU go.
#[derive(Clone)]
pub(super) struct Go {
    /// `None`: it does not debug any more.
    pub(super) wanted: Option<Debugging>,
    /// Told when it has come so far.
    pub(super) stops: Arc<DebugStops>,
}

/// A vCPU with all that its thread needs.
pub(super) struct Body {
    pub(super) number: usize,
    pub(super) vcpu: Box<dyn Vcpu>,
    pub(super) inbox: Receiver<Mail>,
    pub(super) io: Arc<dyn VcpuIo + Send + Sync>,
    pub(super) events: Events,
    /// The host CPUs that it may run on, if not all.
    pub(super) hosts: Option<CpuSet>,
    pub(super) neighbours: Neighbours,
    /// Told whether it has a cookie to share.
    pub(super) claimed: Sender<io::Result<Option<Pid>>>,
}

impl Body {
    /// Runs on the calling thread until it is told to end. The vCPU is gone then.
    pub(super) fn run(mut self) {
        let number = self.number;
        if let Some(Err(e)) = self.hosts.map(|hosts| sched_setaffinity(None, &hosts)) {
            tracing::warn!("vCPU {number} runs on any host CPU: its affinity is refused: {e}");
        }
        let claimed = self.neighbours.claim(number).map_err(io::Error::from);
        let goes_on = claimed.is_ok();
        if self.claimed.send(claimed).is_ok() && goes_on {
            serve(number as u32, self.vcpu.as_mut(), &self.inbox, self.io.as_ref(), &self.events);
        }
    }
}

pub(super) fn cpu_set(hosts: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    for host in hosts.iter().filter(|host| **host < CpuSet::MAX_CPU) {
        set.set(*host);
    }
    set
}

fn serve(number: u32, vcpu: &mut dyn Vcpu, inbox: &Receiver<Mail>, io: &dyn VcpuIo, events: &Events) {
    let mut running = false;
    // A debugger holds it, and `stops` is who hears of it.
    let (mut stopped, mut stops) = (false, None);
    loop {
        let runs = running && !stopped;
        let mail = if runs { inbox.try_recv().ok() } else { inbox.recv().ok().or(Some(Mail::Exit)) };
        // Nobody waits for an answer that cannot be delivered.
        match mail {
            Some(Mail::Run) => running = true,
            Some(Mail::Pause(held)) => {
                running = false;
                vcpu.note_pause();
                let _ = held.send(());
            }
            Some(Mail::Nmi(done)) => drop(done.send(vcpu.inject_nmi())),
            Some(Mail::Save(done)) => drop(done.send(vcpu.state())),
            Some(Mail::Reset(done)) => {
                running = false;
                drop(done.send(vcpu.reset().and_then(|()| vcpu.set_msrs(&boot_msrs()))));
            }
            Some(Mail::Stop(done)) => {
                stopped = true;
                vcpu.note_pause();
                let _ = done.send(());
            }
            Some(Mail::Go(go, done)) => {
                let set = debugged(vcpu, |vcpu| vcpu.set(go.wanted.as_ref()));
                stopped = set.is_err();
                stops = Some(go.stops);
                let _ = done.send(set);
            }
            Some(Mail::SetRegisters(registers, done)) => {
                drop(done.send(debugged(vcpu, |vcpu| vcpu.set_registers(&registers))));
            }
            Some(Mail::Exit) => return,
            None => match vcpu.run(io) {
                Ok(VcpuExit::Stopped) => {}
                Ok(VcpuExit::Debug) => {
                    stopped = true;
                    stops.iter().for_each(|stops: &Arc<DebugStops>| stops.report(number));
                }
                Ok(VcpuExit::Shutdown) => {
                    running = false;
                    events.raise(Event::Reset);
                }
                Err(error) => {
                    running = false;
                    fail(&error, events);
                }
            },
        }
    }
}

fn debugged(
    vcpu: &mut dyn Vcpu,
    act: impl FnOnce(&mut dyn VcpuDebug) -> Result<(), Error>,
) -> Result<(), Error> {
    match vcpu.debug() {
        Some(vcpu) => act(vcpu),
        None => Err(Error::Unavailable("This hypervisor cannot debug guests: start without --gdb".into())),
    }
}

fn fail(error: &Error, events: &Events) {
    let why = std::error::Error::source(error).map(|why| format!(": {why}"));
    tracing::error!("{error}{}", why.unwrap_or_default());
    events.raise(Event::Fatal);
}

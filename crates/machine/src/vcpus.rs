//! The vCPU threads. Each owns its vCPU and reads its mail between two runs of the guest.
//!
//! ```text
//!            Run                       Pause, or the guest's CPU shut down
//!  held ----------------> running -----------------------------------------> held
//!    \______________________ Exit ______________________________/
//! ```
//! A debugger holds vCPUs besides ([`Debugger`]): one runs if neither side holds it.
//!
//! A vCPU that the guest has let go of is parked: held, in its power-on state, and not among those that are told to run.

mod cores;
mod debugger;
mod post;
mod thread;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use config::CoreScheduling;
use device::Events;
use hv::{CpuState, Error, Exits, Vcpu, VcpuIo};
use libc::{SYS_eventfd2, SYS_timerfd_gettime, SYS_timerfd_settime};
use memory::GuestRam;
use sandbox::call::{Call, any};
use sandbox::{Profile, groups};
use thiserror::Error as ThisError;

use cores::{COOKIE, Neighbours};
use post::{Post, ask, try_ask};
use thread::{Body, Mail, cpu_set};

pub use debugger::Debugger;

/// What device registers do on a vCPU's thread.
const REGISTERS: &[Call] = &[any(SYS_eventfd2), any(SYS_timerfd_gettime), any(SYS_timerfd_settime)];

/// The thread of a vCPU. No call is as frequent as its running, so KVM's come first.
pub(crate) static PROFILE: Profile = Profile::new(
    "vcpu",
    &[groups::KVM_VCPU, groups::EPOLL, groups::STREAM, groups::AFFINITY, COOKIE, REGISTERS],
);

/// How long the vCPUs together may take to answer or to end. A vCPU that is inside a device finishes there first.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why something was not done on every vCPU.
#[derive(Debug, ThisError)]
pub enum VcpuError {
    /// It does not come back from the guest or from a device.
    #[error("Thread vcpu{vcpu} does not answer within {} s: a device or the hypervisor holds it; try again, or end the VMM", limit.as_secs())]
    Silent {
        /// Which vCPU.
        vcpu: u32,
        /// How long it was waited for.
        limit: Duration,
    },
    /// Its thread is gone.
    #[error("Thread vcpu{0} has ended: shut the VM down and boot it again")]
    Ended(u32),
    /// The hypervisor refused.
    #[error("vCPU {vcpu} refuses")]
    Hypervisor {
        /// Which vCPU.
        vcpu: u32,
        /// The hypervisor's reason.
        #[source]
        source: Error,
    },
}

/// One vCPU's thread as others see it.
struct Thread {
    post: Post,
    exits: Arc<Exits>,
    is_parked: bool,
    /// Closed when the thread ends.
    ended: Receiver<()>,
    thread: JoinHandle<()>,
}

/// All vCPUs of a machine. Dropping it ends their threads; one that does not end in time is left behind, with all that it can reach.
pub(crate) struct Vcpus {
    threads: Vec<Thread>,
    io: Arc<dyn VcpuIo + Send + Sync>,
    events: Events,
    core_scheduling: CoreScheduling,
    /// Of the vCPU that comes next.
    neighbours: Neighbours,
    patience: Duration,
}

impl Vcpus {
    /// No vCPUs yet. Their I/O will go through `io`, and their news to `events`; `core_scheduling` says who may share a core with them.
    pub(crate) fn new(
        io: Arc<dyn VcpuIo + Send + Sync>,
        events: Events,
        core_scheduling: CoreScheduling,
    ) -> Self {
        let neighbours = Neighbours::first(core_scheduling);
        Self { threads: Vec::new(), io, events, core_scheduling, neighbours, patience: PATIENCE }
    }

    /// Puts the next vCPU on a thread `vcpuN`, held, on the host CPUs `hosts` or on any.
    pub(crate) fn add(&mut self, vcpu: Box<dyn Vcpu>, hosts: Option<&[usize]>) -> io::Result<()> {
        let number = self.threads.len();
        let (mail, inbox) = mpsc::channel();
        let (alive, ended) = mpsc::channel();
        let (claimed, claim) = mpsc::channel();
        let (post, exits) = (Post::new(mail, vcpu.kicker()), vcpu.exits());
        let body = Body {
            number,
            vcpu,
            inbox,
            io: self.io.clone(),
            events: self.events.clone(),
            hosts: hosts.map(cpu_set),
            neighbours: self.neighbours,
            claimed,
        };
        let body = move || {
            let _alive: Sender<()> = alive;
            body.run();
        };
        let thread = sandbox::spawn(&PROFILE, format!("vcpu{number}"), body)?;
        // The next one may share its core with this one, which must have its cookie by then.
        let claimed = claim.recv_timeout(self.patience).map_err(io::Error::other)??;
        self.neighbours = self.neighbours.next(self.core_scheduling, claimed);
        self.threads.push(Thread { post, exits, is_parked: false, ended, thread });
        Ok(())
    }

    /// vCPUs that have a thread, in use or parked.
    pub(crate) fn count(&self) -> u32 {
        self.threads.len() as u32
    }

    /// Parks all vCPUs that are not to `stay`, without waiting for them.
    pub(crate) fn park_unless(&mut self, stays: impl Fn(u32) -> bool) {
        for (thread, number) in self.threads.iter_mut().zip(0u32..) {
            if !thread.is_parked && !stays(number) {
                thread.is_parked = true;
                // The answer is of no use: the vCPU is reset again before it is used.
                thread.post.send(Mail::Reset(mpsc::channel().0));
            }
        }
    }

    /// Takes a parked vCPU into use again, held and in its power-on state. One that is in use stays as it is.
    pub(crate) fn take_into_use(&mut self, number: u32) -> Result<(), VcpuError> {
        let parked = (0u32..).zip(&self.threads).find(|(n, thread)| *n == number && thread.is_parked);
        self.try_ask(parked, Mail::Reset)?;
        if let Some(thread) = self.threads.get_mut(number as usize) {
            thread.is_parked = false;
        }
        Ok(())
    }

    fn in_use(&self) -> impl Iterator<Item = (u32, &Thread)> {
        (0u32..).zip(&self.threads).filter(|(_, thread)| !thread.is_parked)
    }

    /// Lets all vCPUs in use run.
    pub(crate) fn run(&self) {
        self.in_use().for_each(|(_, thread)| thread.post.send(Mail::Run));
    }

    /// Holds all vCPUs and returns when none runs any more. After an error some are held.
    pub(crate) fn pause(&self) -> Result<(), VcpuError> {
        // One that was parked a moment ago may run still.
        self.ask((0u32..).zip(&self.threads), Mail::Pause).map(drop)
    }

    /// Sends every vCPU in use a non-maskable interrupt.
    pub(crate) fn nmi(&self) -> Result<(), VcpuError> {
        self.try_ask(self.in_use(), Mail::Nmi).map(drop)
    }

    /// The state of every vCPU in use, by number. They are held.
    pub(crate) fn save(&self) -> Result<BTreeMap<u32, CpuState>, VcpuError> {
        self.try_ask(self.in_use(), Mail::Save)
    }

    /// A debugger's way to the vCPUs in use, past whoever owns them.
    pub(crate) fn debugger(&self, ram: GuestRam) -> Debugger {
        let posts = self.in_use().map(|(number, thread)| (number, thread.post.clone())).collect();
        Debugger::new(posts, self.patience, ram)
    }

    /// Where the exits of each vCPU are counted, by number.
    pub(crate) fn exits(&self) -> Vec<Arc<Exits>> {
        self.threads.iter().map(|thread| thread.exits.clone()).collect()
    }

    fn ask<'a, T>(
        &self,
        threads: impl IntoIterator<Item = (u32, &'a Thread)>,
        question: impl Fn(Sender<T>) -> Mail,
    ) -> Result<Vec<(u32, T)>, VcpuError> {
        ask(threads.into_iter().map(|(number, thread)| (number, &thread.post)), self.patience, question)
    }

    fn try_ask<'a, T>(
        &self,
        threads: impl IntoIterator<Item = (u32, &'a Thread)>,
        question: impl Fn(Sender<Result<T, Error>>) -> Mail,
    ) -> Result<BTreeMap<u32, T>, VcpuError> {
        try_ask(threads.into_iter().map(|(number, thread)| (number, &thread.post)), self.patience, question)
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.threads.iter().for_each(|thread| thread.post.send(Mail::Exit));
        let deadline = Instant::now() + self.patience;
        for (number, Thread { ended, thread, .. }) in self.threads.drain(..).enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            if ended.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                let limit = self.patience.as_secs();
                tracing::error!("Thread vcpu{number} does not end within {limit} s and is left behind");
                continue;
            }
            // A panic was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;

//! The vCPU threads. Each owns its vCPU and reads its mail between two runs of the guest.
//!
//! ```text
//!            Run                       Pause, or the guest's CPU shut down
//!  held ----------------> running -----------------------------------------> held
//!    \______________________ Exit ______________________________/
//! ```

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use device::{Event, Events};
use hv::{CpuState, Error, Exits, Kicker, Vcpu, VcpuExit, VcpuIo};
use libc::{SYS_eventfd2, SYS_timerfd_gettime, SYS_timerfd_settime};
use rustix::thread::{CpuSet, sched_setaffinity};
use sandbox::call::{Call, any};
use sandbox::{Profile, groups};
use thiserror::Error as ThisError;

/// What device registers do on a vCPU's thread.
const REGISTERS: &[Call] = &[any(SYS_eventfd2), any(SYS_timerfd_gettime), any(SYS_timerfd_settime)];

/// The thread of a vCPU. No call is as frequent as its running, so KVM's come first.
pub(crate) static PROFILE: Profile =
    Profile::new("vcpu", &[groups::KVM_VCPU, groups::EPOLL, groups::STREAM, groups::AFFINITY, REGISTERS]);

/// How long the vCPUs together may take to answer or to end. A vCPU that is inside a device finishes there first.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why something was not done on every vCPU.
#[derive(Debug, ThisError)]
pub enum VcpuError {
    /// It does not come back from the guest or from a device.
    #[error("Thread vcpu{vcpu} does not answer within {} s: a device or the hypervisor holds it; try again, or end the VMM", limit.as_secs())]
    Silent {
        /// Which vCPU.
        vcpu: usize,
        /// How long it was waited for.
        limit: Duration,
    },
    /// Its thread is gone.
    #[error("Thread vcpu{0} has ended: shut the VM down and boot it again")]
    Ended(usize),
    /// The hypervisor refused.
    #[error("vCPU {vcpu} refuses")]
    Hypervisor {
        /// Which vCPU.
        vcpu: usize,
        /// The hypervisor's reason.
        #[source]
        source: Error,
    },
}

/// What is asked of a vCPU's thread.
enum Mail {
    Run,
    Pause(Sender<()>),
    Nmi(Sender<Result<(), Error>>),
    Save(Sender<Result<CpuState, Error>>),
    Exit,
}

/// One vCPU's thread as others see it.
struct Thread {
    mail: Sender<Mail>,
    kicker: Box<dyn Kicker>,
    exits: Arc<Exits>,
    /// Closed when the thread ends.
    ended: Receiver<()>,
    thread: JoinHandle<()>,
}

impl Thread {
    fn post(&self, mail: Mail) {
        // A thread that is gone needs no mail.
        if self.mail.send(mail).is_ok() {
            self.kicker.kick();
        }
    }
}

/// All vCPUs of a machine. Dropping it ends their threads; one that does not end in time is left behind, with all that it can reach.
pub(crate) struct Vcpus {
    threads: Vec<Thread>,
    io: Arc<dyn VcpuIo + Send + Sync>,
    events: Events,
    patience: Duration,
}

impl Vcpus {
    /// No vCPUs yet. Their I/O will go through `io`, and their news to `events`.
    pub(crate) fn new(io: Arc<dyn VcpuIo + Send + Sync>, events: Events) -> Self {
        Self { threads: Vec::new(), io, events, patience: PATIENCE }
    }

    /// Puts the next vCPU on a thread `vcpuN`, held, on the host CPUs `hosts` or on any.
    pub(crate) fn add(&mut self, mut vcpu: Box<dyn Vcpu>, hosts: Option<&[usize]>) -> io::Result<()> {
        let number = self.threads.len();
        let (mail, inbox) = mpsc::channel();
        let (alive, ended) = mpsc::channel();
        let (kicker, exits) = (vcpu.kicker(), vcpu.exits());
        let hosts = hosts.map(cpu_set);
        let (io, events) = (self.io.clone(), self.events.clone());
        let body = move || {
            let _alive: Sender<()> = alive;
            if let Some(Err(e)) = hosts.map(|hosts| sched_setaffinity(None, &hosts)) {
                tracing::warn!("vCPU {number} runs on any host CPU: its affinity is refused: {e}");
            }
            serve(vcpu.as_mut(), &inbox, io.as_ref(), &events);
            // Whoever waits for the end may take it that the vCPU is gone.
            drop(vcpu);
        };
        let thread = sandbox::spawn(&PROFILE, format!("vcpu{number}"), body)?;
        self.threads.push(Thread { mail, kicker, exits, ended, thread });
        Ok(())
    }

    /// Lets all vCPUs run.
    pub(crate) fn run(&self) {
        self.threads.iter().for_each(|thread| thread.post(Mail::Run));
    }

    /// Holds all vCPUs and returns when none runs any more. After an error some are held.
    pub(crate) fn pause(&self) -> Result<(), VcpuError> {
        self.ask(Mail::Pause).map(drop)
    }

    /// Sends every vCPU a non-maskable interrupt.
    pub(crate) fn nmi(&self) -> Result<(), VcpuError> {
        self.try_ask(Mail::Nmi).map(drop)
    }

    /// The state of every vCPU, by number. They are held.
    pub(crate) fn save(&self) -> Result<Vec<CpuState>, VcpuError> {
        self.try_ask(Mail::Save)
    }

    /// Where the exits of each vCPU are counted, by number.
    pub(crate) fn exits(&self) -> Vec<Arc<Exits>> {
        self.threads.iter().map(|thread| thread.exits.clone()).collect()
    }

    /// Asks all at once, then collects the answers in order.
    fn ask<T>(&self, question: impl Fn(Sender<T>) -> Mail) -> Result<Vec<T>, VcpuError> {
        let asked: Vec<Receiver<T>> = self
            .threads
            .iter()
            .map(|thread| {
                let (answer, answers) = mpsc::channel();
                thread.post(question(answer));
                answers
            })
            .collect();
        let deadline = Instant::now() + self.patience;
        let answer = |(vcpu, answers): (usize, Receiver<T>)| {
            let left = deadline.saturating_duration_since(Instant::now());
            answers.recv_timeout(left).map_err(|e| match e {
                RecvTimeoutError::Timeout => VcpuError::Silent { vcpu, limit: self.patience },
                RecvTimeoutError::Disconnected => VcpuError::Ended(vcpu),
            })
        };
        asked.into_iter().enumerate().map(answer).collect()
    }

    /// As [`Vcpus::ask`], for what the hypervisor may refuse.
    fn try_ask<T>(&self, question: impl Fn(Sender<Result<T, Error>>) -> Mail) -> Result<Vec<T>, VcpuError> {
        let answers = self.ask(question)?.into_iter().enumerate();
        answers
            .map(|(vcpu, answer)| answer.map_err(|source| VcpuError::Hypervisor { vcpu, source }))
            .collect()
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.threads.iter().for_each(|thread| thread.post(Mail::Exit));
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

fn cpu_set(hosts: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    for host in hosts.iter().filter(|host| **host < CpuSet::MAX_CPU) {
        set.set(*host);
    }
    set
}

fn serve(vcpu: &mut dyn Vcpu, inbox: &Receiver<Mail>, io: &dyn VcpuIo, events: &Events) {
    let mut running = false;
    loop {
        let mail = if running { inbox.try_recv().ok() } else { inbox.recv().ok().or(Some(Mail::Exit)) };
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
            Some(Mail::Exit) => return,
            None => match vcpu.run(io) {
                Ok(VcpuExit::Stopped) => {}
                Ok(VcpuExit::Shutdown) => {
                    running = false;
                    events.raise(Event::Reset);
                }
                Err(error) => {
                    running = false;
                    tracing::error!(
                        "{error}: {}",
                        std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default()
                    );
                    events.raise(Event::Fatal);
                }
            },
        }
    }
}

#[cfg(test)]
mod tests;

//! The vCPU threads. Each owns its vCPU and reads its mail between two runs of the guest.
//!
//! ```text
//!            Run                       Pause, or the guest's CPU shut down
//!  held ----------------> running -----------------------------------------> held
//!    \______________________ Exit ______________________________/
//! ```

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use device::{Event, Events};
use hv::{CpuState, Error, Exits, Kicker, Vcpu, VcpuExit, VcpuIo};
use rustix::thread::{CpuSet, sched_setaffinity};
use sandbox::Kind;

/// What is asked of a vCPU's thread.
enum Mail {
    Run,
    Pause(Sender<()>),
    Nmi(Sender<Result<(), Error>>),
    Save(Sender<Result<CpuState, Error>>),
    Exit,
}

/// One vCPU's thread as others see it. Dropping it ends the thread.
struct Thread {
    mail: Sender<Mail>,
    kicker: Box<dyn Kicker>,
    exits: Arc<Exits>,
    thread: Option<JoinHandle<()>>,
}

impl Thread {
    fn post(&self, mail: Mail) {
        // A thread that is gone needs no mail.
        if self.mail.send(mail).is_ok() {
            self.kicker.kick();
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.post(Mail::Exit);
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

/// All vCPUs of a machine.
pub(crate) struct Vcpus(Vec<Thread>);

impl Vcpus {
    /// Puts each vCPU on a thread `vcpuN`, held. `affinity` names the host CPUs of some.
    pub(crate) fn spawn(
        vcpus: Vec<Box<dyn Vcpu>>,
        affinity: &[(u32, Vec<usize>)],
        io: &Arc<dyn VcpuIo + Send + Sync>,
        events: &Events,
    ) -> io::Result<Self> {
        let mut threads = Vec::with_capacity(vcpus.len());
        for (number, vcpu) in (0u32..).zip(vcpus) {
            let (mail, inbox) = mpsc::channel();
            let (kicker, exits) = (vcpu.kicker(), vcpu.exits());
            let hosts = affinity.iter().find(|(n, _)| *n == number).map(|(_, hosts)| cpu_set(hosts));
            let (io, events) = (io.clone(), events.clone());
            let body = move || {
                if let Some(Err(e)) = hosts.map(|hosts| sched_setaffinity(None, &hosts)) {
                    tracing::warn!("vCPU {number} runs on any host CPU: its affinity is refused: {e}");
                }
                serve(vcpu, &inbox, io.as_ref(), &events);
            };
            let thread = sandbox::spawn(Kind::Vcpu, format!("vcpu{number}"), body)?;
            threads.push(Thread { mail, kicker, exits, thread: Some(thread) });
        }
        Ok(Self(threads))
    }

    /// Lets all vCPUs run.
    pub(crate) fn run(&self) {
        self.0.iter().for_each(|thread| thread.post(Mail::Run));
    }

    /// Holds all vCPUs and returns when none runs any more.
    pub(crate) fn pause(&self) {
        drop(self.ask(Mail::Pause));
    }

    /// Sends every vCPU a non-maskable interrupt.
    pub(crate) fn nmi(&self) -> Result<(), Error> {
        self.ask(Mail::Nmi).into_iter().collect()
    }

    /// The state of every vCPU, by number. They are held.
    pub(crate) fn save(&self) -> Result<Vec<CpuState>, Error> {
        self.ask(Mail::Save).into_iter().collect()
    }

    /// Where the exits of each vCPU are counted, by number.
    pub(crate) fn exits(&self) -> Vec<Arc<Exits>> {
        self.0.iter().map(|thread| thread.exits.clone()).collect()
    }

    /// Asks all at once, then collects the answers in order.
    fn ask<T>(&self, question: impl Fn(Sender<T>) -> Mail) -> Vec<T> {
        let asked: Vec<Receiver<T>> = self
            .0
            .iter()
            .map(|thread| {
                let (answer, answers) = mpsc::channel();
                thread.post(question(answer));
                answers
            })
            .collect();
        asked.into_iter().filter_map(|answers| answers.recv().ok()).collect()
    }
}

fn cpu_set(hosts: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    for host in hosts.iter().filter(|host| **host < CpuSet::MAX_CPU) {
        set.set(*host);
    }
    set
}

fn serve(mut vcpu: Box<dyn Vcpu>, inbox: &Receiver<Mail>, io: &dyn VcpuIo, events: &Events) {
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

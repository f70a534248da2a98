//! The threads that serve queues: one loop for every device.
//!
//! ```text
//!            start(queues)                 stop()
//!  parked ------------------> serving ----------------> parked, queues on their way back
//!                                | Fault
//!                                v
//!                             broken: the driver sees DEVICE_NEEDS_RESET, queues stay until stop()
//! ```
//! A worker is spawned, parked, when its device is built, so that DRIVER_OK costs one message.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use host::{ControlOperation, Epoll, EpollEvent, EventFd, EventSet};
use memory::GuestRam;
use sandbox::Kind;

use crate::{Activation, ActiveQueue, Fault, Signals};

/// The worker half of a device: serves queues on a thread of its own.
pub trait Handler: Send + 'static {
    /// Queues have arrived. Watch back-end descriptors here. Buffers may be waiting already; a bell rings once for each queue after
    /// this returns.
    ///
    /// # Errors
    /// A [`Fault`] breaks the device.
    fn start(
        &mut self,
        _watch: &Watch,
        _ram: &GuestRam,
        _features: u64,
        _signals: &Arc<Signals>,
    ) -> Result<(), Fault> {
        Ok(())
    }

    /// The driver rang the bell of `queues[position]`.
    ///
    /// # Errors
    /// A [`Fault`] breaks the device.
    fn queue(&mut self, position: usize, queues: &mut [ActiveQueue], ram: &GuestRam) -> Result<(), Fault>;

    /// A descriptor watched under `token` is ready.
    ///
    /// # Errors
    /// A [`Fault`] breaks the device.
    fn event(
        &mut self,
        _token: u32,
        _ready: EventSet,
        _queues: &mut [ActiveQueue],
        _ram: &GuestRam,
    ) -> Result<(), Fault> {
        Ok(())
    }

    /// The queues are about to go back: finish what is under way and stop watching descriptors.
    fn stop(&mut self, _watch: &Watch, _queues: &mut [ActiveQueue], _ram: &GuestRam) {}
}

/// A worker's set of watched descriptors.
pub struct Watch(Epoll);

const CONTROL: u64 = u64::MAX;
const FIRST_TOKEN: u64 = 1 << 32;

impl Watch {
    /// Calls [`Handler::event`] with `token` while `fd` is ready for `interest`.
    ///
    /// # Errors
    /// The kernel's, if the descriptor cannot be watched (regular files cannot).
    pub fn add(&self, fd: &impl AsRawFd, token: u32, interest: EventSet) -> io::Result<()> {
        self.control(ControlOperation::Add, fd.as_raw_fd(), interest, FIRST_TOKEN + u64::from(token))
    }

    /// Changes what a watched descriptor is watched for.
    ///
    /// # Errors
    /// The kernel's, if it is not watched.
    pub fn change(&self, fd: &impl AsRawFd, token: u32, interest: EventSet) -> io::Result<()> {
        self.control(ControlOperation::Modify, fd.as_raw_fd(), interest, FIRST_TOKEN + u64::from(token))
    }

    /// Ends [`Watch::add`].
    ///
    /// # Errors
    /// The kernel's, if it is not watched.
    pub fn remove(&self, fd: &impl AsRawFd) -> io::Result<()> {
        self.control(ControlOperation::Delete, fd.as_raw_fd(), EventSet::empty(), 0)
    }

    fn control(
        &self,
        operation: ControlOperation,
        fd: RawFd,
        interest: EventSet,
        token: u64,
    ) -> io::Result<()> {
        self.0.ctl(operation, fd, EpollEvent::new(interest, token))
    }
}

enum Message {
    Start(Activation),
    Stop,
    Exit,
}

/// The front's end of a worker thread. Dropping it ends the thread.
pub struct Worker {
    messages: Sender<Message>,
    bell: EventFd,
    returned: Receiver<Vec<ActiveQueue>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a parked thread called `name` (the kernel keeps 15 bytes of it), under the system call filter of `kind`.
    ///
    /// # Errors
    /// The kernel's, if there is no thread or descriptor left.
    pub fn spawn(kind: Kind, name: &str, handler: impl Handler) -> io::Result<Self> {
        let (messages, inbox) = mpsc::channel();
        let (give_back, returned) = mpsc::channel();
        let bell = host::event_fd()?;
        let watch = Watch(Epoll::new()?);
        watch.control(ControlOperation::Add, bell.as_raw_fd(), EventSet::IN, CONTROL)?;
        let body = Body { handler, watch, bell: bell.try_clone()?, inbox, give_back, serving: None };
        let thread = sandbox::spawn(kind, name, move || body.run())?;
        Ok(Self { messages, bell, returned, thread: Some(thread) })
    }

    fn send(&self, message: Message) {
        // A worker that is gone has left its queues behind; `stopped` then answers with none.
        if self.messages.send(message).is_ok() {
            let _ = self.bell.write(1);
        }
    }

    fn receive(&self, wait: bool) -> Option<Vec<ActiveQueue>> {
        if wait {
            return Some(self.returned.recv().unwrap_or_default());
        }
        match self.returned.try_recv() {
            Ok(queues) => Some(queues),
            Err(mpsc::TryRecvError::Empty) => None,
            Err(mpsc::TryRecvError::Disconnected) => Some(Vec::new()),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.send(Message::Exit);
        if let Some(thread) = self.thread.take() {
            // A worker's panic was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

/// All workers of a device. Each owns the queues with certain indices.
pub struct Workers {
    workers: Vec<(Worker, Vec<u16>)>,
    /// Workers whose queues have not come back yet, by position, while the device runs or stops.
    pending: Vec<usize>,
    returned: Vec<ActiveQueue>,
}

impl Workers {
    /// `workers` with the indices of the queues each serves.
    pub fn new(workers: Vec<(Worker, Vec<u16>)>) -> Self {
        Self { workers, pending: Vec::new(), returned: Vec::new() }
    }

    /// Deals the queues out. See [`crate::VirtioDevice::start`].
    pub fn start(&mut self, activation: Activation) {
        let Activation { ram, features, mut queues, signals } = activation;
        self.pending.clear();
        for (position, (worker, indices)) in self.workers.iter().enumerate() {
            let (mine, rest): (Vec<_>, Vec<_>) = queues.into_iter().partition(|q| indices.contains(&q.index));
            queues = rest;
            if !mine.is_empty() {
                self.pending.push(position);
                let (ram, signals) = (ram.clone(), signals.clone());
                worker.send(Message::Start(Activation { ram, features, queues: mine, signals }));
            }
        }
        // Queues that nobody serves (a control queue without its feature) wait here.
        self.returned = queues;
    }

    /// Asks for the queues. See [`crate::VirtioDevice::stop`].
    pub fn stop(&mut self) {
        for position in &self.pending {
            if let Some((worker, _)) = self.workers.get(*position) {
                worker.send(Message::Stop);
            }
        }
    }

    /// Collects the queues. See [`crate::VirtioDevice::stopped`].
    pub fn stopped(&mut self, wait: bool) -> Option<Vec<ActiveQueue>> {
        let Self { workers, pending, returned } = self;
        pending.retain(|position| {
            let queues =
                workers.get(*position).map_or_else(|| Some(Vec::new()), |(worker, _)| worker.receive(wait));
            let missing = queues.is_none();
            returned.extend(queues.into_iter().flatten());
            missing
        });
        if !self.pending.is_empty() {
            return None;
        }
        let mut queues = std::mem::take(&mut self.returned);
        queues.sort_by_key(|q| q.index);
        Some(queues)
    }
}

struct Body<H> {
    handler: H,
    watch: Watch,
    bell: EventFd,
    inbox: Receiver<Message>,
    give_back: Sender<Vec<ActiveQueue>>,
    serving: Option<Serving>,
}

struct Serving {
    activation: Activation,
    broken: bool,
}

impl<H: Handler> Body<H> {
    fn run(mut self) {
        let mut ready = [EpollEvent::default(); 16];
        loop {
            let count = match self.watch.0.wait(-1, &mut ready) {
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    tracing::error!("A device thread cannot wait for events: {e}");
                    return;
                }
            };
            for event in ready.iter().take(count) {
                match event.data() {
                    CONTROL => {
                        if !self.read_mail() {
                            return;
                        }
                        // What else is ready may belong to queues that are gone now.
                        break;
                    }
                    data => self.serve(data, event.event_set()),
                }
            }
        }
    }

    /// Answers false when the thread is to end.
    fn read_mail(&mut self) -> bool {
        let _ = self.bell.read();
        while let Ok(message) = self.inbox.try_recv() {
            match message {
                Message::Start(activation) => self.start(activation),
                Message::Stop => self.stop(),
                Message::Exit => {
                    self.stop();
                    return false;
                }
            }
        }
        true
    }

    fn start(&mut self, activation: Activation) {
        let started =
            self.handler.start(&self.watch, &activation.ram, activation.features, &activation.signals);
        let watched = activation.queues.iter().enumerate().try_for_each(|(position, queue)| {
            self.watch.control(
                ControlOperation::Add,
                queue.kick.as_raw_fd(),
                EventSet::IN,
                position as u64,
            )?;
            // Buffers made available before the queue was watched have had their bell, or none.
            queue.kick.write(1)
        });
        self.serving = Some(Serving { activation, broken: false });
        if let Err(fault) = started.and(watched.map_err(Fault::from)) {
            self.fail(&fault);
        }
    }

    fn stop(&mut self) {
        let Some(Serving { mut activation, broken }) = self.serving.take() else { return };
        if !broken {
            self.quiet(&mut activation);
        }
        // The front is gone when the device is being dropped.
        let _ = self.give_back.send(activation.queues);
    }

    fn serve(&mut self, data: u64, ready: EventSet) {
        let Some(Serving { activation, broken }) = &mut self.serving else { return };
        if *broken {
            return;
        }
        let Activation { ram, queues, .. } = activation;
        let served = match data.checked_sub(FIRST_TOKEN) {
            Some(token) => self.handler.event(u32::try_from(token).unwrap_or(u32::MAX), ready, queues, ram),
            None => {
                let position = usize::try_from(data).unwrap_or(usize::MAX);
                queues
                    .get(position)
                    .map_or(Ok(()), |queue| {
                        let _ = queue.kick.read();
                        Ok(())
                    })
                    .and_then(|()| self.handler.queue(position, queues, ram))
            }
        };
        if let Err(fault) = served {
            self.fail(&fault);
        }
    }

    fn fail(&mut self, fault: &Fault) {
        let Some(Serving { mut activation, .. }) = self.serving.take() else { return };
        let thread = thread::current();
        tracing::warn!("{}: {fault}: the driver must reset the device", thread.name().unwrap_or("virtio"));
        self.quiet(&mut activation);
        activation.signals.needs_reset();
        self.serving = Some(Serving { activation, broken: true });
    }

    fn quiet(&mut self, activation: &mut Activation) {
        self.handler.stop(&self.watch, &mut activation.queues, &activation.ram);
        for queue in &activation.queues {
            // A queue of a device that failed to start may not be watched.
            let _ =
                self.watch.control(ControlOperation::Delete, queue.kick.as_raw_fd(), EventSet::empty(), 0);
        }
    }
}

#[cfg(test)]
mod tests;

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
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use host::{ControlOperation, Epoll, EpollEvent, EventFd, EventSet};
use memory::DmaView;
use sandbox::Profile;

use crate::{Activation, ActiveQueue, Fault, Signals};

/// What a handler works with, each time it is called.
pub struct Context<'a> {
    /// The queues it serves.
    pub queues: &'a mut [ActiveQueue],
    /// Guest RAM as it was when the thread woke.
    pub ram: &'a DmaView,
    /// What wakes the thread.
    pub watch: &'a Watch,
    /// For news to the driver that no queue carries.
    pub signals: &'a Arc<Signals>,
}

/// The worker half of a device: serves queues on a thread of its own.
pub trait Handler: Send + 'static {
    /// Queues have arrived, with the features that the driver accepted. Watch back-end descriptors here. Buffers may be waiting
    /// already; a bell rings once for each queue after this returns.
    ///
    /// # Errors
    /// A [`Fault`] breaks the device.
    fn start(&mut self, _context: &mut Context<'_>, _features: u64) -> Result<(), Fault> {
        Ok(())
    }

    /// The driver rang the bell of `context.queues[position]`.
    ///
    /// # Errors
    /// A [`Fault`] breaks the device.
    fn queue(&mut self, position: usize, context: &mut Context<'_>) -> Result<(), Fault>;

    /// A descriptor watched under `token` is ready.
    ///
    /// # Errors
    /// A [`Fault`] breaks the device.
    fn event(&mut self, _token: u32, _ready: EventSet, _context: &mut Context<'_>) -> Result<(), Fault> {
        Ok(())
    }

    /// The queues are about to go back: finish what is under way and stop watching descriptors.
    fn stop(&mut self, _context: &mut Context<'_>) {}
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

pub(crate) enum Message {
    Start(Activation),
    Stop,
    Exit,
}

/// How long a worker may take to finish what is under way.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(30);

/// The front's end of a worker thread. Dropping it ends the thread; [`crate::Workers`] ends several at once.
pub struct Worker {
    messages: Sender<Message>,
    bell: EventFd,
    returned: Receiver<Vec<ActiveQueue>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a parked thread called `name` (the kernel keeps 15 bytes of it), under the system call filter of `profile`.
    ///
    /// # Errors
    /// The kernel's, if there is no thread or descriptor left.
    pub fn spawn(profile: &'static Profile, name: &str, handler: impl Handler) -> io::Result<Self> {
        let (messages, inbox) = mpsc::channel();
        let (give_back, returned) = mpsc::channel();
        let bell = host::event_fd()?;
        let watch = Watch(Epoll::new()?);
        watch.control(ControlOperation::Add, bell.as_raw_fd(), EventSet::IN, CONTROL)?;
        let body = Body { handler, watch, bell: bell.try_clone()?, inbox, give_back, serving: None };
        let thread = sandbox::spawn(profile, name, move || body.run())?;
        Ok(Self { messages, bell, returned, thread: Some(thread) })
    }

    pub(crate) fn send(&self, message: Message) {
        // A worker that is gone has left its queues behind; `stopped` then answers with none.
        if self.messages.send(message).is_ok() {
            let _ = self.bell.write(1);
        }
    }

    pub(crate) fn receive(&self, deadline: Instant) -> Option<Vec<ActiveQueue>> {
        match self.returned.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(queues) => Some(queues),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Vec::new()),
        }
    }

    /// Waits for the thread's end after [`Message::Exit`]. One that does not come to it, because the host's storage hangs, is left to
    /// itself: it holds on to all that it uses.
    pub(crate) fn join(&mut self, deadline: Instant) {
        let Some(thread) = self.thread.take() else { return };
        loop {
            match self.returned.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                // Queues that nobody asked for any more.
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    let name = thread.thread().name().unwrap_or_default();
                    return tracing::error!(
                        "Thread {name} does not end: what it waits for on the host hangs"
                    );
                }
                // A worker's panic was reported by the panic hook.
                Err(RecvTimeoutError::Disconnected) => return drop(thread.join()),
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // If it has been in `Workers`, its thread has been waited for already.
        if self.thread.is_some() {
            self.send(Message::Exit);
            self.join(Instant::now() + STOP_LIMIT);
        }
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

/// What the worker found in its inbox.
enum Mail {
    None,
    QueuesMoved,
    Exit,
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
            let ready = ready.get(..count).unwrap_or_default();
            let called = ready.iter().any(|event| event.data() == CONTROL);
            match if called { self.read_mail() } else { Mail::None } {
                // The bell may ring for mail that was read before: an edge that came with it does not come again.
                Mail::None => self.serve_all(ready),
                // What else is ready belongs to queues that are gone; what was added since then comes in another batch.
                Mail::QueuesMoved => {}
                Mail::Exit => return,
            }
        }
    }

    fn read_mail(&mut self) -> Mail {
        let _ = self.bell.read();
        let mut mail = Mail::None;
        while let Ok(message) = self.inbox.try_recv() {
            mail = Mail::QueuesMoved;
            match message {
                Message::Start(activation) => self.start(activation),
                Message::Stop => self.stop(),
                Message::Exit => {
                    self.stop();
                    return Mail::Exit;
                }
            }
        }
        mail
    }

    fn start(&mut self, mut activation: Activation) {
        let features = activation.features;
        let ram = activation.ram.view();
        let started = self.handler.start(&mut context(&mut activation, &ram, &self.watch), features);
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
        activation.signals.queues_are_back();
    }

    /// Serves what is ready, with guest RAM as it is now.
    fn serve_all(&mut self, ready: &[EpollEvent]) {
        let Some(serving) = &self.serving else { return };
        let ram = serving.activation.ram.view();
        for event in ready.iter().filter(|event| event.data() != CONTROL) {
            let Some(Serving { activation, broken: false }) = &mut self.serving else { return };
            let mut context = context(activation, &ram, &self.watch);
            if let Err(fault) = serve(&mut self.handler, event, &mut context) {
                self.fail(&fault);
            }
        }
    }

    fn fail(&mut self, fault: &Fault) {
        let Some(Serving { mut activation, .. }) = self.serving.take() else { return };
        let thread = thread::current();
        tracing::warn!(target: "guest", "{}: {fault}: the driver must reset the device", thread.name().unwrap_or("virtio"));
        self.quiet(&mut activation);
        activation.signals.needs_reset();
        self.serving = Some(Serving { activation, broken: true });
    }

    fn quiet(&mut self, activation: &mut Activation) {
        let ram = activation.ram.view();
        self.handler.stop(&mut context(activation, &ram, &self.watch));
        for queue in &activation.queues {
            // A queue of a device that failed to start may not be watched.
            let _ =
                self.watch.control(ControlOperation::Delete, queue.kick.as_raw_fd(), EventSet::empty(), 0);
        }
    }
}

fn context<'a>(activation: &'a mut Activation, ram: &'a DmaView, watch: &'a Watch) -> Context<'a> {
    Context { queues: &mut activation.queues, ram, watch, signals: &activation.signals }
}

fn serve(handler: &mut impl Handler, event: &EpollEvent, context: &mut Context<'_>) -> Result<(), Fault> {
    let data = event.data();
    if let Some(token) = data.checked_sub(FIRST_TOKEN) {
        return handler.event(u32::try_from(token).unwrap_or(u32::MAX), event.event_set(), context);
    }
    let position = usize::try_from(data).unwrap_or(usize::MAX);
    let Some(queue) = context.queues.get(position) else { return Ok(()) };
    let _ = queue.kick.read();
    handler.queue(position, context)
}

#[cfg(test)]
mod tests;

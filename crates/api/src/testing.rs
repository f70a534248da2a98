//! For doors' tests (cargo feature `testing`): the API with nothing behind it but a loop that answers as the test wants.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use host::{ControlOperation, Epoll, EpollEvent, EventFd, EventSet};

use crate::{ApiError, Client, Code, Command, Counters, EventLog, Inbox, Reads, Stopped, VmInfo, VmmPing};

struct NoVm(Arc<EventLog>);

impl Reads for NoVm {
    fn vmm_ping(&self) -> VmmPing {
        VmmPing {
            build_version: "v54.0.0".into(),
            version: "54.0.0".into(),
            pid: 7,
            features: vec!["kvm".into()],
        }
    }

    fn vm_info(&self) -> Result<VmInfo, ApiError> {
        Err(ApiError::new(Code::VmNotCreated, ["VM is not created".into()]))
    }

    /// Larger than what a client reads at once.
    fn vm_counters(&self) -> Result<Counters, ApiError> {
        let counters: BTreeMap<_, _> = (0..100).map(|i| (format!("counter_{i}"), u64::MAX)).collect();
        Ok(Counters::from([("_disk0".into(), counters)]))
    }

    fn events(&self) -> &Arc<EventLog> {
        &self.0
    }
}

/// The channel of a VMM without a VM.
///
/// # Panics
/// There is no descriptor left.
pub fn fake_api() -> (Client, Inbox) {
    crate::channel(Arc::new(NoVm(EventLog::new()))).unwrap()
}

const QUIT: u64 = 1;

/// A control loop that answers every command through a function of the test's. It ends when dropped.
pub struct FakeLoop {
    thread: Option<JoinHandle<()>>,
    quit: Arc<EventFd>,
}

impl FakeLoop {
    /// Starts it.
    ///
    /// # Panics
    /// There is no descriptor left.
    pub fn new(inbox: Inbox, mut answer: impl FnMut(Command) + Send + 'static) -> Self {
        let quit = Arc::new(host::event_fd().unwrap());
        let epoll = Epoll::new().unwrap();
        for (fd, token) in [(inbox.wake_fd().as_raw_fd(), 0), (quit.as_raw_fd(), QUIT)] {
            epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, token)).unwrap();
        }
        let thread = std::thread::spawn(move || {
            loop {
                let mut events = [EpollEvent::default(); 2];
                let count = epoll.wait(-1, &mut events).unwrap();
                if events[..count].iter().any(|event| event.data() == QUIT) {
                    return;
                }
                inbox.clear_wake();
                while let Some(command) = inbox.next() {
                    answer(command);
                }
            }
        });
        Self { thread: Some(thread), quit }
    }
}

impl Drop for FakeLoop {
    fn drop(&mut self) {
        self.quit.write(1).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Lets what has no body to speak of succeed, and nothing else.
pub fn succeed(command: Command) {
    match command {
        Command::VmmShutdown { reply, .. } => reply.send(Ok(Stopped)),
        Command::VmCreate { reply, .. }
        | Command::VmBoot { reply, .. }
        | Command::VmDelete { reply, .. }
        | Command::VmShutdown { reply, .. }
        | Command::VmPause { reply, .. } => reply.send(Ok(())),
        other => {
            let what = other.verb().name.into();
            other.refuse(ApiError::new(Code::NotImplemented, [what]));
        }
    }
}

//! The thread `serial-manager`: waits for the stream and feeds its input to the UART.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use host::{ControlOperation, Epoll, EpollEvent, EventFd, EventSet};
use sandbox::{Profile, groups};
use stream::Stream;

use super::Shared;
use super::uart::WAITING;

const NAME: &str = "serial-manager";

/// What the thread asks of the host: it serves the stream and pulses the port's pin.
pub(super) static PROFILE: Profile =
    Profile::new("serial", &[groups::EPOLL, groups::STREAM, groups::KVM_PIN]);

const STREAM: u64 = 0;
const ROOM: u64 = 1;
const STOP: u64 = 2;

/// The thread. Dropping it ends it.
pub(super) struct Feeder {
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Feeder {
    pub(super) fn start(shared: Arc<Shared>, stream: Stream) -> io::Result<Self> {
        let stop = host::event_fd()?;
        let epoll = Epoll::new()?;
        for (fd, token) in
            [(stream.as_raw_fd(), STREAM), (shared.room.as_raw_fd(), ROOM), (stop.as_raw_fd(), STOP)]
        {
            epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, token))?;
        }
        let thread = sandbox::spawn(&PROFILE, NAME, move || run(&epoll, &shared, &stream))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        // A full counter stops it as well.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

fn run(epoll: &Epoll, shared: &Shared, stream: &Stream) {
    let mut ready = [EpollEvent::default(); 3];
    let mut longer_text = false;
    loop {
        let count = match epoll.wait(-1, &mut ready) {
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return tracing::error!("{NAME} cannot wait for input: {e}"),
        };
        if ready.iter().take(count).any(|event| event.data() == STOP) {
            return;
        }
        let _ = shared.room.read();
        longer_text = feed(shared, stream, longer_text);
    }
}

/// Passes input on. `continued` and the answer: the input before, or this one, filled all the room there was, so that what comes next
/// may belong to the same text.
fn feed(shared: &Shared, stream: &Stream, continued: bool) -> bool {
    let mut input = [0; WAITING];
    let room = shared.access(|core| core.room());
    let count = stream.service(input.get_mut(..room).unwrap_or_default());
    let Some(input) = input.get_mut(..count).filter(|input| !input.is_empty()) else {
        return continued && room == 0;
    };
    if let ([typed @ b'\n'], false, 2..) = (&mut *input, continued, room) {
        // Some guests take only a carriage return for the Enter key, and line-wise clients send the other.
        *typed = b'\r';
    }
    shared.access(|core| core.feed(input));
    count == room
}

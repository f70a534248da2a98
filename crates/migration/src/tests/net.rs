//! A network of socket pairs in which connections break and sides die at a chosen byte.

use std::any::Any;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::Duration;

use super::machine::World;
use crate::{Accept, Connection, Dial, Link, Watch};

/// A turn of waiting here.
const TURN: Duration = Duration::from_millis(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// All connections break; others can be made.
    Cut,
    /// All connections break, and the destination does not notice; others can be made.
    Half,
    /// All connections break; no others can be made.
    CutForGood,
    /// A process ends.
    Kill(Side),
    /// One bit of a byte is another.
    Flip,
}

/// `fault` happens when `side` has written this many bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) fault: Fault,
    pub(crate) side: Side,
    pub(crate) at: usize,
}

pub(crate) struct Net {
    pub(crate) world: Arc<World>,
    state: Mutex<State>,
    came: Condvar,
    direct: bool,
}

#[derive(Default)]
struct State {
    plan: Option<Plan>,
    listening: bool,
    down: bool,
    waiting: Vec<Arc<UnixStream>>,
    /// These come to a destination that has taken its first connection.
    late: Vec<Arc<UnixStream>>,
    live: Vec<Weak<UnixStream>>,
    /// The source's ends of connections that are broken for it alone, and how often that happened.
    kept: Vec<Arc<UnixStream>>,
    halved: usize,
    dialled: usize,
    /// Lengths of what was written, by side.
    written: [Vec<usize>; 2],
}

/// What unwinds a thread whose process is dead.
struct Death;

/// Runs a side until it ends, or until its process does.
pub(crate) fn until_death<T>(side: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(side)) {
        Ok(ended) => Some(ended),
        Err(payload) if payload.is::<Death>() => None,
        Err(payload) => resume_unwind(payload),
    }
}

pub(crate) fn die() -> ! {
    let death: Box<dyn Any + Send> = Box::new(Death);
    resume_unwind(death)
}

impl Net {
    pub(crate) fn new(world: Arc<World>) -> Arc<Self> {
        Self::with(world, None, true)
    }

    pub(crate) fn with(world: Arc<World>, plan: Option<Plan>, direct: bool) -> Arc<Self> {
        // Listening from the start, so that a source never comes too early.
        let state = Mutex::new(State { plan, listening: true, ..State::default() });
        Arc::new(Self { world, state, came: Condvar::new(), direct })
    }

    pub(crate) fn listener(self: &Arc<Self>) -> Box<dyn Accept> {
        Box::new(Listener(Arc::clone(self)))
    }

    pub(crate) fn dial(self: &Arc<Self>) -> Arc<dyn Dial> {
        Arc::new(Dialler(Arc::clone(self)))
    }

    /// Connections that were made.
    pub(crate) fn dialled(&self) -> usize {
        self.lock().dialled
    }

    /// Where each write of `side` ended.
    pub(crate) fn boundaries(&self, side: Side) -> Vec<usize> {
        let sum = |sum: &mut usize, len: &usize| {
            *sum += len;
            Some(*sum)
        };
        self.lock().written[side as usize].iter().scan(0, sum).collect()
    }

    /// A connection to the destination without a source behind it.
    pub(crate) fn raw(&self) -> UnixStream {
        let (near, far) = UnixStream::pair().unwrap();
        self.lock().waiting.push(Arc::new(far));
        near
    }

    /// The same, of somebody who comes later than the source.
    pub(crate) fn raw_behind_first(&self) -> UnixStream {
        let (near, far) = UnixStream::pair().unwrap();
        self.lock().late.push(Arc::new(far));
        near
    }

    /// The next connection of the source, without a destination behind it.
    pub(crate) fn take_raw(&self) -> Option<UnixStream> {
        let mut state = self.lock();
        (!state.waiting.is_empty()).then(|| state.waiting.remove(0).try_clone().unwrap())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn link(self: &Arc<Self>, stream: Arc<UnixStream>, side: Side) -> Box<dyn Link> {
        for set in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
            set(&stream, Some(TURN)).unwrap();
        }
        let halved = self.lock().halved;
        Box::new(FakeLink { net: Arc::clone(self), stream, side, halved })
    }

    fn happen(&self, state: &mut State, fault: Fault) {
        state.down |= fault == Fault::CutForGood;
        if let Fault::Kill(side) = fault {
            self.world.kill(side);
            state.listening &= side != Side::Destination;
        }
        if fault == Fault::Half {
            state.kept.extend(state.live.drain(..).filter_map(|stream| stream.upgrade()));
            state.halved += 1;
        }
        // Connections that nobody has taken yet stay where they are, broken.
        for stream in state.live.drain(..).filter_map(|stream| stream.upgrade()) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.came.notify_all();
    }
}

struct Dialler(Arc<Net>);

impl Dial for Dialler {
    fn dial(&self, watch: &Watch) -> io::Result<Connection> {
        self.0.world.live_on(Side::Source);
        let mut state = self.0.lock();
        if state.down {
            return Err(ErrorKind::HostUnreachable.into());
        }
        if !state.listening {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        let (near, far) = UnixStream::pair().unwrap();
        let (near, far) = (Arc::new(near), Arc::new(far));
        state.live.push(Arc::downgrade(&near));
        state.waiting.push(far);
        state.dialled += 1;
        drop(state);
        self.0.came.notify_all();
        Ok(Connection::new(self.0.link(near, Side::Source), watch.clone()))
    }
}

struct Listener(Arc<Net>);

impl Accept for Listener {
    fn accept(&mut self, watch: &Watch) -> io::Result<Option<Connection>> {
        self.0.world.live_on(Side::Destination);
        let mut state = self.0.lock();
        if state.waiting.is_empty() {
            state = self.0.came.wait_timeout(state, TURN).unwrap().0;
        }
        if state.waiting.is_empty() {
            return Ok(None);
        }
        let stream = state.waiting.remove(0);
        let late = std::mem::take(&mut state.late);
        state.waiting.extend(late);
        drop(state);
        Ok(Some(Connection::new(self.0.link(stream, Side::Destination), watch.clone())))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.listening = false;
        // Whoever was not accepted yet finds nobody there any more.
        state.waiting.clear();
    }
}

struct FakeLink {
    net: Arc<Net>,
    stream: Arc<UnixStream>,
    side: Side,
    /// When it was made.
    halved: usize,
}

impl FakeLink {
    fn is_broken(&self, state: &State) -> bool {
        self.side == Side::Source && self.halved != state.halved
    }
}

impl Read for FakeLink {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.net.world.live_on(self.side);
        if self.is_broken(&self.net.lock()) {
            return Err(ErrorKind::ConnectionReset.into());
        }
        let read = (&*self.stream).read(bytes);
        self.net.world.live_on(self.side);
        read
    }
}

impl Write for FakeLink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.net.world.live_on(self.side);
        let mut state = self.net.lock();
        if self.is_broken(&state) {
            return Err(ErrorKind::ConnectionReset.into());
        }
        let before: usize = state.written[self.side as usize].iter().sum();
        let plan = state.plan.filter(|plan| plan.side == self.side && before + bytes.len() >= plan.at);
        let whole = bytes.len();
        let mut bytes = bytes.to_vec();
        if let Some(Plan { fault, at, .. }) = plan {
            if fault == Fault::Flip {
                if let Some(byte) = at.checked_sub(before).and_then(|at| bytes.get_mut(at)) {
                    *byte ^= 1 << (at % 8);
                    state.plan = None;
                }
            } else {
                bytes.truncate(at.saturating_sub(before));
                state.plan = None;
                let _ = (&*self.stream).write_all(&bytes);
                self.net.happen(&mut state, fault);
                state.written[self.side as usize].push(bytes.len());
                drop(state);
                self.net.world.live_on(self.side);
                if fault == Fault::Half && self.side == Side::Destination {
                    // It does not notice, and goes on into the void.
                    return Ok(whole);
                }
                return Err(ErrorKind::BrokenPipe.into());
            }
        }
        let written = (&*self.stream).write(&bytes)?;
        state.written[self.side as usize].push(written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Link for FakeLink {
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.stream.as_fd())
    }

    fn witness(&self) -> u32 {
        u32::from(self.net.direct)
    }
}

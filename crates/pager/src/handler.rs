//! The thread that answers those who wait, and fills pages when nobody does.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::shared::{Order, Shared};
use crate::{PageSource, Prefault};

/// Bytes that are filled at once while nobody waits. Who begins to wait meanwhile waits for all of them.
const PIECE: usize = 256 << 10;
/// How many are answered before orders are looked at: a guest can touch and give back pages without end.
const BURST: usize = 64;
/// When a read that has failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

pub(crate) struct Handler<S> {
    shared: Arc<Shared>,
    source: S,
    epoll: Epoll,
    buffer: Vec<u8>,
    /// No page before this address is awaited: a page is never awaited again.
    from: u64,
    /// When the next piece may be filled.
    due: Instant,
    /// When reading is tried again, if it has failed.
    retry: Option<Instant>,
    /// Pages that somebody waits for in vain, with their sizes.
    late: BTreeMap<u64, u64>,
}

impl<S: PageSource> Handler<S> {
    pub(crate) fn new(shared: Arc<Shared>, source: S) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        for fd in [shared.ram.as_fd().as_raw_fd(), shared.bell.as_raw_fd()] {
            epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 0))?;
        }
        let (buffer, late) = (Vec::new(), BTreeMap::new());
        Ok(Self { shared, source, epoll, buffer, from: 0, due: Instant::now(), retry: None, late })
    }

    /// Works until all has come or it is told to stop.
    pub(crate) fn run(mut self) {
        loop {
            let order = self.shared.take_order();
            if order.stop {
                return;
            }
            if order.try_now || self.retry.is_some_and(|at| at <= Instant::now()) {
                self.try_again();
            }
            let busy = self.answer_waiting();
            let Some((first, _)) = self.shared.ram.next(self.from, PIECE) else { break };
            self.from = first;
            if self.is_due(&order) {
                self.fill_next(&order);
            }
            let timeout = if busy { Some(Duration::ZERO) } else { self.timeout(&order) };
            self.wait(timeout);
        }
        // Who waits now waits for a page of zeroes, and the kernel gives it.
        if let Err(error) = self.shared.ram.release() {
            tracing::warn!("Guest memory stays registered with userfaultfd: {error}");
        }
        self.shared.complete();
    }

    /// Answers some of those who wait, and says whether there may be more.
    fn answer_waiting(&mut self) -> bool {
        for _ in 0..BURST {
            match self.shared.ram.fault() {
                Ok(Some((base, len))) => self.answer(base, len),
                Ok(None) => return false,
                Err(error) => {
                    self.stall(&error);
                    return false;
                }
            }
        }
        true
    }

    /// Gives the page at `base` to those who wait for it, or keeps it in mind.
    fn answer(&mut self, base: u64, len: u64) {
        // While nothing can be read, pages that are not to come are answered all the same.
        let answered = match self.shared.ram.is_awaited(base) {
            true if self.retry.is_some() => {
                self.late.insert(base, len);
                return;
            }
            true => self.read_and_fill(base, len),
            false => Ok(0),
        };
        // Nothing was put if it is zero, or was given back meanwhile.
        let answered = answered.and_then(|put| if put == 0 { self.shared.ram.zero(base) } else { Ok(()) });
        if let Err(error) = answered {
            self.late.insert(base, len);
            self.stall(&error);
        }
    }

    /// Answers those who wait in vain, until reading fails again.
    fn try_again(&mut self) {
        self.retry = None;
        while let Some((base, len)) = self.late.pop_first() {
            self.answer(base, len);
            if self.retry.is_some() {
                return;
            }
        }
    }

    fn is_due(&self, order: &Order) -> bool {
        let wanted = !matches!(order.prefault, Prefault::Off | Prefault::Rate(0));
        let is_time = order.prefault == Prefault::Full || self.due <= Instant::now();
        wanted && is_time && self.retry.is_none()
    }

    /// Fills the first pages that are awaited.
    fn fill_next(&mut self, order: &Order) {
        let Some((base, len)) = self.shared.ram.next(self.from, PIECE) else { return };
        if let Err(error) = self.read_and_fill(base, len) {
            self.stall(&error);
        }
        if let Prefault::Rate(rate) = order.prefault {
            let nanos = u128::from(len) * 1_000_000_000 / u128::from(rate.max(1));
            self.due = Instant::now() + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        }
    }

    /// Reads `len` bytes for `base` and puts them there. Answers how many were put.
    fn read_and_fill(&mut self, base: u64, len: u64) -> io::Result<usize> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.buffer.resize(len, 0);
        self.source.read(base, &mut self.buffer)?;
        let put = self.shared.ram.fill(base, &self.buffer)?;
        self.shared.go_on();
        Ok(put)
    }

    fn stall(&mut self, error: &io::Error) {
        self.retry = Some(Instant::now() + RETRY);
        self.shared.stall(error.to_string());
    }

    /// How long nothing is to be done if nobody comes.
    fn timeout(&self, order: &Order) -> Option<Duration> {
        let prefault = match order.prefault {
            Prefault::Off | Prefault::Rate(0) => None,
            Prefault::Full => Some(Instant::now()),
            Prefault::Rate(_) => Some(self.due),
        };
        let next = self.retry.or(prefault)?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn wait(&self, timeout: Option<Duration>) {
        // Rounded up: a wait that is too short would be one after the other.
        let millis = |time: Duration| i32::try_from(time.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        let mut events = [EpollEvent::default(); 2];
        // A wait that is interrupted is begun again by the caller.
        let _ = self.epoll.wait(timeout.map_or(-1, millis), &mut events);
    }
}

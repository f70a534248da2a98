//! When the tap is worth a look.
//!
//! A worker lends its [`Watch`] only at start and stop, but interest in the tap comes and goes with the driver's buffers. So the tap is
//! watched by an epoll of its own, and the worker watches that one. Both are level-triggered.

use std::io;
use std::os::fd::AsRawFd;

use ::net::TapQueue;
use host::{ControlOperation, Epoll, EpollEvent, EventSet};
use virtio::Watch;

/// The tap's epoll.
pub(super) struct TapWatch {
    epoll: Epoll,
    /// What the tap is watched for; `None` if it is not, not even for errors.
    interest: Option<EventSet>,
}

impl TapWatch {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new()?, interest: None })
    }

    /// Calls the handler with `token` when `tap` is readable.
    pub(super) fn start(&mut self, watch: &Watch, token: u32, tap: &TapQueue) -> io::Result<()> {
        self.control(ControlOperation::Add, tap, EventSet::IN)?;
        self.interest = Some(EventSet::IN);
        watch.add(&self.epoll, token, EventSet::IN)
    }

    /// Ends [`TapWatch::start`].
    pub(super) fn stop(&mut self, watch: &Watch, tap: &TapQueue) {
        self.park(tap);
        // A start that failed half-way has not come to this.
        let _ = watch.remove(&self.epoll);
    }

    /// Whether `event` is waited for.
    pub(super) fn has(&self, event: EventSet) -> bool {
        self.interest.is_some_and(|interest| interest.contains(event))
    }

    /// Waits for `event` from now on, or no more. Does nothing while the tap is parked.
    pub(super) fn set(&mut self, tap: &TapQueue, event: EventSet, on: bool) -> io::Result<()> {
        let Some(mut interest) = self.interest else { return Ok(()) };
        interest.set(event, on);
        if self.interest != Some(interest) {
            self.control(ControlOperation::Modify, tap, interest)?;
            self.interest = Some(interest);
        }
        Ok(())
    }

    pub(super) fn is_parked(&self) -> bool {
        self.interest.is_none()
    }

    /// Whether the tap reports an error.
    pub(super) fn has_failed(&self) -> bool {
        let mut ready = [EpollEvent::default()];
        let count = self.epoll.wait(0, &mut ready).unwrap_or(0);
        ready
            .iter()
            .take(count)
            .any(|event| event.event_set().intersects(EventSet::ERROR | EventSet::HANG_UP))
    }

    /// Stops watching the tap altogether until the next start: errors cannot be masked otherwise.
    pub(super) fn park(&mut self, tap: &TapQueue) {
        if self.interest.take().is_some() {
            // It can only fail if the tap is not there, which is what is wanted.
            let _ = self.control(ControlOperation::Delete, tap, EventSet::empty());
        }
    }

    fn control(&self, operation: ControlOperation, tap: &TapQueue, interest: EventSet) -> io::Result<()> {
        self.epoll.ctl(operation, tap.as_raw_fd(), EpollEvent::new(interest, 0))
    }
}

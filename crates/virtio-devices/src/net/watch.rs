//! When the tap is worth a look: interest in it comes and goes with the driver's buffers.

use std::io;

use ::net::TapQueue;
use host::EventSet;
use virtio::Watch;

/// What a worker watches its tap for.
pub(super) struct TapWatch {
    token: u32,
    /// `None` if the tap is not watched, not even for errors.
    interest: Option<EventSet>,
}

impl TapWatch {
    pub(super) fn new(token: u32) -> Self {
        Self { token, interest: None }
    }

    /// Calls the handler when `tap` is readable.
    pub(super) fn start(&mut self, watch: &Watch, tap: &TapQueue) -> io::Result<()> {
        watch.add(tap, self.token, EventSet::IN)?;
        self.interest = Some(EventSet::IN);
        Ok(())
    }

    /// Whether `event` is waited for.
    pub(super) fn has(&self, event: EventSet) -> bool {
        self.interest.is_some_and(|interest| interest.contains(event))
    }

    /// Waits for `event` from now on, or no more. Does nothing while the tap is parked.
    pub(super) fn set(&mut self, watch: &Watch, tap: &TapQueue, event: EventSet, on: bool) -> io::Result<()> {
        let Some(mut interest) = self.interest else { return Ok(()) };
        interest.set(event, on);
        if self.interest != Some(interest) {
            watch.change(tap, self.token, interest)?;
            self.interest = Some(interest);
        }
        Ok(())
    }

    pub(super) fn is_parked(&self) -> bool {
        self.interest.is_none()
    }

    /// Stops watching the tap altogether until the next start: errors cannot be masked otherwise.
    pub(super) fn park(&mut self, watch: &Watch, tap: &TapQueue) {
        if self.interest.take().is_some() {
            // It can only fail if the tap is not there, which is what is wanted.
            let _ = watch.remove(tap);
        }
    }
}

//! Programs of the host's that the guest wants and that have too many clients waiting to be accepted. The guest waits with them: the
//! kernel tells nobody when there is room, so the clock tries again.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::packet::Header;
use super::table::Ports;

/// A request of the guest's that waits.
pub(super) struct Dial {
    pub(super) ports: Ports,
    pub(super) request: Header,
    deadline: Instant,
}

/// All of them, in the order in which they came.
#[derive(Default)]
pub(super) struct Dials(Vec<Dial>);

impl Dials {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn ports(&self) -> impl Iterator<Item = Ports> {
        self.0.iter().map(|dial| dial.ports)
    }

    pub(super) fn has(&self, ports: Ports) -> bool {
        self.ports().any(|other| other == ports)
    }

    /// Waits until `deadline`.
    pub(super) fn add(&mut self, ports: Ports, request: Header, deadline: Instant) {
        self.0.push(Dial { ports, request, deadline });
    }

    /// Waits no longer; false if it did not.
    pub(super) fn remove(&mut self, ports: Ports) -> bool {
        let before = self.0.len();
        self.0.retain(|dial| dial.ports != ports);
        self.0.len() < before
    }

    /// The thread has stood still: everybody gets the whole time.
    pub(super) fn resume(&mut self, deadline: Instant) {
        self.0.iter_mut().for_each(|dial| dial.deadline = deadline);
    }

    /// Tries all again, and takes out those that have got through, or never will.
    pub(super) fn retry(
        &mut self,
        now: Instant,
        mut dial: impl FnMut(u32) -> io::Result<UnixStream>,
    ) -> Vec<(Dial, io::Result<UnixStream>)> {
        let mut over = Vec::new();
        for waiting in std::mem::take(&mut self.0) {
            let dialled = dial(waiting.ports.local);
            let is_busy = dialled.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
            if is_busy && now < waiting.deadline {
                self.0.push(waiting);
            } else {
                over.push((waiting, dialled));
            }
        }
        over
    }
}

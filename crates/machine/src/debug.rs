//! Where control and a debugger's thread meet: control puts each machine on the [`DebugDesk`], and the thread takes it from there.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use device::{Event, Events};
use host::EventFd;

use crate::{Debugger, VcpuError};

/// The machine that can be debugged now. Neither side waits for the other.
pub struct DebugDesk {
    desk: Mutex<Desk>,
    changed: EventFd,
    events: Events,
}

struct Desk {
    machine: Option<Debugger>,
    /// Rises with each machine.
    number: u64,
    waits: bool,
    is_stopped: bool,
}

impl DebugDesk {
    /// Without a machine. `events` hears [`Event::News`] when a debugger stops a machine, or lets it go on.
    ///
    /// # Errors
    /// The kernel's, if there are no descriptors left.
    pub fn new(events: Events) -> io::Result<Self> {
        let desk = Desk { machine: None, number: 0, waits: true, is_stopped: false };
        Ok(Self { desk: Mutex::new(desk), changed: host::event_fd()?, events })
    }

    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        // A full counter wakes just as well.
        let _ = self.changed.write(1);
    }

    /// Takes in a machine that is to start next. It is held if it is to wait for a debugger.
    ///
    /// # Errors
    /// [`VcpuError`], if it cannot be held.
    pub fn take_in(&self, machine: Debugger) -> Result<(), VcpuError> {
        let mut desk = self.lock();
        if desk.waits {
            machine.stop()?;
        }
        desk.is_stopped = desk.waits;
        desk.machine = Some(machine);
        desk.number += 1;
        self.tell();
        Ok(())
    }

    /// The machine has other vCPUs, or is no more.
    pub fn update(&self, machine: Option<Debugger>) {
        let mut desk = self.lock();
        if machine.is_some() || desk.machine.is_some() {
            desk.is_stopped &= machine.is_some();
            desk.machine = machine;
            self.tell();
        }
    }

    /// Whether the guest stands still because of a debugger, or because it waits for one.
    pub fn is_stopped(&self) -> bool {
        self.lock().is_stopped
    }

    /// The machine and its number, which no other has.
    pub fn machine(&self) -> Option<(u64, Debugger)> {
        let desk = self.lock();
        desk.machine.clone().map(|machine| (desk.number, machine))
    }

    /// For the debugger: whether machines that come wait for one. They do until somebody has had enough of debugging.
    pub fn set_waits(&self, waits: bool) {
        self.lock().waits = waits;
    }

    /// For the debugger: whether it holds the machine with this number.
    pub fn set_stopped(&self, number: u64, is_stopped: bool) {
        let mut desk = self.lock();
        if desk.number == number {
            desk.is_stopped = is_stopped;
            self.events.raise(Event::News);
        }
    }

    /// Readable when there is something else on the desk.
    pub fn changed_fd(&self) -> &EventFd {
        &self.changed
    }

    /// Makes [`DebugDesk::changed_fd`] unreadable until there is something else again.
    pub fn clear_change(&self) {
        // It was not readable.
        let _ = self.changed.read();
    }
}

/// Who hears that vCPUs have come where a debugger wants them.
pub struct DebugStops {
    stopped: Mutex<Vec<u32>>,
    wake: EventFd,
}

impl DebugStops {
    /// None yet.
    ///
    /// # Errors
    /// The kernel's, if there are no descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { stopped: Mutex::default(), wake: host::event_fd()? })
    }

    pub(crate) fn report(&self, vcpu: u32) {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner).push(vcpu);
        // A full counter wakes just as well.
        let _ = self.wake.write(1);
    }

    /// The numbers of those that have come, in order, each time they have come. They are held.
    pub fn take(&self) -> Vec<u32> {
        // It was not readable.
        let _ = self.wake.read();
        std::mem::take(&mut *self.stopped.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Readable when one has come.
    pub fn wake_fd(&self) -> &EventFd {
        &self.wake
    }
}

//! Guest memory that the host does not have any more ([`memory::missing`]): a guest that has lost some must not go on, and one whose
//! files have become shorter may come no further.

use std::time::{Duration, Instant};

use api::{ApiError, Code};
use device::Events;
use machine::Machine;
use memory::missing::{Missing, Shortened};

use crate::{Control, Ended};

/// How often files behind guest memory are looked at: nobody tells when others make them shorter.
const INTERVAL: Duration = Duration::from_secs(5);

/// When files behind guest memory are looked at next; `None` while there are none.
#[derive(Debug, Default)]
pub(crate) struct NextLook(pub(crate) Option<Instant>);

/// Sees to it that memory which is missing from now on is told of through `events`. Jobs fill memory before there is a machine.
pub(crate) fn expect(events: &Events) {
    if let Err(error) = events.wake_fd().try_clone().and_then(memory::missing::report_to) {
        tracing::warn!("Guest memory that turns out to be missing will end this process by SIGBUS: {error}");
    }
}

impl Control {
    /// Ends the loop if the machine has lost memory.
    pub(crate) fn look_for_missing(&mut self) -> Result<(), Ended> {
        let missing = self.machine().map(|machine| machine.take_missing()).unwrap_or_default();
        for Missing { memory, .. } in &missing {
            self.events.record("vm", "memory-missing", &[("memory", memory)]);
        }
        missing.first().map_or(Ok(()), |missing| Err(Ended::Memory(text(missing))))
    }

    /// Tells of files that have become too short, if it is time to look.
    pub(crate) fn look_at_files(&mut self, now: Instant) {
        if self.next_look.0.is_none_or(|at| now < at) {
            return;
        }
        self.plan_next_look(now);
        let shortened = self.machine().map(|machine| machine.take_shortened()).unwrap_or_default();
        for Shortened { memory, needed, found } in shortened {
            tracing::error!(
                "{memory} has {found} bytes now, and the guest needs {needed}: if it touches what is missing, it may come no further, or the \
                 VM ends; give the file its size back, or end the VM"
            );
            self.events.record("vm", "memory-file-shortened", &[("memory", &memory)]);
        }
    }

    /// Files are looked at again in a while, if there are any.
    pub(crate) fn plan_next_look(&mut self, now: Instant) {
        let has_files = self.machine().is_some_and(|machine| machine.has_files_behind_memory());
        self.next_look.0 = has_files.then_some(now + INTERVAL);
    }
}

/// Refuses a machine that was built from memory the host does not have.
pub(crate) fn check_built(machine: &Machine) -> Result<(), ApiError> {
    let missing = machine.take_missing();
    missing.first().map_or(Ok(()), |missing| Err(ApiError::new(Code::InvalidConfig, [text(missing)])))
}

fn text(Missing { memory, offset }: &Missing) -> String {
    format!(
        "The host has nothing behind {memory} at offset {offset:#x}: the file is too short, its file system is full, or the host's huge \
         pages have run out"
    )
}

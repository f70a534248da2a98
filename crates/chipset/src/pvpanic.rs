//! The pvpanic event register: a guest kernel's last message (`spec/devices.md` §10; `spec/events.md`). The PCI function around it
//! forwards the accesses to its BAR; vCPUs enter it.

mod function;

use device::Events;
use sandbox::Profile;

pub use function::{PvpanicFunction, build};

/// It has no thread.
pub static PROFILES: &[&Profile] = &[];

/// Bytes of the register.
pub const LEN: u64 = 2;

const PANICKED: u8 = 1;
const CRASH_LOADED: u8 = 2;

/// What a guest reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicEvent {
    /// The kernel panicked.
    Panic,
    /// The kernel panicked, and a crash kernel takes over.
    CrashLoaded,
    /// Something this program does not know.
    Unknown,
}

impl PanicEvent {
    /// Its name in the event monitor.
    pub fn name(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::CrashLoaded => "crash_loaded",
            Self::Unknown => "unknown_event",
        }
    }

    /// Tells the event monitor.
    pub fn report(self, events: &Events) {
        events.record("guest", "panic", &[("event", self.name())]);
    }
}

/// The register. No state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pvpanic;

impl Pvpanic {
    /// Reads give the events that may be reported.
    pub fn read(self, offset: u64, data: &mut [u8]) {
        if let (0, Some((first, rest))) = (offset, data.split_first_mut()) {
            *first = PANICKED | CRASH_LOADED;
            rest.fill(0);
        }
    }

    /// Writes report one.
    #[must_use]
    pub fn write(self, offset: u64, data: &[u8]) -> Option<PanicEvent> {
        let code = data.first().filter(|_| offset == 0)?;
        Some(match *code {
            PANICKED => PanicEvent::Panic,
            CRASH_LOADED => PanicEvent::CrashLoaded,
            _ => PanicEvent::Unknown,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    use device::{EventSink, Record};

    #[derive(Default)]
    struct Records(Mutex<Vec<Record>>);

    impl EventSink for Records {
        fn record(&self, record: Record) {
            self.0.lock().unwrap().push(record);
        }
    }

    #[test]
    fn the_supported_events_are_read() {
        let mut data = [0xff; 2];
        Pvpanic.read(0, &mut data);
        assert_eq!(data, [3, 0]);
        Pvpanic.read(1, &mut data);
        assert_eq!(data, [3, 0]);
        Pvpanic.read(0, &mut []);
    }

    #[test]
    fn events_reach_the_monitor_by_name() {
        let sink = Arc::new(Records::default());
        let events = Events::new(sink.clone()).unwrap();
        for code in [1, 2, 3] {
            Pvpanic.write(0, &[code, 0]).unwrap().report(&events);
        }
        assert_eq!(Pvpanic.write(1, &[1]), None);
        assert_eq!(Pvpanic.write(0, &[]), None);
        let names: Vec<_> =
            sink.0.lock().unwrap().iter().map(|r| (r.source, r.event, r.properties[0].1.clone())).collect();
        let named = |name: &str| ("guest", "panic", name.to_owned());
        assert_eq!(names, [named("panic"), named("crash_loaded"), named("unknown_event")]);
    }
}

//! The event monitor (`spec/events.md`): every record is logged, kept for the doors' readers, and written to a file by a thread of its own,
//! so that a slow reader never slows the VM. What a guest can report at will is reported as often as people can read.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use api::{EventLog, EventRecord, Timestamp};
use device::{EventSink, Record};
use host::allowance::Allowance;
use host::outlet::Outlet;
use sandbox::Profile;

/// Records that may wait for a slow reader; more are lost, as `spec/events.md` §2 allows.
const BACKLOG: usize = 1024;
/// Records that a guest may cause at once: many devices start together.
const GUEST_BURST: u32 = 1024;
/// Records that a guest may cause in the long run.
const GUEST_PER_SECOND: u32 = 32;

/// The writer of the event file needs nothing besides what every thread does.
pub(crate) static PROFILE: Profile = Profile::new("event-monitor", &[]);

/// Takes records from every thread.
pub struct Monitor {
    start: Instant,
    log: Arc<EventLog>,
    guest: Mutex<Allowance>,
    writer: Option<Writer>,
}

struct Writer {
    records: Option<SyncSender<Arc<EventRecord>>>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// A monitor that writes to `file`, if there is one, and to `log` in any case. Timestamps count from now.
    ///
    /// # Errors
    /// The kernel's, if there is no thread left.
    pub fn new(file: Option<Outlet>, log: Arc<EventLog>) -> io::Result<Self> {
        let start = Instant::now();
        let guest = Mutex::new(Allowance::new(GUEST_BURST, GUEST_PER_SECOND, start));
        Ok(Self { start, log, guest, writer: file.map(Writer::start).transpose()? })
    }

    /// Whether a record that a guest has caused may be told, and how many were not before it.
    fn admit_guest(&self, now: Instant) -> bool {
        let mut guest = self.guest.lock().unwrap_or_else(PoisonError::into_inner);
        let (refused, is_admitted) = (guest.refused(now), guest.take(now));
        drop(guest);
        if let Some(refused) = refused {
            tracing::warn!("{refused} events that the guest has caused were left out: there were too many");
        }
        is_admitted
    }
}

impl EventSink for Monitor {
    fn record(&self, record: Record) {
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(self.start);
        let Record { source, event, properties } = record;
        let told: String = properties.iter().map(|(key, value)| format!(" {key} = {value}")).collect();
        let properties: BTreeMap<_, _> = properties.into_iter().collect();
        let record = EventRecord {
            timestamp: Timestamp { secs: elapsed.as_secs(), nanos: elapsed.subsec_nanos() },
            source,
            event,
            properties: (!properties.is_empty()).then_some(properties),
        };
        if record.is_guest_caused() && !self.admit_guest(now) {
            return;
        }
        tracing::info!("Event: source = {source} event = {event} {told}");
        let record = Arc::new(record);
        self.log.push(record.clone());
        if let Some(records) = self.writer.as_ref().and_then(|writer| writer.records.as_ref()) {
            // A full backlog means nobody reads: the record is lost.
            let _ = records.try_send(record);
        }
    }
}

impl Writer {
    fn start(file: Outlet) -> io::Result<Self> {
        let (records, inbox) = mpsc::sync_channel(BACKLOG);
        let thread = sandbox::spawn_within(&PROFILE, "event-monitor", &[], move || write_all(file, &inbox))?;
        Ok(Self { records: Some(records), thread: Some(thread) })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The thread writes what waits and ends when nobody can send any more.
        self.records = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write_all(mut file: Outlet, inbox: &Receiver<Arc<EventRecord>>) {
    let mut lost: u64 = 0;
    for record in inbox {
        let Ok(mut text) = serde_json::to_string_pretty(&*record) else { continue };
        text.push_str("\n\n");
        if !file.put(text.as_bytes()) {
            lost += 1;
        } else if lost > 0 {
            tracing::warn!(
                "{lost} events did not reach the event monitor's reader: it was too slow, or gone"
            );
            lost = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;

    #[test]
    fn a_guest_that_reports_without_end_is_not_listened_to() {
        let log = EventLog::new();
        let monitor = Monitor::new(None, log.clone()).unwrap();
        let record = |source, event| monitor.record(Record { source, event, properties: Vec::new() });
        record("vm", "booted");
        (0..100 * GUEST_BURST).for_each(|_| record("guest", "panic"));
        record("vm", "paused");
        let counts = log.counts();
        assert_eq!((counts[&("vm", "booted")], counts[&("vm", "paused")]), (1, 1));
        let panics = counts[&("guest", "panic")];
        assert!((GUEST_BURST.into()..50 * u64::from(GUEST_BURST)).contains(&panics), "{panics}");
    }

    #[test]
    fn records_are_json_values_with_a_blank_line_between() {
        let file = tempfile::tempfile().unwrap();
        let mut read = file.try_clone().unwrap();
        let log = EventLog::new();
        let monitor = Monitor::new(Some(Outlet::shared(file.as_fd()).unwrap()), log.clone()).unwrap();
        monitor.record(Record { source: "vm", event: "booting", properties: Vec::new() });
        let properties = vec![("id", "_disk0".to_owned())];
        monitor.record(Record { source: "virtio-device", event: "activated", properties });
        drop(monitor);
        assert_eq!(
            log.counts().into_keys().collect::<Vec<_>>(),
            [("virtio-device", "activated"), ("vm", "booting")]
        );
        let mut text = String::new();
        io::Seek::rewind(&mut read).unwrap();
        read.read_to_string(&mut text).unwrap();
        let records: Vec<&str> = text.split_terminator("\n\n").collect();
        assert_eq!(records.len(), 2);
        let shape = "{\n  \"timestamp\": {\n    \"secs\": 0,\n    \"nanos\": ";
        assert!(records[0].starts_with(shape), "{}", records[0]);
        let tail = ",\n  \"source\": \"vm\",\n  \"event\": \"booting\",\n  \"properties\": null\n}";
        assert!(records[0].replace("\n  },", ",").ends_with(tail), "{}", records[0]);
        assert!(records[1].contains("\"properties\": {\n    \"id\": \"_disk0\"\n  }"), "{}", records[1]);
    }
}

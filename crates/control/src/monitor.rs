//! The event monitor (`spec/events.md`): every record is logged, kept for the doors' readers, and written to a file by a thread of its own,
//! so that a slow reader never slows the VM.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::JoinHandle;
use std::time::Instant;

use api::{EventLog, EventRecord, Timestamp};
use device::{EventSink, Record};
use sandbox::Kind;

/// Records that may wait for a slow reader; more are lost, as `spec/events.md` §2 allows.
const BACKLOG: usize = 1024;

/// Takes records from every thread.
pub struct Monitor {
    start: Instant,
    log: Arc<EventLog>,
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
    /// The kernel's, if there is no thread left or the descriptor cannot be made non-blocking.
    pub fn new(file: Option<File>, log: Arc<EventLog>) -> io::Result<Self> {
        Ok(Self { start: Instant::now(), log, writer: file.map(Writer::start).transpose()? })
    }
}

impl EventSink for Monitor {
    fn record(&self, record: Record) {
        let elapsed = self.start.elapsed();
        let Record { source, event, properties } = record;
        let told: String = properties.iter().map(|(key, value)| format!(" {key} = {value}")).collect();
        tracing::info!("Event: source = {source} event = {event} {told}");
        let properties: BTreeMap<_, _> = properties.into_iter().collect();
        let record = Arc::new(EventRecord {
            timestamp: Timestamp { secs: elapsed.as_secs(), nanos: elapsed.subsec_nanos() },
            source,
            event,
            properties: (!properties.is_empty()).then_some(properties),
        });
        self.log.push(record.clone());
        if let Some(records) = self.writer.as_ref().and_then(|writer| writer.records.as_ref()) {
            // A full backlog means nobody reads: the record is lost.
            let _ = records.try_send(record);
        }
    }
}

impl Writer {
    fn start(file: File) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&file, true)?;
        let (records, inbox) = mpsc::sync_channel(BACKLOG);
        let thread =
            sandbox::spawn_within(Kind::EventMonitor, "event-monitor", &[], move || write_all(file, &inbox))?;
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

fn write_all(mut file: File, inbox: &Receiver<Arc<EventRecord>>) {
    for record in inbox {
        if let Ok(mut text) = serde_json::to_string_pretty(&*record) {
            text.push_str("\n\n");
            // A reader that is slow or gone loses the record.
            let _ = file.write_all(text.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn records_are_json_values_with_a_blank_line_between() {
        let file = tempfile::tempfile().unwrap();
        let mut read = file.try_clone().unwrap();
        let log = EventLog::new();
        let monitor = Monitor::new(Some(file), log.clone()).unwrap();
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

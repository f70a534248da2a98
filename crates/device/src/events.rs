//! What those above must hear of: bits and an eventfd for the control loop, records for the event monitor.
//!
//! Nothing here ever waits, so a vCPU never blocks on the control thread while that waits for the vCPU.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use host::EventFd;

/// What the control loop must look after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Event {
    /// The guest asked for a reset, or its CPU shut down.
    Reset = 1,
    /// The guest switched itself off.
    PowerOff = 2,
    /// A thread that the machine cannot do without has failed.
    Fatal = 4,
    /// Something that control asked for and did not wait for has come to its end: a device that was late to hold still, a job.
    News = 8,
    /// The guest has let go of a device that it was asked for.
    Ejected = 16,
}

/// One record for the event monitor (`spec/events.md` §2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who reports: `vmm`, `vm`, `guest` or `virtio-device`.
    pub source: &'static str,
    /// What happened.
    pub event: &'static str,
    /// Details, in the order they are written.
    pub properties: Vec<(&'static str, String)>,
}

/// Where records go. Must not wait.
pub trait EventSink: Send + Sync {
    /// Takes one record.
    fn record(&self, record: Record);
}

/// The handle devices and vCPU threads report through. Cloning shares it.
#[derive(Clone)]
pub struct Events {
    bits: Arc<AtomicU32>,
    wake: Arc<EventFd>,
    sink: Arc<dyn EventSink>,
}

impl Events {
    /// News goes to `sink` (records) and to whoever polls [`Events::wake_fd`] (bits).
    ///
    /// # Errors
    /// The kernel's, if there is no descriptor left.
    pub fn new(sink: Arc<dyn EventSink>) -> io::Result<Self> {
        Ok(Self { bits: Arc::default(), wake: Arc::new(host::event_fd()?), sink })
    }

    /// Sets a bit and wakes the control loop.
    pub fn raise(&self, event: Event) {
        self.bits.fetch_or(event as u32, Ordering::SeqCst);
        // The only failure is a full counter, and then the loop is awake anyway.
        let _ = self.wake.write(1);
    }

    /// Takes the bits set since the last call.
    pub fn take(&self) -> EventBits {
        let _ = self.wake.read();
        EventBits(self.bits.swap(0, Ordering::SeqCst))
    }

    /// Readable while bits wait to be taken.
    pub fn wake_fd(&self) -> &EventFd {
        &self.wake
    }

    /// Passes a record on.
    pub fn record(&self, source: &'static str, event: &'static str, properties: &[(&'static str, &str)]) {
        let properties = properties.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        self.sink.record(Record { source, event, properties });
    }
}

/// Bits taken from [`Events`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventBits(u32);

impl EventBits {
    /// Whether `event` was raised.
    pub fn has(self, event: Event) -> bool {
        self.0 & event as u32 != 0
    }
}

/// For tests: records that nobody reads.
#[derive(Clone, Copy, Debug)]
pub struct NoSink;

impl EventSink for NoSink {
    fn record(&self, _: Record) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_taken_once() {
        let events = Events::new(Arc::new(NoSink)).unwrap();
        events.raise(Event::Reset);
        events.raise(Event::PowerOff);
        let bits = events.take();
        assert!(bits.has(Event::Reset) && bits.has(Event::PowerOff) && !bits.has(Event::Fatal));
        assert_eq!(events.take(), EventBits(0));
    }
}

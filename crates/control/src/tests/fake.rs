//! A kernel that could be loaded, and a control loop around a fake hypervisor.

use std::io::Write;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use api::{Answer, ApiError, Client, EventLog, Outcome, Verb, VmmPing};
use device::{EventSink, Events, Record};
use host::signals::Signals;
use hv::fake::FakeHypervisor;
use hv::{Error, Hypervisor};

use crate::{Control, Ended, Options, Published};

/// A kernel in a file.
pub(super) fn kernel() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&boot::fake::kernel()).unwrap();
    file
}

/// Remembers the names of records: `source/event`.
#[derive(Default)]
struct Names(Mutex<Vec<String>>);

impl EventSink for Names {
    fn record(&self, record: Record) {
        self.0.lock().unwrap().push(format!("{}/{}", record.source, record.event));
    }
}

/// A control loop on a thread of its own.
pub(super) struct Rig {
    pub(super) client: Client,
    pub(super) events: Events,
    names: Arc<Names>,
    thread: Option<JoinHandle<Result<(), Ended>>>,
}

impl Rig {
    pub(super) fn new(options: Options) -> Self {
        Self::opening(options, || Ok(Arc::new(FakeHypervisor::default())))
    }

    /// With a hypervisor that is opened by `open`, on the loop's thread.
    pub(super) fn opening(
        options: Options,
        open: impl Fn() -> Result<Arc<dyn Hypervisor>, Error> + Send + 'static,
    ) -> Self {
        let ping =
            VmmPing { build_version: String::new(), version: String::new(), pid: 1, features: Vec::new() };
        let published = Published::new(ping, EventLog::new());
        let (client, inbox) = api::channel(published.clone()).unwrap();
        let names = Arc::new(Names::default());
        let events = Events::new(names.clone()).unwrap();
        let mine = events.clone();
        let thread = std::thread::spawn(move || {
            let control = Control::new(inbox, mine, published, Box::new(open), options);
            control.run(&Signals::take().unwrap())
        });
        Self { client, events, names, thread: Some(thread) }
    }

    /// Calls a verb as a door does.
    pub(super) fn call(&self, verb: &str, body: &str) -> Result<Answer, ApiError> {
        self.start(verb, body).recv().unwrap()
    }

    /// As [`Rig::call`], without waiting.
    pub(super) fn start(&self, verb: &str, body: &str) -> mpsc::Receiver<Result<Answer, ApiError>> {
        let (sender, outcome) = mpsc::channel();
        let done = move |outcome: Outcome| sender.send(outcome.result).unwrap();
        Verb::find(verb).unwrap().call(&self.client, body.as_bytes(), done);
        outcome
    }

    pub(super) fn ok(&self, verb: &str, body: &str) {
        self.call(verb, body).unwrap_or_else(|e| panic!("{verb}: {e}"));
    }

    /// What `vm.info` says of the state, or nothing without a VM.
    pub(super) fn state(&self) -> Option<api::VmState> {
        self.client.reads().vm_info().ok().map(|info| info.state)
    }

    pub(super) fn wait_for(&self, what: impl Fn(&Self) -> bool) {
        while !what(self) {
            std::thread::yield_now();
        }
    }

    pub(super) fn records(&self) -> Vec<String> {
        self.names.0.lock().unwrap().clone()
    }

    /// Waits for the loop to end by itself.
    pub(super) fn join(&mut self) -> Result<(), Ended> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            drop(self.call("vmm.shutdown", ""));
            drop(thread.join());
        }
    }
}

//! What reads answer from, on the doors' own threads: a copy that control publishes whenever something has changed.

use std::sync::Arc;

use api::{ApiError, Code, Counters, EventLog, Reads, State, VmInfo, VmmPing};
use arc_swap::ArcSwap;

/// Reads the devices' counters.
pub(crate) type CounterReader = Arc<dyn Fn() -> Counters + Send + Sync>;

/// The VM as doors see it.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) state: State,
    pub(crate) info: Option<VmInfo>,
    pub(crate) counters: Option<CounterReader>,
}

/// The published copy.
pub struct Published {
    ping: VmmPing,
    shown: ArcSwap<Shown>,
    events: Arc<EventLog>,
}

impl Published {
    /// No VM yet. `ping` is what `vmm.ping` answers, `events` what has happened.
    pub fn new(ping: VmmPing, events: Arc<EventLog>) -> Arc<Self> {
        let nothing = Shown { state: State::None, info: None, counters: None };
        Arc::new(Self { ping, shown: ArcSwap::from_pointee(nothing), events })
    }

    pub(crate) fn publish(&self, shown: Shown) {
        self.shown.store(Arc::new(shown));
    }
}

impl Reads for Published {
    fn vmm_ping(&self) -> VmmPing {
        self.ping.clone()
    }

    fn vm_info(&self) -> Result<VmInfo, ApiError> {
        let missing = || ApiError::new(Code::VmNotCreated, ["VM is not created".into()]);
        self.shown.load().info.clone().ok_or_else(missing)
    }

    fn vm_counters(&self) -> Result<Counters, ApiError> {
        let shown = self.shown.load();
        match (&shown.counters, shown.state) {
            (Some(read), _) => Ok(read()),
            (None, State::None) => Err(ApiError::new(Code::VmNotCreated, ["VM is not created".into()])),
            (None, _) => Err(ApiError::new(Code::IllegalState, ["VM is not running".into()])),
        }
    }

    fn events(&self) -> &Arc<EventLog> {
        &self.events
    }
}

//! What reads answer from, on the doors' own threads: a copy that control publishes whenever something has changed.

use std::sync::Arc;

use api::{ApiError, Code, Counters, EventLog, Jobs, Meters, Reads, State, VmInfo, VmmPing};
use arc_swap::ArcSwap;
use machine::Readings;

use crate::jobs::Board;

/// The VM as doors see it.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) state: State,
    pub(crate) info: Option<VmInfo>,
    pub(crate) readings: Option<Arc<Readings>>,
}

/// The published copy.
pub struct Published {
    ping: VmmPing,
    shown: ArcSwap<Shown>,
    events: Arc<EventLog>,
    jobs: Arc<Board>,
}

impl Published {
    /// No VM yet. `ping` is what `vmm.ping` answers, `events` what has happened.
    pub fn new(ping: VmmPing, events: Arc<EventLog>) -> Arc<Self> {
        let nothing = Shown { state: State::None, info: None, readings: None };
        Arc::new(Self { ping, shown: ArcSwap::from_pointee(nothing), events, jobs: Arc::default() })
    }

    pub(crate) fn jobs(&self) -> &Arc<Board> {
        &self.jobs
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
        let shown = self.shown.load();
        let mut info = shown.info.clone().ok_or_else(missing)?;
        if let Some(readings) = &shown.readings {
            // A balloon changes it all the time, and nobody tells control.
            info.memory_actual_size = readings.ram_size();
        }
        Ok(info)
    }

    fn vm_counters(&self) -> Result<Counters, ApiError> {
        let shown = self.shown.load();
        match (&shown.readings, shown.state) {
            (Some(readings), _) => Ok(readings.counters()),
            (None, State::None) => Err(ApiError::new(Code::VmNotCreated, ["VM is not created".into()])),
            (None, _) => Err(ApiError::new(Code::IllegalState, ["VM is not running".into()])),
        }
    }

    fn vm_jobs(&self) -> Jobs {
        self.jobs.read()
    }

    fn vm_meters(&self) -> Option<Meters> {
        self.shown.load().readings.as_ref().map(|readings| readings.meters())
    }

    fn events(&self) -> &Arc<EventLog> {
        &self.events
    }
}

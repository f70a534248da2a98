//! The watchdog's life cycle, as the transport sees it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use device::{Events, Persist, RestoreError};
use serde::{Deserialize, Serialize};
use virtio::{Info, QueueServer, VirtioDevice, Worker, Workers};

use super::worker::Vigil;
use super::{PROFILE, Timing};

const DEVICE_TYPE: u16 = 35;
const QUEUE_SIZE: u16 = 8;

/// Whether the guest has begun to ping. When it last did is the host's time, and starts anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub(super) armed: bool,
}

/// The front half of a watchdog.
pub struct Front {
    info: Info,
    /// Shared with the worker, which arms it.
    armed: Arc<AtomicBool>,
    workers: Workers,
}

impl Front {
    pub(super) fn new(id: &str, events: Events, timing: Timing) -> io::Result<Self> {
        let armed = Arc::<AtomicBool>::default();
        let worker = Worker::spawn(&PROFILE, id, Vigil::new(events, timing, armed.clone())?)?;
        let workers = Workers::new(vec![(worker, vec![0])]);
        let id = id.into();
        let info =
            Info { id, device_type: DEVICE_TYPE, queue_sizes: vec![QUEUE_SIZE], features: 0, config_len: 0 };
        Ok(Self { info, armed, workers })
    }
}

impl VirtioDevice for Front {
    fn info(&self) -> &Info {
        &self.info
    }

    fn server(&mut self) -> &mut dyn QueueServer {
        &mut self.workers
    }

    fn read_config(&self, _: u64, _: &mut [u8]) {}

    fn reset(&mut self) {
        self.armed.store(false, Ordering::SeqCst);
    }
}

impl Persist for Front {
    type State = State;
    const KIND: &'static str = "virtio-watchdog";
    const VERSION: u32 = 1;

    fn save(&self) -> State {
        State { armed: self.armed.load(Ordering::SeqCst) }
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        self.armed.store(state.armed, Ordering::SeqCst);
        Ok(())
    }
}

//! The balloon's configuration and life cycle, as the transport sees them, and what the host may do to it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use config::plan;
use device::{Persist, RestoreError, read_bytes};
use serde::{Deserialize, Serialize};
use virtio::{Activation, Info, Listener, QueueServer, VirtioDevice, Worker, Workers};

use super::worker::{DEFLATE, INFLATE, REPORTING, Taker};
use super::{PAGE, PROFILE};

const DEVICE_TYPE: u16 = 5;
/// Of the inflate and the deflate queue.
const QUEUE_SIZE: u16 = 128;
/// Of the reporting queue.
const REPORTING_SIZE: u16 = 32;
/// Feature: the guest takes memory back before it runs out of it.
pub(super) const DEFLATE_ON_OOM: u64 = 1 << 2;
/// Feature: there is a reporting queue.
pub(super) const REPORTING_FEATURE: u64 = 1 << 5;
/// num_pages, actual: u32.
const CONFIG_LEN: u16 = 8;
/// Offset of the register that the driver writes.
const ACTUAL: u64 = 4;

/// How large the balloon is to be and how large the driver says it is, in pages of 4 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub(super) target: u32,
    pub(super) actual: u32,
}

/// What front, worker and handles share: a leaf.
#[derive(Default)]
struct Shared {
    target: AtomicU32,
    actual: AtomicU32,
    /// The driver has let go of everything: the worker forgets what it gave.
    was_reset: Arc<AtomicBool>,
    driver: Listener,
}

/// What the host may ask of a balloon while its machine lives. Cloning shares it.
#[derive(Clone)]
pub struct Balloon(Arc<Shared>);

impl Balloon {
    /// Asks the guest for `size` bytes of its memory, down to whole pages of 4 KiB. The guest gives them, or takes some back, when it likes.
    pub fn set_target(&self, size: u64) {
        self.0.driver.change(|| self.0.target.store(pages(size), Ordering::SeqCst));
    }

    /// Bytes that the guest says it has given.
    pub fn actual(&self) -> u64 {
        u64::from(self.0.actual.load(Ordering::SeqCst)) * PAGE
    }
}

fn pages(size: u64) -> u32 {
    u32::try_from(size / PAGE).unwrap_or(u32::MAX)
}

/// The front half of a balloon.
pub struct Front {
    info: Info,
    balloon: Balloon,
    workers: Workers,
}

impl Front {
    pub(super) fn new(id: &str, plan: &plan::Balloon) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.target.store(pages(plan.size), Ordering::SeqCst);
        let worker = Worker::spawn(&PROFILE, id, Taker::new(shared.was_reset.clone()))?;
        let (mut features, mut queue_sizes) = (0, vec![QUEUE_SIZE; 2]);
        if plan.deflate_on_oom {
            features |= DEFLATE_ON_OOM;
        }
        if plan.free_page_reporting {
            features |= REPORTING_FEATURE;
            queue_sizes.push(REPORTING_SIZE);
        }
        let info =
            Info { id: id.into(), device_type: DEVICE_TYPE, queue_sizes, features, config_len: CONFIG_LEN };
        let workers = Workers::new(vec![(worker, vec![INFLATE, DEFLATE, REPORTING])]);
        Ok(Self { info, balloon: Balloon(shared), workers })
    }

    /// The host's handle.
    pub fn balloon(&self) -> &Balloon {
        &self.balloon
    }
}

impl VirtioDevice for Front {
    fn info(&self) -> &Info {
        &self.info
    }

    fn server(&mut self) -> &mut dyn QueueServer {
        &mut self.workers
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let State { target, actual } = self.save();
        read_bytes([target, actual].into_iter().flat_map(u32::to_le_bytes), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if offset == ACTUAL
            && let Ok(actual) = data.try_into()
        {
            self.balloon.0.actual.store(u32::from_le_bytes(actual), Ordering::SeqCst);
        }
    }

    fn start(&mut self, activation: Activation) {
        self.balloon.0.driver.set(Some(activation.signals.clone()));
        self.workers.start(activation);
    }

    fn reset(&mut self) {
        self.balloon.0.driver.set(None);
        self.balloon.0.actual.store(0, Ordering::SeqCst);
        self.balloon.0.was_reset.store(true, Ordering::SeqCst);
    }
}

impl Persist for Front {
    type State = State;
    const KIND: &'static str = "virtio-balloon";
    const VERSION: u32 = 1;

    fn save(&self) -> State {
        let read = |pages: &AtomicU32| pages.load(Ordering::SeqCst);
        State { target: read(&self.balloon.0.target), actual: read(&self.balloon.0.actual) }
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        self.balloon.0.target.store(state.target, Ordering::SeqCst);
        self.balloon.0.actual.store(state.actual, Ordering::SeqCst);
        Ok(())
    }
}

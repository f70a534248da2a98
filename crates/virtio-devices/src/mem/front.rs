//! The device's configuration and life cycle, as the transport sees them, and what the host may ask of it.

use std::io;
use std::sync::Arc;

use config::plan;
use device::{Persist, RestoreError, read_bytes};
use memory::layout::Range;
use serde::{Deserialize, Serialize};
use virtio::{Activation, Info, Listener, QueueServer, VirtioDevice, Worker, Workers};

use super::region::Region;
use super::worker::Plugger;
use super::{BLOCK, PROFILE};

const DEVICE_TYPE: u16 = 24;
const QUEUE_SIZE: u16 = 128;
/// Feature: the configuration knows the NUMA node.
pub(super) const ACPI_PXM: u64 = 1;
/// block_size: u64; node_id: u16 and padding; addr, region_size, usable_region_size, plugged_size, requested_size: u64.
const CONFIG_LEN: u16 = 56;

/// What is wanted and what is plugged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Bytes.
    pub(super) requested: u64,
    /// Runs of plugged blocks: first and length.
    pub(super) plugged: Vec<(usize, usize)>,
}

/// What the host may ask of a device while its machine lives. Cloning shares it.
#[derive(Clone)]
pub struct Mem {
    region: Arc<Region>,
    driver: Arc<Listener>,
}

impl Mem {
    /// Asks the guest to have `size` bytes plugged, a multiple of 2 MiB within the region. It plugs or unplugs when it likes.
    pub fn request(&self, size: u64) {
        self.driver.change(|| self.region.request(size));
    }

    /// Bytes that are plugged.
    pub fn plugged(&self) -> u64 {
        self.region.plugged()
    }
}

/// The front half of a memory device.
pub struct Front {
    info: Info,
    handle: Mem,
    node: Option<u8>,
    workers: Workers,
}

impl Front {
    pub(super) fn new(id: &str, plan: &plan::Mem, room: Range) -> io::Result<Self> {
        let region = Arc::new(Region::new(room, plan.requested));
        let worker = Worker::spawn(&PROFILE, id, Plugger(region.clone()))?;
        let info = Info {
            id: id.into(),
            device_type: DEVICE_TYPE,
            queue_sizes: vec![QUEUE_SIZE],
            features: if plan.node.is_some() { ACPI_PXM } else { 0 },
            config_len: CONFIG_LEN,
        };
        let workers = Workers::new(vec![(worker, vec![0])]);
        Ok(Self { info, handle: Mem { region, driver: Arc::default() }, node: plan.node, workers })
    }

    /// The host's handle.
    pub fn handle(&self) -> &Mem {
        &self.handle
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
        let region = &self.handle.region;
        let sizes = [region.size, region.size, region.plugged(), region.requested()];
        let fields = [BLOCK, self.node.unwrap_or(0).into(), region.base].into_iter().chain(sizes);
        read_bytes(fields.flat_map(u64::to_le_bytes), offset, data);
    }

    fn start(&mut self, activation: Activation) {
        self.handle.driver.set(Some(activation.signals.clone()));
        self.workers.start(activation);
    }

    /// What is plugged stays: another driver finds it, and unplugs it if it does not want it.
    fn reset(&mut self) {
        self.handle.driver.set(None);
    }
}

impl Persist for Front {
    type State = State;
    const KIND: &'static str = "virtio-mem";
    const VERSION: u32 = 1;

    fn save(&self) -> State {
        let region = &self.handle.region;
        State { requested: region.requested(), plugged: region.runs() }
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        let region = &self.handle.region;
        let wrong = |field| RestoreError::Value { kind: Self::KIND, field };
        if state.requested > region.size || !state.requested.is_multiple_of(BLOCK) {
            return Err(wrong("requested size"));
        }
        if !region.take_runs(&state.plugged) {
            return Err(wrong("plugged blocks"));
        }
        region.request(state.requested);
        Ok(())
    }
}

//! A persistent memory device's life cycle and registers, as the transport sees them.

use std::io;
use std::sync::Arc;

use config::Pmem;
use device::read_bytes;
use memory::HostMemory;
use pci::OwnMemory;
use virtio::{Info, QueueServer, VirtioDevice, Worker, Workers};
use virtio_bindings::virtio_ids::VIRTIO_ID_PMEM;

use super::PROFILE;
use super::backing::Backing;
use super::state::State;
use super::worker::Flusher;

const QUEUE_SIZE: u16 = 256;
/// Bytes of the configuration space: the region's first guest address and its size (§5.19.4).
const CONFIG_LEN: usize = 16;

/// The front half of a persistent memory device.
pub struct Front {
    info: Info,
    memory: Arc<dyn HostMemory>,
    pub(super) state: State,
    workers: Workers,
}

impl Front {
    pub(super) fn new(id: &str, backing: Backing) -> io::Result<Self> {
        let Backing { memory, file } = backing;
        let workers = Workers::new(vec![(Worker::spawn(&PROFILE, id, Flusher::new(file))?, vec![0])]);
        let info = Info {
            id: id.into(),
            device_type: VIRTIO_ID_PMEM as u16,
            queue_sizes: vec![QUEUE_SIZE],
            features: 0,
            config_len: CONFIG_LEN as u16,
        };
        let state = State { start: 0, size: memory.size() as u64 };
        Ok(Self { info, memory, state, workers })
    }
}

impl VirtioDevice for Front {
    fn info(&self) -> &Info {
        &self.info
    }

    fn server(&mut self) -> &mut dyn QueueServer {
        &mut self.workers
    }

    fn memory(&self) -> Option<OwnMemory> {
        Some(OwnMemory { memory: self.memory.clone(), align: Pmem::UNIT })
    }

    fn put_memory(&mut self, base: u64) {
        self.state.start = base;
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let State { start, size } = self.state;
        read_bytes([start, size].into_iter().flat_map(u64::to_le_bytes), offset, data);
    }
}

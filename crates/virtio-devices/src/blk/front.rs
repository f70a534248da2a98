//! The register side of a disk: features, the configuration space, starting and stopping.

use std::sync::Arc;

use block::SECTOR;
use config::plan;
use device::read_bytes;
use meter::CounterSet;
use virtio::{Activation, Info, QueueServer, VirtioDevice, Workers};
use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::Disk;
use super::disk::bit;

/// Bytes of the configuration space, up to and with `write_zeroes_may_unmap` and its padding (§5.2.4).
const CONFIG_LEN: usize = 60;
/// Offset of the writeback register, the only one a driver writes.
const WRITEBACK: usize = 32;

/// A block device's front half.
pub struct Blk {
    pub(super) disk: Arc<Disk>,
    info: Info,
    workers: Workers,
    num_queues: u16,
    queue_size: u16,
}

impl Blk {
    pub(super) fn new(id: &str, plan: &plan::Disk, disk: Arc<Disk>, workers: Workers) -> Self {
        let info = Info {
            id: id.into(),
            device_type: VIRTIO_ID_BLOCK as u16,
            queue_sizes: vec![plan.queue_size; plan.num_queues.into()],
            features: disk.features,
            config_len: CONFIG_LEN as u16,
        };
        Self { disk, info, workers, num_queues: plan.num_queues, queue_size: plan.queue_size }
    }

    /// The disk, for those who resize and lock it while it runs.
    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    fn config_space(&self) -> [u8; CONFIG_LEN] {
        let topology = self.disk.image.topology();
        let block = topology.logical_block.max(1);
        let offers = |feature| self.info.features & bit(feature) != 0;
        let (discard, zeroes) = (offers(VIRTIO_BLK_F_DISCARD), offers(VIRTIO_BLK_F_WRITE_ZEROES));
        let exponent = (topology.physical_block / block).checked_ilog2().unwrap_or(0) as u8;
        let minimum = u16::try_from(topology.minimum_io / block).unwrap_or(u16::MAX);

        let mut space = Space::default();
        space.put(0, (self.disk.image.size() / SECTOR).to_le_bytes());
        space.put(12, u32::from(self.queue_size).saturating_sub(2).max(1).to_le_bytes());
        space.put(20, block.to_le_bytes());
        space.put(24, [exponent]);
        space.put(26, minimum.to_le_bytes());
        space.put(28, (topology.optimal_io / block).to_le_bytes());
        space.put(WRITEBACK, [self.disk.writeback().into()]);
        space.put(34, self.num_queues.to_le_bytes());
        if discard {
            space.put(36, u32::MAX.to_le_bytes());
            space.put(40, 1u32.to_le_bytes());
            space.put(44, (block / SECTOR as u32).to_le_bytes());
        }
        if zeroes {
            space.put(48, u32::MAX.to_le_bytes());
            space.put(52, 1u32.to_le_bytes());
            space.put(56, [discard.into()]);
        }
        space.0
    }
}

/// The configuration space being filled. Fields at constant offsets, all within.
struct Space([u8; CONFIG_LEN]);

impl Default for Space {
    fn default() -> Self {
        Self([0; CONFIG_LEN])
    }
}

impl Space {
    fn put<const N: usize>(&mut self, offset: usize, value: [u8; N]) {
        if let Some(field) = self.0.get_mut(offset..offset + N) {
            field.copy_from_slice(&value);
        }
    }
}

impl VirtioDevice for Blk {
    fn info(&self) -> &Info {
        &self.info
    }

    fn server(&mut self) -> &mut dyn QueueServer {
        &mut self.workers
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(self.config_space(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let at = (WRITEBACK as u64).checked_sub(offset).and_then(|at| usize::try_from(at).ok());
        if let Some(value) = at.and_then(|at| data.get(at)) {
            self.disk.set_writeback(value & 1 != 0);
        }
    }

    fn start(&mut self, activation: Activation) {
        self.disk.driver().set(Some(activation.signals.clone()));
        self.workers.start(activation);
    }

    fn reset(&mut self) {
        self.disk.driver().set(None);
        self.disk.set_writeback(true);
    }

    fn counters(&self) -> Option<Arc<dyn CounterSet>> {
        Some(self.disk.counters())
    }
}

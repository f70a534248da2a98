//! The common configuration registers (§4.1.4.3).

use memory::GuestAddress;
use pci::NO_VECTOR;
use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueT};

use super::status;
use crate::{Info, Signals, feature};

/// What a write to the registers asks of the transport.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    None,
    /// Configuration changes fire this vector from now on.
    ConfigVector(u16),
    /// A queue's answers fire this vector from now on.
    QueueVector(u16, u16),
    /// The driver is ready.
    Start,
    /// The driver resets the device.
    Reset,
}

/// One queue's registers, and how far it had come when it was last stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct QueueRegisters {
    size: u16,
    pub(super) vector: u16,
    pub(super) enabled: bool,
    descriptors: u64,
    available: u64,
    used: u64,
    next_available: u16,
    next_used: u16,
}

impl QueueRegisters {
    pub(super) fn build(&self, event_idx: bool) -> Option<Queue> {
        let progress = (self.next_available, self.next_used);
        build_queue(self.size, [self.descriptors, self.available, self.used], progress, event_idx)
    }
}

/// All common registers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Common {
    device_features: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    pub(super) driver_features: u64,
    pub(super) config_vector: u16,
    status: u8,
    queue_select: u16,
    queues: Vec<QueueRegisters>,
    max_sizes: Vec<u16>,
}

impl Common {
    pub(super) fn new(info: &Info) -> Self {
        let queue = |size: &u16| QueueRegisters {
            size: *size,
            vector: NO_VECTOR,
            enabled: false,
            descriptors: 0,
            available: 0,
            used: 0,
            next_available: 0,
            next_used: 0,
        };
        Self {
            device_features: info.features | feature::VERSION_1,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            status: 0,
            queue_select: 0,
            queues: info.queue_sizes.iter().map(queue).collect(),
            max_sizes: info.queue_sizes.clone(),
        }
    }

    /// Whether a saved state can be that of such a device; the field that cannot otherwise.
    pub(super) fn check(&self, info: &Info) -> Result<(), &'static str> {
        let is_vector = |vector| self.valid_vector(vector) == vector;
        let size_is_right = |(queue, max): (&QueueRegisters, &u16)| {
            queue.size == *max || queue.size.is_power_of_two() && queue.size <= *max
        };
        if self.max_sizes != info.queue_sizes || self.queues.len() != info.queue_sizes.len() {
            return Err("queue");
        }
        if !self.queues.iter().zip(&self.max_sizes).all(size_is_right) {
            return Err("queue size");
        }
        if !is_vector(self.config_vector) || !self.queues.iter().all(|queue| is_vector(queue.vector)) {
            return Err("vector");
        }
        if self.device_features & !(info.features | feature::VERSION_1) != 0 {
            return Err("set of features: this host offers the guest fewer");
        }
        let (is_settled, is_ready) = (self.status & status::FEATURES_OK != 0, self.is_driver_ready());
        if is_settled && !self.features_are_acceptable() || is_ready && !is_settled {
            return Err("status");
        }
        Ok(())
    }

    /// Whether the driver has said DRIVER_OK.
    pub(super) fn is_driver_ready(&self) -> bool {
        self.status & status::DRIVER_OK != 0
    }

    fn features_are_acceptable(&self) -> bool {
        self.driver_features & !self.device_features == 0 && self.driver_features & feature::VERSION_1 != 0
    }

    pub(super) fn queue(&self, index: u16) -> Option<&QueueRegisters> {
        self.queues.get(usize::from(index))
    }

    pub(super) fn set_progress(&mut self, index: u16, queue: &Queue) {
        if let Some(registers) = self.queues.get_mut(usize::from(index)) {
            registers.next_available = queue.next_avail();
            registers.next_used = queue.next_used();
        }
    }

    fn selected(&self) -> Option<&QueueRegisters> {
        self.queue(self.queue_select)
    }

    /// Reads a register: only accesses of its own width (or halves of the 64-bit ones) hit one.
    pub(super) fn read(&self, offset: u64, data: &mut [u8], signals: &Signals) {
        let queue = self.selected();
        let broken = if signals.is_broken() { status::NEEDS_RESET } else { 0 };
        let value: u64 = match (offset, data.len()) {
            (0x00, 4) => self.device_feature_select.into(),
            (0x04, 4) => half(self.device_features, self.device_feature_select).into(),
            (0x08, 4) => self.driver_feature_select.into(),
            (0x0c, 4) => half(self.driver_features, self.driver_feature_select).into(),
            (0x10, 2) => self.config_vector.into(),
            (0x12, 2) => self.queues.len() as u64,
            (0x14, 1) => (self.status | broken).into(),
            (0x15, 1) => signals.generation().into(),
            (0x16, 2) => self.queue_select.into(),
            (0x18, 2) => queue.map_or(0, |q| q.size).into(),
            (0x1a, 2) => queue.map_or(NO_VECTOR, |q| q.vector).into(),
            (0x1c, 2) => queue.is_some_and(|q| q.enabled).into(),
            (0x1e, 2) => if queue.is_some() { self.queue_select } else { 0 }.into(),
            (0x20, 4 | 8) => queue.map_or(0, |q| q.descriptors),
            (0x24, 4) => queue.map_or(0, |q| q.descriptors >> 32),
            (0x28, 4 | 8) => queue.map_or(0, |q| q.available),
            (0x2c, 4) => queue.map_or(0, |q| q.available >> 32),
            (0x30, 4 | 8) => queue.map_or(0, |q| q.used),
            (0x34, 4) => queue.map_or(0, |q| q.used >> 32),
            _ => return,
        };
        let len = data.len();
        data.copy_from_slice(&value.to_le_bytes()[..len]);
    }

    /// Writes a register.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        let mut bytes = [0; 8];
        let Some(low) = bytes.get_mut(..data.len()) else { return Action::None };
        low.copy_from_slice(data);
        let value = u64::from_le_bytes(bytes);
        match (offset, data.len()) {
            (0x00, 4) => self.device_feature_select = value as u32,
            (0x08, 4) => self.driver_feature_select = value as u32,
            (0x0c, 4) => self.accept_features(value as u32),
            (0x10, 2) => {
                self.config_vector = self.valid_vector(value as u16);
                return Action::ConfigVector(self.config_vector);
            }
            (0x14, 1) => return self.set_status(value as u8),
            (0x16, 2) => self.queue_select = value as u16,
            (0x1a, 2) => {
                let vector = self.valid_vector(value as u16);
                if let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) {
                    queue.vector = vector;
                    return Action::QueueVector(self.queue_select, vector);
                }
            }
            (0x18..0x38, _) => self.write_queue(offset, data.len(), value),
            _ => {}
        }
        Action::None
    }

    fn accept_features(&mut self, value: u32) {
        if self.status & status::FEATURES_OK != 0 {
            return;
        }
        match self.driver_feature_select {
            0 => self.driver_features = self.driver_features & !0xffff_ffff | u64::from(value),
            1 => self.driver_features = self.driver_features & 0xffff_ffff | u64::from(value) << 32,
            _ => {}
        }
    }

    /// A vector the function does not have reads back as none (§4.1.5.1.2).
    fn valid_vector(&self, vector: u16) -> u16 {
        if usize::from(vector) <= self.queues.len() { vector } else { NO_VECTOR }
    }

    /// Only a reset clears bits (§2.1.2): a driver cannot go back behind what it has settled.
    fn set_status(&mut self, value: u8) -> Action {
        if value == 0 {
            return Action::Reset;
        }
        let mut newly = value & !self.status & !status::NEEDS_RESET;
        if newly & status::FEATURES_OK != 0 && !self.features_are_acceptable() {
            newly &= !status::FEATURES_OK;
        }
        if (self.status | newly) & status::FEATURES_OK == 0 {
            newly &= !status::DRIVER_OK;
        }
        self.status |= newly;
        if newly & status::DRIVER_OK != 0 { Action::Start } else { Action::None }
    }

    fn write_queue(&mut self, offset: u64, len: usize, value: u64) {
        let max = self.max_sizes.get(usize::from(self.queue_select)).copied().unwrap_or(0);
        // Once the driver is ready, queues stay as they are.
        let settled = self.is_driver_ready();
        let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else { return };
        match (offset, len) {
            _ if settled || queue.enabled => {}
            (0x18, 2) => {
                let size = value as u16;
                if size.is_power_of_two() && size <= max {
                    queue.size = size;
                }
            }
            (0x1c, 2) => queue.enabled = value == 1,
            (0x20..0x38, 4 | 8) => {
                let address = match offset & !7 {
                    0x20 => &mut queue.descriptors,
                    0x28 => &mut queue.available,
                    _ => &mut queue.used,
                };
                *address = match (offset & 7, len) {
                    (0, 8) => value,
                    (0, _) => *address & !0xffff_ffff | value,
                    (4, 4) => *address & 0xffff_ffff | value << 32,
                    _ => return,
                };
            }
            _ => {}
        }
    }
}

/// A queue as the driver laid it out, if its size is one and its addresses are aligned (§2.7).
fn build_queue(size: u16, addresses: [u64; 3], progress: (u16, u16), event_idx: bool) -> Option<Queue> {
    let mut queue = Queue::new(size).ok()?;
    // Other than these, the trait's setters leave a queue at address 0 if they refuse.
    let [descriptors, available, used] = addresses.map(GuestAddress);
    queue.try_set_desc_table_address(descriptors).ok()?;
    queue.try_set_avail_ring_address(available).ok()?;
    queue.try_set_used_ring_address(used).ok()?;
    queue.set_next_avail(progress.0);
    queue.set_next_used(progress.1);
    queue.set_event_idx(event_idx);
    queue.set_ready(true);
    Some(queue)
}

fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

//! A driver's steps over a device's registers (Virtio 1.2 §3.1, §4.1.4.3), as far as a test wants them.

use crate::rig::{Rig, wait_until};

pub(crate) const DEVICE_FEATURE_SELECT: u64 = 0x00;
pub(crate) const DEVICE_FEATURE: u64 = 0x04;
pub(crate) const DRIVER_FEATURE_SELECT: u64 = 0x08;
pub(crate) const DRIVER_FEATURE: u64 = 0x0c;
const NUM_QUEUES: u64 = 0x12;
pub(crate) const STATUS: u64 = 0x14;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_DESCRIPTORS: u64 = 0x20;
const QUEUE_AVAILABLE: u64 = 0x28;
const QUEUE_USED: u64 = 0x30;
/// Where the notification registers begin, and bytes for each queue.
pub(crate) const NOTIFY: u64 = 0x6000;
pub(crate) const NOTIFY_STEP: u64 = 4;

/// ACKNOWLEDGE and DRIVER.
const HELLO: u8 = 3;
pub(crate) const DRIVER_OK: u8 = 4;
pub(crate) const FEATURES_OK: u8 = 8;
pub(crate) const NEEDS_RESET: u8 = 0x40;

pub(crate) const VERSION_1: u64 = 1 << 32;

/// Where one queue's rings lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rings {
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
}

impl Rig {
    pub(crate) fn status(&self) -> u8 {
        self.read::<1>(STATUS)[0]
    }

    pub(crate) fn queue_count(&self) -> u16 {
        u16::from_le_bytes(self.read(NUM_QUEUES))
    }

    pub(crate) fn offered(&self) -> u64 {
        self.features(DEVICE_FEATURE_SELECT, DEVICE_FEATURE)
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.features(DRIVER_FEATURE_SELECT, DRIVER_FEATURE)
    }

    /// Reads both halves and leaves the selector as it was.
    fn features(&self, select: u64, value: u64) -> u64 {
        let former: [u8; 4] = self.read(select);
        let halves = [0u32, 1].map(|half| {
            self.write(select, &half.to_le_bytes());
            u64::from(u32::from_le_bytes(self.read(value)))
        });
        self.write(select, &former);
        halves[0] | halves[1] << 32
    }

    /// Resets the device and waits for the end of it.
    pub(crate) fn reset_by_driver(&self) {
        self.write(STATUS, &[0]);
        wait_until("a reset", || self.status() == 0);
    }

    /// Resets the device and accepts `features` of those that it offers.
    pub(crate) fn negotiate(&self, features: u64) {
        self.reset_by_driver();
        self.write(STATUS, &[HELLO]);
        let accepted = features & self.offered() | VERSION_1;
        for half in [0u32, 1] {
            self.write(DRIVER_FEATURE_SELECT, &half.to_le_bytes());
            self.write(DRIVER_FEATURE, &((accepted >> (32 * half)) as u32).to_le_bytes());
        }
        self.write(STATUS, &[HELLO | FEATURES_OK]);
    }

    /// Lays out queue `index` and enables it.
    pub(crate) fn lay_out(&self, index: u16, rings: &Rings) {
        self.write(QUEUE_SELECT, &index.to_le_bytes());
        self.write(QUEUE_SIZE, &rings.size.to_le_bytes());
        let addresses = [rings.descriptors, rings.available, rings.used];
        for (register, address) in [QUEUE_DESCRIPTORS, QUEUE_AVAILABLE, QUEUE_USED].into_iter().zip(addresses)
        {
            self.write(register, &address.to_le_bytes());
        }
        self.write(QUEUE_ENABLE, &[1, 0]);
    }

    pub(crate) fn go(&self) {
        self.write(STATUS, &[HELLO | FEATURES_OK | DRIVER_OK]);
    }

    pub(crate) fn kick(&self, queue: u16) {
        self.write(NOTIFY + u64::from(queue) * NOTIFY_STEP, &queue.to_le_bytes());
    }
}

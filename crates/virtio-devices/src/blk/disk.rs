//! What front and queues of a disk share: the image, its rules, and the registers that both sides see. A leaf object: it locks nothing
//! outside itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use block::{Image, Kind, LockError, LockRange, ResizeError, SECTOR};
use config::{ImageType, plan};
use virtio::{Listener, feature};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::counters::{Counters, DiskCounters};
use super::request::Request;

/// Bytes of a serial number at most.
pub(super) const SERIAL_LEN: usize = VIRTIO_BLK_ID_BYTES as usize;

/// A disk as the control thread holds it while vCPUs and queue threads use it. Shared; any thread may call it.
pub struct Disk {
    pub(super) image: Arc<dyn Image>,
    pub(super) features: u64,
    counters: Arc<DiskCounters>,
    serial: Mutex<String>,
    writeback: AtomicBool,
    driver: Listener,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It goes to the engine.
    Start {
        /// What to do.
        kind: Kind,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// The guest wants to know the serial number.
    Serial,
    /// It is over, with this status.
    Refuse(u8),
}

const IOERR: Decision = Decision::Refuse(VIRTIO_BLK_S_IOERR as u8);
const UNSUPP: Decision = Decision::Refuse(VIRTIO_BLK_S_UNSUPP as u8);

impl Disk {
    pub(super) fn new(image: Arc<dyn Image>, plan: &plan::Disk) -> Self {
        let serial = plan.serial.clone().unwrap_or_else(|| image.default_serial());
        Self {
            features: features(&*image, plan),
            counters: Arc::new(DiskCounters((0..plan.num_queues).map(|_| Counters::default()).collect())),
            serial: Mutex::new(serial),
            writeback: AtomicBool::new(true),
            driver: Listener::default(),
            image,
        }
    }

    /// The format the image was found to have.
    pub fn format(&self) -> ImageType {
        self.image.format()
    }

    /// Gives the disk another size and tells the driver. Its queues hold still meanwhile: a write under way beyond the new end would make
    /// the image longer again.
    ///
    /// # Errors
    /// [`ResizeError`]; the disk keeps its size.
    pub fn resize(&self, bytes: u64) -> Result<(), ResizeError> {
        self.driver.try_change(|| self.image.resize(bytes))
    }

    /// Locks the image against other programs.
    ///
    /// # Errors
    /// [`LockError`] if one of them holds it.
    pub fn lock(&self, range: LockRange) -> Result<(), LockError> {
        self.image.lock(range)
    }

    /// Gives the lock back, for a migration's destination to take.
    ///
    /// # Errors
    /// [`LockError`] if the file system failed.
    pub fn unlock(&self) -> Result<(), LockError> {
        self.image.unlock()
    }

    /// See [`virtio::VirtioDevice::counters`].
    pub(super) fn counters(&self) -> Arc<DiskCounters> {
        self.counters.clone()
    }

    pub(super) fn queue_counters(&self, queue: u16) -> Option<&Counters> {
        self.counters.0.get(usize::from(queue))
    }

    pub(super) fn serial(&self) -> String {
        self.serial.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_serial(&self, serial: String) {
        *self.serial.lock().unwrap_or_else(PoisonError::into_inner) = serial;
    }

    pub(super) fn writeback(&self) -> bool {
        self.writeback.load(Ordering::Relaxed)
    }

    pub(super) fn set_writeback(&self, on: bool) {
        self.writeback.store(on, Ordering::Relaxed);
    }

    /// Where news of the configuration go while the device runs.
    pub(super) fn driver(&self) -> &Listener {
        &self.driver
    }

    /// Whether every write must be durable when it is answered (§5.2.6.2): a driver that cannot flush needs that.
    pub(super) fn writes_through(&self, accepted: u64) -> bool {
        if accepted & bit(VIRTIO_BLK_F_CONFIG_WCE) != 0 {
            return !self.writeback();
        }
        accepted & bit(VIRTIO_BLK_F_FLUSH) == 0
    }

    /// What becomes of `request`; `out` fetches the first bytes of its data.
    pub(super) fn decide(&self, request: &Request, out: impl FnOnce(&mut [u8]) -> bool) -> Decision {
        match request.kind {
            VIRTIO_BLK_T_IN if request.out_len == 0 => self.decide_data(Kind::Read, request),
            VIRTIO_BLK_T_OUT if request.in_len == 0 => self.decide_data(Kind::Write, request),
            VIRTIO_BLK_T_IN | VIRTIO_BLK_T_OUT => IOERR,
            VIRTIO_BLK_T_FLUSH => Decision::Start { kind: Kind::Flush, offset: 0, len: 0 },
            VIRTIO_BLK_T_GET_ID => Decision::Serial,
            VIRTIO_BLK_T_DISCARD if self.offers(VIRTIO_BLK_F_DISCARD) => self.decide_range(request, out),
            VIRTIO_BLK_T_WRITE_ZEROES if self.offers(VIRTIO_BLK_F_WRITE_ZEROES) => {
                self.decide_range(request, out)
            }
            _ => UNSUPP,
        }
    }

    fn decide_data(&self, kind: Kind, request: &Request) -> Decision {
        let len = u64::from(request.in_len.max(request.out_len));
        if !len.is_multiple_of(SECTOR) {
            return IOERR;
        }
        self.decide_sectors(kind, request.sector, len / SECTOR)
    }

    fn decide_range(&self, request: &Request, out: impl FnOnce(&mut [u8]) -> bool) -> Decision {
        // One segment is what `max_discard_seg` and `max_write_zeroes_seg` allow.
        let mut segment = [0; 16];
        if request.out_len as usize != segment.len() || !out(&mut segment) {
            return IOERR;
        }
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = segment;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        let kind = match (request.kind, u32::from_le_bytes(flags)) {
            (VIRTIO_BLK_T_DISCARD, 0) => Kind::Discard,
            (VIRTIO_BLK_T_WRITE_ZEROES, 0) => Kind::Zero { unmap: false },
            (VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) => {
                // The register write_zeroes_may_unmap says no where there is no discarding.
                Kind::Zero { unmap: self.offers(VIRTIO_BLK_F_DISCARD) }
            }
            _ => return UNSUPP,
        };
        self.decide_sectors(kind, sector, sectors.into())
    }

    fn decide_sectors(&self, kind: Kind, sector: u64, sectors: u64) -> Decision {
        let end = sector.checked_add(sectors);
        let capacity = self.image.size() / SECTOR;
        if end.is_none_or(|end| end > capacity) {
            return IOERR;
        }
        let is_write = kind != Kind::Read;
        if is_write && (self.offers(VIRTIO_BLK_F_RO) || (sector == 0 && self.image.guards_first_sector())) {
            return IOERR;
        }
        // No overflow: both are at most the capacity, which came from bytes.
        Decision::Start { kind, offset: sector * SECTOR, len: sectors * SECTOR }
    }

    fn offers(&self, feature: u32) -> bool {
        self.features & bit(feature) != 0
    }
}

pub(super) const fn bit(feature: u32) -> u64 {
    1 << feature
}

/// The features a disk offers (`spec/devices.md` §7).
fn features(image: &dyn Image, plan: &plan::Disk) -> u64 {
    let mut features = feature::EVENT_IDX | feature::INDIRECT_DESC;
    let mut offer = |yes: bool, feature| features |= if yes { bit(feature) } else { 0 };
    offer(true, VIRTIO_BLK_F_FLUSH);
    offer(true, VIRTIO_BLK_F_CONFIG_WCE);
    offer(true, VIRTIO_BLK_F_BLK_SIZE);
    offer(true, VIRTIO_BLK_F_TOPOLOGY);
    offer(true, VIRTIO_BLK_F_SEG_MAX);
    offer(plan.readonly, VIRTIO_BLK_F_RO);
    offer(plan.num_queues > 1, VIRTIO_BLK_F_MQ);
    offer(image.can_zero(), VIRTIO_BLK_F_WRITE_ZEROES);
    offer(image.can_zero() && plan.sparse, VIRTIO_BLK_F_DISCARD);
    features
}

//! The leaf objects that the front and the workers of a network card share.

use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::net::{Mac, Offloads, Tap};
use meter::{Count, CounterSet, QueueReading};
use virtio_bindings::virtio_net as spec;

use super::DriverState;

/// What the driver can change on the host's side.
pub(super) trait Link: Send + Sync {
    /// See [`Tap::set_offloads`].
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()>;

    /// See [`Tap::set_attached`].
    fn set_attached(&self, pairs: u16) -> io::Result<()>;
}

impl Link for Tap {
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        Tap::set_offloads(self, offloads)
    }

    fn set_attached(&self, pairs: u16) -> io::Result<()> {
        Tap::set_attached(self, pairs)
    }
}

pub(super) struct Shared {
    pub(super) id: String,
    pub(super) mac: Mac,
    link: Box<dyn Link>,
    /// Written at start by the front and then by the control queue. The tap is changed under its lock only.
    driver: Mutex<Option<DriverState>>,
    /// This driver has just taken the device over: frames that came before are not for it.
    pub(super) fresh: AtomicBool,
    /// The machine has moved here: tell the network.
    pub(super) moved: AtomicBool,
    pub(super) counters: Arc<Counters>,
}

impl Shared {
    pub(super) fn new(id: String, mac: Mac, link: Box<dyn Link>, pairs: u16) -> Self {
        Self {
            id,
            mac,
            link,
            driver: Mutex::default(),
            fresh: AtomicBool::new(false),
            moved: AtomicBool::new(false),
            counters: Arc::new(Counters((0..pairs).map(|_| PairCounters::default()).collect())),
        }
    }

    pub(super) fn driver(&self) -> MutexGuard<'_, Option<DriverState>> {
        self.driver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the tap follow the driver's settings.
    pub(super) fn apply(&self) -> io::Result<()> {
        // Locked to the end: the control queue may be changing them at this very moment.
        let driver = self.driver();
        let Some(DriverState { offloads, pairs, .. }) = &*driver else { return Ok(()) };
        self.link.set_offloads(tap_offloads(*offloads))?;
        self.link.set_attached(*pairs)
    }

    /// Changes the driver's settings by `change`, with `apply` doing the same to the tap first.
    pub(super) fn change(
        &self,
        apply: impl FnOnce(&dyn Link) -> io::Result<()>,
        change: impl FnOnce(&mut DriverState),
    ) -> io::Result<()> {
        let mut driver = self.driver();
        apply(&*self.link)?;
        if let Some(driver) = &mut *driver {
            change(driver);
        }
        Ok(())
    }
}

/// Frames and bytes of each queue pair since the device was built, without virtio-net headers.
pub(super) struct Counters(Box<[PairCounters]>);

/// Written by the pair's thread only; on cache lines of its own.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct PairCounters {
    pub(super) rx: Traffic,
    pub(super) tx: Traffic,
}

impl Counters {
    pub(super) fn pair(&self, number: u16) -> Option<&PairCounters> {
        self.0.get(usize::from(number))
    }

    fn sum(&self, count: impl Fn(&PairCounters) -> u64) -> u64 {
        self.0.iter().map(count).fold(0, u64::wrapping_add)
    }
}

impl CounterSet for Counters {
    fn read(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("rx_bytes", self.sum(|pair| pair.rx.bytes.read())),
            ("rx_frames", self.sum(|pair| pair.rx.frames.read())),
            ("tx_bytes", self.sum(|pair| pair.tx.bytes.read())),
            ("tx_frames", self.sum(|pair| pair.tx.frames.read())),
        ]
    }

    fn queues(&self) -> Vec<QueueReading> {
        let reading = |queue, bytes, frames, traffic: &Traffic| QueueReading {
            queue,
            counts: vec![(bytes, traffic.bytes.read()), (frames, traffic.frames.read())],
            latencies: Vec::new(),
        };
        let pairs = (0u16..).zip(&self.0);
        pairs
            .flat_map(|(number, pair)| {
                let first = number.saturating_mul(2);
                let rx = reading(first, "rx_bytes", "rx_frames", &pair.rx);
                [rx, reading(first.saturating_add(1), "tx_bytes", "tx_frames", &pair.tx)]
            })
            .collect()
    }
}

/// What went through one queue.
#[derive(Default)]
pub(super) struct Traffic {
    bytes: Count,
    frames: Count,
}

impl Traffic {
    pub(super) fn add(&self, frames: u64, bytes: u64) {
        self.frames.add(frames);
        self.bytes.add(bytes);
    }
}

/// The tap's offloads for a set of GUEST_* feature bits.
pub(super) fn tap_offloads(guest: u64) -> Offloads {
    const PAIRS: [(u32, Offloads); 5] = [
        (spec::VIRTIO_NET_F_GUEST_CSUM, Offloads::CSUM),
        (spec::VIRTIO_NET_F_GUEST_TSO4, Offloads::TSO4),
        (spec::VIRTIO_NET_F_GUEST_TSO6, Offloads::TSO6),
        (spec::VIRTIO_NET_F_GUEST_ECN, Offloads::ECN),
        (spec::VIRTIO_NET_F_GUEST_UFO, Offloads::UFO),
    ];
    PAIRS.into_iter().filter(|(bit, _)| guest & (1 << bit) != 0).map(|(_, offload)| offload).collect()
}

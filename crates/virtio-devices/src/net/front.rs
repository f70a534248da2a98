//! The front: features, configuration space, start and stop. vCPUs enter it under the bus slot's lock.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use ::net::TapQueue;
use config::plan;
use device::read_bytes;
use meter::CounterSet;
use virtio::{Activation, ActiveQueue, Info, QueueServer, VirtioDevice, Worker, Workers, feature};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net as spec;

use super::control::Control;
use super::pair::Pair;
use super::profile;
use super::shared::{Link, Shared};
use super::{DriverState, Error};

const fn bit(number: u32) -> u64 {
    1 << number
}

/// What the driver may leave to the host while it receives.
pub(super) const GUEST_OFFLOADS: u64 = bit(spec::VIRTIO_NET_F_GUEST_CSUM)
    | bit(spec::VIRTIO_NET_F_GUEST_TSO4)
    | bit(spec::VIRTIO_NET_F_GUEST_TSO6)
    | bit(spec::VIRTIO_NET_F_GUEST_ECN)
    | bit(spec::VIRTIO_NET_F_GUEST_UFO);
pub(super) const MQ: u64 = bit(spec::VIRTIO_NET_F_MQ);
const STATUS: u64 = bit(spec::VIRTIO_NET_F_STATUS);
const ANNOUNCE: u64 = bit(spec::VIRTIO_NET_F_GUEST_ANNOUNCE);

/// Bytes of configuration: MAC address, status, pairs, MTU.
const CONFIG_LEN: u16 = 12;
/// Where a driver that knows no more than one pair looks for the control queue.
const CONTROL_OF_ONE_PAIR: u16 = 2;

/// The host's side of a network card.
pub(super) struct Host {
    pub(super) queues: Vec<Arc<TapQueue>>,
    pub(super) link: Box<dyn Link>,
    pub(super) name: String,
    pub(super) mtu: Option<u16>,
}

/// A network card. See the module.
pub struct Net {
    info: Info,
    host_name: String,
    mtu: Option<u16>,
    max_pairs: u16,
    shared: Arc<Shared>,
    workers: Workers,
    /// Features the driver accepted, once it is ready.
    features: Option<u64>,
    restored: bool,
}

impl Net {
    pub(super) fn assemble(id: &str, plan: &plan::Net, host: Host) -> Result<Self, Error> {
        let Host { queues, link, name, mtu } = host;
        let shared = Arc::new(Shared::new(id.into(), plan.mac.0, link, plan.queue_pairs));
        let mut workers = Vec::with_capacity(queues.len() + 1);
        for (number, tap) in (0u16..).zip(queues) {
            let name = format!("{id}_qp{number}");
            let worker = Worker::spawn(&profile::PAIR, &name, Pair::new(number, tap, shared.clone()));
            let worker = worker.map_err(|source| Error::Thread { name, source })?;
            workers.push((worker, vec![2 * number, 2 * number + 1]));
        }
        let max_pairs = plan.queue_pairs;
        let name_of_control = format!("{id}_ctrl");
        let control =
            Worker::spawn(&profile::CONTROL, &name_of_control, Control::new(max_pairs, shared.clone()))
                .map_err(|source| Error::Thread { name: name_of_control, source })?;
        workers.push((control, vec![2 * max_pairs]));
        let info = Info {
            id: id.into(),
            device_type: VIRTIO_ID_NET as u16,
            queue_sizes: vec![plan.queue_size; 2 * usize::from(max_pairs) + 1],
            features: features(plan, mtu),
            config_len: CONFIG_LEN,
        };
        Ok(Self {
            info,
            host_name: name,
            mtu,
            max_pairs,
            shared,
            workers: Workers::new(workers),
            features: None,
            restored: false,
        })
    }

    /// The name of the host's interface.
    pub fn tap_name(&self) -> &str {
        &self.host_name
    }

    pub(super) fn max_pairs(&self) -> u16 {
        self.max_pairs
    }

    pub(super) fn driver(&self) -> MutexGuard<'_, Option<DriverState>> {
        self.shared.driver()
    }

    pub(super) fn set_restored(&mut self, driver: Option<DriverState>) {
        self.restored = driver.is_some();
        *self.shared.driver() = driver;
    }

    fn status(&self) -> u16 {
        // A driver may look before it has told its features; one that did not accept STATUS sees zeros.
        if self.features.is_some_and(|features| features & STATUS == 0) {
            return 0;
        }
        let announce = self.shared.driver().as_ref().is_some_and(|driver| driver.announce);
        let announce = if announce { spec::VIRTIO_NET_S_ANNOUNCE } else { 0 };
        (spec::VIRTIO_NET_S_LINK_UP | announce) as u16
    }

    /// A driver that did not accept MQ finds the control queue behind the first pair (§5.1.2); its worker knows it behind the last.
    /// Doing this twice changes nothing.
    fn swap_control(&self, queues: &mut [ActiveQueue]) {
        if self.features.is_some_and(|features| features & MQ != 0) {
            return;
        }
        let last = 2 * self.max_pairs;
        for queue in queues {
            queue.index = match queue.index {
                CONTROL_OF_ONE_PAIR => last,
                index if index == last => CONTROL_OF_ONE_PAIR,
                index => index,
            };
        }
    }
}

impl VirtioDevice for Net {
    fn info(&self) -> &Info {
        &self.info
    }

    fn server(&mut self) -> &mut dyn QueueServer {
        &mut self.workers
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0u8; CONFIG_LEN as usize];
        config[..6].copy_from_slice(&self.shared.mac);
        config[6..8].copy_from_slice(&self.status().to_le_bytes());
        config[8..10].copy_from_slice(&self.max_pairs.to_le_bytes());
        config[10..].copy_from_slice(&self.mtu.unwrap_or(0).to_le_bytes());
        read_bytes(config, offset, data);
    }

    fn start(&mut self, mut activation: Activation) {
        let features = activation.features;
        self.features = Some(features);
        let mut driver = self.shared.driver();
        self.shared.fresh.store(driver.is_none(), Ordering::SeqCst);
        let driver_state = driver.get_or_insert_with(|| DriverState {
            offloads: features & GUEST_OFFLOADS,
            pairs: 1,
            announce: false,
        });
        let mut announce = false;
        if std::mem::take(&mut self.restored) {
            self.shared.moved.store(true, Ordering::SeqCst);
            announce = features & ANNOUNCE != 0;
            driver_state.announce |= announce;
        }
        drop(driver);
        if announce {
            activation.signals.config_changed();
        }
        self.swap_control(&mut activation.queues);
        self.workers.start(activation);
    }

    fn stopped(&mut self, deadline: Instant) -> Option<Vec<ActiveQueue>> {
        let mut queues = self.workers.stopped(deadline)?;
        self.swap_control(&mut queues);
        queues.sort_by_key(|queue| queue.index);
        Some(queues)
    }

    fn reset(&mut self) {
        self.features = None;
        self.restored = false;
        *self.shared.driver() = None;
        self.shared.moved.store(false, Ordering::SeqCst);
    }

    fn counters(&self) -> Option<Arc<dyn CounterSet>> {
        Some(self.shared.counters.clone())
    }
}

fn features(plan: &plan::Net, mtu: Option<u16>) -> u64 {
    let mut features = feature::EVENT_IDX | STATUS | ANNOUNCE | MQ;
    features |= bit(spec::VIRTIO_NET_F_MAC) | bit(spec::VIRTIO_NET_F_CTRL_VQ);
    if mtu.is_some() {
        features |= bit(spec::VIRTIO_NET_F_MTU);
    }
    if plan.offload_csum {
        features |= bit(spec::VIRTIO_NET_F_CSUM)
            | bit(spec::VIRTIO_NET_F_GUEST_CSUM)
            | bit(spec::VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);
    }
    if plan.offload_tso {
        features |= bit(spec::VIRTIO_NET_F_HOST_TSO4)
            | bit(spec::VIRTIO_NET_F_HOST_TSO6)
            | bit(spec::VIRTIO_NET_F_HOST_ECN)
            | bit(spec::VIRTIO_NET_F_GUEST_TSO4)
            | bit(spec::VIRTIO_NET_F_GUEST_TSO6)
            | bit(spec::VIRTIO_NET_F_GUEST_ECN);
    }
    if plan.offload_ufo {
        features |= bit(spec::VIRTIO_NET_F_HOST_UFO) | bit(spec::VIRTIO_NET_F_GUEST_UFO);
    }
    features
}

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ::net::{HEADER_LEN, Offloads, TapQueue};
use config::MacAddr;
use memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestRam, test_ram};
use virtio::fake::{self, FakeInterrupt, FakeQueue, NEXT, WRITE};
use virtio::{Activation, VirtioDevice, feature};
use virtio_bindings::virtio_net as spec;
use virtio_queue::QueueT;

use super::front::{GUEST_OFFLOADS, Host};
use super::shared::Link;
use super::*;

mod control;
mod hostile;
mod real;
mod traffic;

const MAC: [u8; 6] = [0x2e, 1, 2, 3, 4, 5];
const RAM_LEN: usize = 0x20_0000;
/// Buffers of tests lie here, beyond all queues.
const BUFFERS: u64 = 0x10_0000;

/// Records what the driver changes on the host's side.
#[derive(Clone, Default)]
struct FakeLink(Arc<Mutex<Vec<Change>>>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    Offloads(Offloads),
    Attached(u16),
}

impl FakeLink {
    fn take(&self) -> Vec<Change> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Link for FakeLink {
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        self.0.lock().unwrap().push(Change::Offloads(offloads));
        Ok(())
    }

    fn set_attached(&self, pairs: u16) -> io::Result<()> {
        self.0.lock().unwrap().push(Change::Attached(pairs));
        Ok(())
    }
}

fn config(pairs: u16) -> plan::Net {
    plan::Net { queue_pairs: pairs, ..plan::Net::new(MacAddr(MAC)) }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// A card whose tap queues lead nowhere.
fn unconnected(plan: &plan::Net) -> Net {
    let queue = |_| {
        let (ours, _) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        Arc::new(TapQueue::new(OwnedFd::from(ours)))
    };
    let queues = (0..plan.queue_pairs).map(queue).collect();
    let host = Host { queues, link: Box::new(FakeLink::default()), name: "fake".into(), mtu: None };
    Net::assemble("_net0", plan, host).unwrap()
}

/// A card whose tap queues are sockets, with its driver's queues.
struct Rig {
    ram: GuestRam,
    net: Net,
    hosts: Vec<UnixDatagram>,
    link: FakeLink,
    queues: Vec<FakeQueue>,
    config_interrupt: Arc<FakeInterrupt>,
}

impl Rig {
    fn new(pairs: u16) -> Self {
        let (ours, hosts): (Vec<_>, Vec<_>) = (0..pairs).map(|_| UnixDatagram::pair().unwrap()).unzip();
        let ours = ours.into_iter().map(|socket| {
            socket.set_nonblocking(true).unwrap();
            Arc::new(TapQueue::new(OwnedFd::from(socket)))
        });
        let link = FakeLink::default();
        let host = Host {
            queues: ours.collect(),
            link: Box::new(link.clone()),
            name: "fake".into(),
            mtu: Some(1500),
        };
        let net = Net::assemble("_net0", &config(pairs), host).unwrap();
        let ram = test_ram(&[(0, RAM_LEN)]);
        let queues = (0..2 * u64::from(pairs) + 1).map(|i| FakeQueue::new(&ram, i * 0x4000, 256)).collect();
        Self { ram, net, hosts, link, queues, config_interrupt: Arc::default() }
    }

    fn started(pairs: u16, features: u64) -> Self {
        let mut rig = Self::new(pairs);
        rig.start_for_sure(features);
        rig
    }

    /// A fresh driver's start, after which no frame counts as stale: the queues come back only when the workers have really started.
    fn start_for_sure(&mut self, features: u64) {
        self.start(features);
        let queues = self.stop();
        self.resume(queues, features);
    }

    fn start(&mut self, features: u64) {
        let queues: Vec<_> = self.queues.iter().collect();
        let (activation, interrupt) = fake::activation(&self.ram, features, &queues);
        self.config_interrupt = interrupt;
        self.net.start(activation);
    }

    /// Stops the device and starts it again as a resume does: with the queues as they were.
    fn stop(&mut self) -> Vec<virtio::ActiveQueue> {
        self.net.stop();
        self.net.stopped(soon()).unwrap()
    }

    fn resume(&mut self, queues: Vec<virtio::ActiveQueue>, features: u64) {
        let (activation, interrupt) = fake::activation(&self.ram, features, &[]);
        self.config_interrupt = interrupt;
        self.net.start(Activation { queues, ..activation });
    }

    /// A queue that is not lent to `self`, for calls that need both.
    fn queue(&mut self, index: usize) -> &mut FakeQueue {
        &mut self.queues[index]
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.ram.map().write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.map().read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn host_receives(&self, pair: usize) -> Vec<u8> {
        let mut frame = vec![0; 0x1_0000];
        let len = self.hosts[pair].recv(&mut frame).unwrap();
        frame.truncate(len);
        frame
    }

    fn counter(&self, name: &str) -> u64 {
        self.net.counters().unwrap().read().into_iter().find(|(n, _)| *n == name).unwrap().1
    }

    fn config(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        self.net.read_config(0, &mut bytes);
        bytes
    }

    fn state(&self) -> State {
        device::Persist::save(&self.net)
    }

    fn put_state(&mut self, state: State) -> Result<(), device::RestoreError> {
        device::Persist::restore(&mut self.net, state)
    }

    fn status(&self) -> u8 {
        self.config()[6]
    }
}

/// A frame as the host sends it: an empty virtio-net header and `payload`.
fn frame(payload: &[u8]) -> Vec<u8> {
    [&[0; HEADER_LEN], payload].concat()
}

const fn bit(number: u32) -> u64 {
    1 << number
}

#[test]
fn features_follow_the_configuration() {
    let features = |config: &plan::Net, mtu| {
        let host = Host { queues: vec![], link: Box::new(FakeLink::default()), name: String::new(), mtu };
        let net = Net::assemble("_net0", config, host).unwrap();
        net.info().features
    };
    let always = feature::EVENT_IDX
        | bit(spec::VIRTIO_NET_F_MAC)
        | bit(spec::VIRTIO_NET_F_STATUS)
        | bit(spec::VIRTIO_NET_F_CTRL_VQ)
        | bit(spec::VIRTIO_NET_F_GUEST_ANNOUNCE)
        | bit(spec::VIRTIO_NET_F_MQ);
    let bare = plan::Net { offload_tso: false, offload_ufo: false, offload_csum: false, ..config(1) };
    assert_eq!(features(&bare, None), always);
    assert_eq!(features(&bare, Some(1500)), always | bit(spec::VIRTIO_NET_F_MTU));
    assert_eq!(features(&plan::Net { offload_csum: true, ..bare.clone() }, None), always | 0b111);
    assert_eq!(features(&plan::Net { offload_tso: true, ..bare.clone() }, None), always | 0x3b80);
    assert_eq!(features(&plan::Net { offload_ufo: true, ..bare }, None), always | 0x4400);
}

#[test]
fn the_configuration_space_holds_address_status_pairs_and_mtu() {
    let rig = Rig::new(3);
    assert_eq!(rig.config(), [0x2e, 1, 2, 3, 4, 5, 1, 0, 3, 0, 0xdc, 5]);
    let info = rig.net.info();
    assert_eq!((info.device_type, info.config_len, &*info.queue_sizes), (1, 12, &[256; 7][..]));
    let mut beyond = [0xaa; 4];
    rig.net.read_config(10, &mut beyond);
    assert_eq!(beyond, [0xdc, 5, 0xaa, 0xaa]);
    rig.net.read_config(u64::MAX, &mut beyond);
    assert_eq!(rig.net.tap_name(), "fake");
}

#[test]
fn a_driver_without_status_sees_no_link() {
    let mut rig = Rig::started(1, 0);
    assert_eq!(rig.status(), 0);
    rig.stop();
    rig.net.reset();
    assert_eq!(rig.status(), 1);
    rig.start(bit(spec::VIRTIO_NET_F_STATUS));
    assert_eq!(rig.status(), 1);
}

#[test]
fn the_contract_holds() {
    let plan = plan::Net { queue_size: 16, ..plan::Net::new(MacAddr([2, 0, 0, 0, 0, 1])) };
    crate::tests::holds(unconnected(&plan));
}

//! The device's configuration and life cycle, as the transport sees them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use config::plan;
use device::read_bytes;
use virtio::{Activation, Info, QueueServer, VirtioDevice, Worker, Workers, feature};
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

use super::PROFILE;
use super::listener::Socket;
use super::muxer::Muxer;
use super::state::Shared;
use super::worker::{self, EVENT, RECEIVE, TRANSMIT};

const QUEUE_SIZE: u16 = 256;

/// The front half of a vsock device.
pub struct Front {
    info: Info,
    cid: u64,
    shared: Arc<Shared>,
    workers: Workers,
    /// Behind the thread, which listens on it.
    _socket: Socket,
}

impl Front {
    pub(super) fn new(id: &str, vsock: &plan::Vsock, socket: Socket, patience: Duration) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(Muxer::new(vsock, patience)));
        let handler = worker::Worker::new(shared.clone(), socket.listener.clone())?;
        let worker = Worker::spawn(&PROFILE, id, handler)?;
        let info = Info {
            id: id.into(),
            device_type: VIRTIO_ID_VSOCK as u16,
            queue_sizes: vec![QUEUE_SIZE; 3],
            // Each queue has one turn after the other, and each chain is given back before the next is looked at.
            features: feature::IN_ORDER,
            config_len: size_of::<u64>() as u16,
        };
        let workers = Workers::new(vec![(worker, vec![RECEIVE, TRANSMIT, EVENT])]);
        Ok(Self { info, cid: vsock.cid.into(), shared, workers, _socket: socket })
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
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
        read_bytes(self.cid.to_le_bytes(), offset, data);
    }

    fn start(&mut self, activation: Activation) {
        self.shared.set_ready();
        self.workers.start(activation);
    }

    fn reset(&mut self) {
        self.shared.reset();
    }
}

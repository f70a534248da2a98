//! The echo device's life cycle, as the transport sees it.

use std::io;

use config::Echo;
use device::Stateless;
use virtio::{Info, QueueServer, VirtioDevice, Worker, Workers};

use super::PROFILE;
use super::worker::Mirror;

const DEVICE_TYPE: u16 = 63;

/// The front half of an echo device.
pub struct Front {
    info: Info,
    workers: Workers,
}

impl Front {
    pub(super) fn new(id: &str, echo: &Echo) -> io::Result<Self> {
        let workers = Workers::new(vec![(Worker::spawn(&PROFILE, id, Mirror)?, vec![0])]);
        let (id, queue_sizes) = (id.into(), vec![echo.queue_size]);
        let info = Info { id, device_type: DEVICE_TYPE, queue_sizes, features: 0, config_len: 0 };
        Ok(Self { info, workers })
    }
}

impl Stateless for Front {
    const KIND: &'static str = "virtio-echo";
}

impl VirtioDevice for Front {
    fn info(&self) -> &Info {
        &self.info
    }

    fn server(&mut self) -> &mut dyn QueueServer {
        &mut self.workers
    }

    fn read_config(&self, _: u64, _: &mut [u8]) {}
}

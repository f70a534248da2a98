//! The entropy source's life cycle, as the transport sees it.

use std::fs::File;
use std::io;

use device::Stateless;
use virtio::{Info, QueueServer, VirtioDevice, Worker, Workers};

use super::PROFILE;
use super::worker::Source;

const DEVICE_TYPE: u16 = 4;
const QUEUE_SIZE: u16 = 256;

/// The front half of an entropy source.
pub struct Front {
    info: Info,
    workers: Workers,
}

impl Front {
    pub(super) fn new(id: &str, file: File) -> io::Result<Self> {
        let workers = Workers::new(vec![(Worker::spawn(&PROFILE, id, Source(file))?, vec![0])]);
        let id = id.into();
        let info =
            Info { id, device_type: DEVICE_TYPE, queue_sizes: vec![QUEUE_SIZE], features: 0, config_len: 0 };
        Ok(Self { info, workers })
    }
}

impl Stateless for Front {
    const KIND: &'static str = "virtio-rng";
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

//! The console's configuration and life cycle, as the transport sees them.

use std::io;
use std::sync::Arc;

use device::read_bytes;
use device::{Persist, RestoreError};
use stream::Stream;
use virtio::{Activation, Info, QueueServer, VirtioDevice, Worker, Workers};

use super::PROFILE;
use super::state::{INPUT_LIMIT, Shared, State};
use super::worker::{Console, RECEIVE, TRANSMIT};

const DEVICE_TYPE: u16 = 3;
const QUEUE_SIZE: u16 = 256;
/// Feature: the configuration knows the size.
pub(super) const SIZE: u64 = 1;
/// cols, rows: u16; max_nr_ports, emerg_wr: u32.
const CONFIG_LEN: u16 = 12;
const PORTS: u32 = 1;

/// The front half of a console.
pub struct Front {
    info: Info,
    shared: Arc<Shared>,
    workers: Workers,
}

/// Tells the console that the terminal may have another size, after SIGWINCH. Cloning shares it.
#[derive(Clone)]
pub struct Resizer(Arc<Shared>);

impl Resizer {
    /// Reads the size; a driver that accepted the feature is interrupted if it has changed.
    pub fn refresh(&self) {
        self.0.refresh();
    }
}

impl Front {
    pub(super) fn new(id: &str, stream: Stream) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(stream));
        let worker = Worker::spawn(&PROFILE, id, Console::new(shared.clone()))?;
        let info = Info {
            id: id.into(),
            device_type: DEVICE_TYPE,
            queue_sizes: vec![QUEUE_SIZE; 2],
            features: SIZE,
            config_len: CONFIG_LEN,
        };
        let workers = Workers::new(vec![(worker, vec![RECEIVE, TRANSMIT])]);
        Ok(Self { info, shared, workers })
    }

    /// The host's end.
    pub fn stream(&self) -> &Stream {
        &self.shared.stream
    }

    /// The handle for whoever hears of a new terminal size.
    pub fn resizer(&self) -> Resizer {
        Resizer(self.shared.clone())
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
        let (size, ports, emergency) = (self.shared.show_size().to_le_bytes(), PORTS.to_le_bytes(), [0; 4]);
        read_bytes([size, ports, emergency].into_iter().flatten(), offset, data);
    }

    fn start(&mut self, activation: Activation) {
        self.shared.refresh();
        let wanted = activation.features & SIZE != 0;
        self.shared.listen(wanted.then(|| activation.signals.clone()));
        self.workers.start(activation);
    }

    fn stop(&mut self) {
        self.shared.listen(None);
        self.workers.stop();
    }

    fn reset(&mut self) {
        self.shared.input().clear();
    }
}

impl Persist for Front {
    type State = State;
    const KIND: &'static str = "virtio-console";
    const VERSION: u32 = 1;

    fn save(&self) -> State {
        State { input: self.shared.input().iter().copied().collect() }
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        if state.input.len() > INPUT_LIMIT {
            return Err(RestoreError::Value { kind: Self::KIND, field: "amount of input" });
        }
        *self.shared.input() = state.input.into();
        Ok(())
    }
}

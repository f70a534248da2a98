//! Virtio over PCI (§4.1), modern only: one function with all registers in BAR 0 (`spec/devices.md` §6).
//!
//! ```text
//!  BAR 0   0x00000 common   0x02000 ISR   0x04000 device   0x06000 notify   0x08000 MSI-X table   0x48000 pending bits
//! ```
//! vCPUs enter it under the bus slot's lock; control enters it to pause, resume and save. The life of a device:
//! ```text
//!            DRIVER_OK                pause
//!   idle ---------------> running <--------> paused
//!    ^                       | status = 0
//!    |  queues are back      v
//!    +------------------- stopping (status still reads non-zero)
//! ```

mod common;
mod window;

use std::sync::Arc;

use device::{Access, Device, Effect, Events, MsiSource, Persist, Region, RestoreError, Saved};
use host::EventFd;
use memory::GuestRam;
use pci::{
    Address, BarKind, ConfigSpace, ConfigState, Identity, Msix, MsixState, NO_VECTOR, REGION_CONFIG, Vector,
};
use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueT};

use crate::{Activation, ActiveQueue, Signals, VirtioDevice, feature};
use common::{Common, Request};

/// Bytes of BAR 0.
pub const BAR_SIZE: u64 = 0x8_0000;
const ISR: u64 = 0x2000;
const DEVICE: u64 = 0x4000;
const NOTIFY: u64 = 0x6000;
const NOTIFY_MULTIPLIER: u32 = 4;
const MSIX_TABLE: u64 = 0x8000;
const MSIX_PENDING: u64 = 0x4_8000;

/// Status bits (§2.1).
mod status {
    pub(super) const DRIVER_OK: u8 = 4;
    pub(super) const FEATURES_OK: u8 = 8;
    pub(super) const NEEDS_RESET: u8 = 0x40;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Running,
    Paused,
    Stopping,
}

/// A virtio device as a PCI function.
pub struct VirtioPci {
    device: Box<dyn VirtioDevice>,
    config: ConfigSpace,
    /// Where the capability lies that opens a window from configuration space into the BAR.
    window: usize,
    msix: Msix,
    msix_at: usize,
    common: Common,
    phase: Phase,
    kicks: Vec<Arc<EventFd>>,
    config_vector: Arc<Vector>,
    signals: Arc<Signals>,
    ram: GuestRam,
    events: Events,
}

/// What a function needs besides its device.
pub struct Place<'a> {
    /// Its slot.
    pub address: Address,
    /// Where BAR 0 starts, and how wide the register is.
    pub bar: (u64, BarKind),
    /// Where its vectors come from.
    pub msi: &'a dyn MsiSource,
    /// Guest RAM.
    pub ram: &'a GuestRam,
    /// Where activations are reported.
    pub events: &'a Events,
}

impl VirtioPci {
    /// Puts `device` behind PCI registers.
    ///
    /// # Errors
    /// The kernel's, if there is no descriptor left for the queues' bells, and of kind `InvalidInput` if there are too many queues.
    pub fn new(device: Box<dyn VirtioDevice>, place: &Place<'_>) -> std::io::Result<Self> {
        let info = device.info();
        let queues = info.queue_sizes.len();
        let kicks = (0..queues).map(|_| host::event_fd().map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
        let msix = Msix::new(queues + 1, place.msi)?;
        let mut config = ConfigSpace::new(place.address, &identity(info.device_type));
        config.add_bar(0, place.bar.1, BAR_SIZE, place.bar.0);
        let (window, msix_at) = window::add_capabilities(&mut config, info, &msix);
        let config_vector = Arc::new(Vector::new(msix.vectors(), NO_VECTOR));
        let common = Common::new(info);
        let signals = Arc::new(Signals::new(config_vector.clone()));
        Ok(Self {
            device,
            config,
            window,
            msix,
            msix_at,
            common,
            phase: Phase::Idle,
            kicks,
            config_vector,
            signals,
            ram: place.ram.clone(),
            events: place.events.clone(),
        })
    }

    /// The device behind the registers.
    pub fn device(&self) -> &dyn VirtioDevice {
        self.device.as_ref()
    }

    /// Where the function sits.
    pub fn address(&self) -> Address {
        self.config.address()
    }

    /// BAR 0: base and size.
    pub fn bar(&self) -> Option<(u64, u64)> {
        self.config.bar(0)
    }

    /// Stops the workers and keeps the queues. In-flight requests are finished first.
    pub fn pause(&mut self) {
        self.finish_stop(true);
        if self.phase == Phase::Running {
            self.device.stop();
            self.take_queues(true);
            self.phase = Phase::Paused;
        }
    }

    /// Lets the workers go on after [`VirtioPci::pause`] or a restore.
    pub fn resume(&mut self) {
        if self.phase == Phase::Paused {
            self.start();
        }
    }

    fn bar_read(&mut self, offset: u64, data: &mut [u8]) {
        match offset {
            ..ISR => {
                if self.phase == Phase::Stopping {
                    self.finish_stop(false);
                }
                self.common.read(offset, data, &self.signals);
            }
            ISR => data.fill(self.signals.take_isr()),
            DEVICE..NOTIFY => self.device_config(offset - DEVICE, data.len()).map_or((), |at| {
                self.device.read_config(at, data);
            }),
            MSIX_TABLE..MSIX_PENDING => self.msix.read_table(offset - MSIX_TABLE, data),
            MSIX_PENDING.. => self.msix.read_pending(offset - MSIX_PENDING, data),
            _ => {}
        }
    }

    fn bar_write(&mut self, offset: u64, data: &[u8]) {
        match offset {
            ..ISR => {
                if self.phase == Phase::Stopping {
                    self.finish_stop(false);
                }
                if self.phase != Phase::Stopping {
                    let request = self.common.write(offset, data);
                    self.obey(request);
                }
            }
            DEVICE..NOTIFY => {
                if let Some(at) = self.device_config(offset - DEVICE, data.len()) {
                    self.device.write_config(at, data);
                }
            }
            NOTIFY..MSIX_TABLE => self.kick(offset - NOTIFY),
            MSIX_TABLE..MSIX_PENDING => self.msix.write_table(offset - MSIX_TABLE, data),
            _ => {}
        }
    }

    fn device_config(&self, offset: u64, len: usize) -> Option<u64> {
        (offset + len as u64 <= u64::from(self.device.info().config_len)).then_some(offset)
    }

    fn kick(&self, offset: u64) {
        let queue = usize::try_from(offset / u64::from(NOTIFY_MULTIPLIER)).ok();
        if let Some(kick) = queue.and_then(|queue| self.kicks.get(queue)) {
            // A full counter means the worker has not looked since: it will.
            let _ = kick.write(1);
        }
    }

    fn obey(&mut self, request: Request) {
        match request {
            Request::None => {}
            Request::ConfigVector(vector) => self.config_vector.set_index(vector),
            Request::Start if self.phase == Phase::Idle => {
                self.start();
                self.events.record("virtio-device", "activated", &[("id", &self.device.info().id)]);
            }
            Request::Start => {}
            Request::Reset if self.phase == Phase::Running => {
                self.device.stop();
                self.phase = Phase::Stopping;
                self.finish_stop(false);
            }
            Request::Reset => self.forget(),
        }
    }

    /// Hands the queues to the device, or declares the device broken if the driver laid them out wrongly.
    fn start(&mut self) {
        let mut queues = Vec::new();
        for (index, kick) in (0u16..).zip(&self.kicks) {
            let Some(registers) = self.common.queue(index).filter(|q| q.enabled) else { continue };
            let Some(queue) = registers.build(self.common.driver_features & feature::EVENT_IDX != 0) else {
                return self.refuse(index);
            };
            if !queue.is_valid(self.ram.map()) {
                return self.refuse(index);
            }
            let interrupt = Arc::new(Vector::new(self.msix.vectors(), registers.vector));
            queues.push(ActiveQueue::new(index, queue, kick.clone(), interrupt));
        }
        self.phase = Phase::Running;
        let (ram, signals) = (self.ram.clone(), self.signals.clone());
        self.device.start(Activation { ram, features: self.common.driver_features, queues, signals });
    }

    fn refuse(&mut self, queue: u16) {
        tracing::warn!("{}: the driver laid out queue {queue} wrongly", self.device.info().id);
        self.signals.needs_reset();
    }

    fn finish_stop(&mut self, wait: bool) {
        if self.phase == Phase::Stopping && self.take_queues(wait) {
            self.forget();
            self.events.record("virtio-device", "reset", &[("id", &self.device.info().id)]);
        }
    }

    fn take_queues(&mut self, wait: bool) -> bool {
        let Some(queues) = self.device.stopped(wait) else { return false };
        for ActiveQueue { index, queue, .. } in queues {
            self.common.set_progress(index, &queue);
        }
        true
    }

    fn forget(&mut self) {
        self.phase = Phase::Idle;
        self.common = Common::new(self.device.info());
        self.config_vector.set_index(NO_VECTOR);
        self.signals.reset();
        self.device.reset();
    }

    fn config_write(&mut self, offset: u64, data: &[u8]) -> Effect {
        let effect = self.config.write(offset, data);
        if let Some((at, len)) = self.window_target(offset, data.len()) {
            self.bar_write(at, &data[..len]);
        }
        let at = offset & !3;
        if at == self.msix_at as u64 {
            self.msix.set_control((self.config.dword(self.msix_at) >> 16) as u16);
        }
        effect
    }
}

fn identity(device_type: u16) -> Identity {
    const NETWORK: u16 = 1;
    const BLOCK: u16 = 2;
    let device = 0x1040u16.wrapping_add(device_type);
    let class = match device_type {
        NETWORK => 0x02_0000,
        BLOCK => 0x01_8000,
        _ => 0xff_ff00,
    };
    Identity { vendor: 0x1af4, device, revision: 1, class, subsystem_vendor: 0x1af4, subsystem: device }
}

impl Device for VirtioPci {
    fn regions(&self) -> Vec<Region> {
        let mut regions = self.config.regions();
        for region in regions.iter_mut().filter(|region| region.index == 0) {
            let bell =
                |(i, kick): (u64, &Arc<EventFd>)| (NOTIFY + i * u64::from(NOTIFY_MULTIPLIER), kick.clone());
            region.doorbells = (0..).zip(&self.kicks).map(bell).collect();
        }
        regions
    }

    fn read(&mut self, at: Access, data: &mut [u8]) {
        if at.region != REGION_CONFIG {
            return self.bar_read(at.offset, data);
        }
        self.config.read(at.offset, data);
        if let Some((target, len)) = self.window_target(at.offset, data.len()) {
            self.bar_read(target, &mut data[..len]);
        }
    }

    fn write(&mut self, at: Access, data: &[u8]) -> Effect {
        if at.region == REGION_CONFIG {
            return self.config_write(at.offset, data);
        }
        self.bar_write(at.offset, data);
        Effect::None
    }

    fn reset(&mut self) {
        self.pause();
        self.forget();
        self.msix.reset();
        self.config.reset();
    }

    fn undo_remap(&mut self) {
        self.config.undo_remap();
    }

    fn save(&self) -> Option<Saved> {
        self.to_saved()
    }

    fn restore(&mut self, saved: &Saved) -> Result<(), RestoreError> {
        self.restore_saved(saved)
    }
}

/// A virtio function as it stands in a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    config: ConfigState,
    msix: MsixState,
    common: Common,
    running: bool,
    device: Option<Saved>,
}

impl Persist for VirtioPci {
    type State = State;
    const KIND: &'static str = "virtio-pci";
    const VERSION: u32 = 1;

    fn save(&self) -> State {
        State {
            config: self.config.save(),
            msix: self.msix.save(),
            common: self.common.clone(),
            running: matches!(self.phase, Phase::Running | Phase::Paused),
            device: self.device.save(),
        }
    }

    /// Leaves the device paused if it was running.
    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        let value = |field| RestoreError::Value { kind: Self::KIND, field };
        if !state.common.fits(self.device.info()) {
            return Err(value("queue"));
        }
        self.config.restore(state.config).map_err(value)?;
        self.msix.restore(state.msix).map_err(value)?;
        if let Some(device) = &state.device {
            self.device.restore(device)?;
        }
        self.config_vector.set_index(state.common.config_vector);
        self.common = state.common;
        self.phase = if state.running { Phase::Paused } else { Phase::Idle };
        Ok(())
    }
}

/// A queue as the driver laid it out, if its size is one.
fn build_queue(size: u16, addresses: [u64; 3], progress: (u16, u16), event_idx: bool) -> Option<Queue> {
    let mut queue = Queue::new(size).ok()?;
    let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
    let [descriptors, available, used] = addresses.map(halves);
    queue.set_desc_table_address(descriptors.0, descriptors.1);
    queue.set_avail_ring_address(available.0, available.1);
    queue.set_used_ring_address(used.0, used.1);
    queue.set_next_avail(progress.0);
    queue.set_next_used(progress.1);
    queue.set_event_idx(event_idx);
    queue.set_ready(true);
    Some(queue)
}

#[cfg(test)]
mod tests;

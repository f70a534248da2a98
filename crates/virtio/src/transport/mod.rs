//! Virtio over PCI (§4.1), modern only: one function with all registers in BAR 0 (`spec/devices.md` §6).
//!
//! ```text
//!  BAR 0   0x00000 common   0x02000 ISR   0x04000 device   0x06000 notify   0x08000 MSI-X table   0x48000 pending bits
//! ```
//! vCPUs enter it under the bus slot's lock; control enters it to pause, resume and save. The life of a device:
//! ```text
//!            DRIVER_OK               pause            queues are back
//!   idle ---------------> running ----------> stopping --------------> paused
//!    ^                     |   ^                  | resume               | resume
//!    |                     |   +------------------+----------------------+
//!    |  queues are back    v status = 0
//!    +------------------- stopping (status still reads non-zero)
//! ```
//! A device that was late to hold still and is resumed meanwhile goes on as soon as its queues are back. A broken one
//! (DEVICE_NEEDS_RESET) goes through all of this without being served, until the driver resets it.

mod common;
mod state;
mod window;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use device::{Access, Device, Effect, Events, Region};
use host::EventFd;
use memory::DmaRam;
use pci::{BarKind, ConfigSpace, Identity, Msix, NO_VECTOR, Place, REGION_CONFIG, Vector};

use virtio_queue::QueueT;

use crate::{Activation, ActiveQueue, Signals, VirtioDevice, feature};
use common::{Action, Common};

/// Bytes of BAR 0.
pub const BAR_SIZE: u64 = 0x8_0000;
const ISR: u64 = 0x2000;
const DEVICE: u64 = 0x4000;
const NOTIFY: u64 = 0x6000;
const NOTIFY_MULTIPLIER: u32 = 4;
const NOTIFY_LEN: u32 = 0x1000;
/// Queues a function can have: one bell each.
pub const MAX_QUEUES: usize = (NOTIFY_LEN / NOTIFY_MULTIPLIER) as usize;
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
    /// The queues are on their way back.
    Stopping(Then),
    Paused,
}

/// What becomes of a device when its queues are back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// The driver has reset it.
    Reset,
    /// Control pauses it.
    Pause,
    /// Control has paused it and let it go on before the queues were back.
    Resume,
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
    bells: Vec<Bell>,
    config_vector: Arc<Vector>,
    signals: Arc<Signals>,
    ram: DmaRam,
    events: Events,
}

/// What a queue rings and is rung by, whether it is in use or not.
struct Bell {
    kick: Arc<EventFd>,
    interrupt: Arc<Vector>,
}

impl VirtioPci {
    /// Puts `device` behind PCI registers. Its one BAR is of kind `bar`; it reaches guest RAM through `ram`, and what others must hear
    /// of goes to `events`.
    ///
    /// # Errors
    /// The kernel's, if there is no descriptor left for the queues' bells; [`io::ErrorKind::InvalidInput`] for more than
    /// [`MAX_QUEUES`].
    pub fn new(
        device: Box<dyn VirtioDevice>,
        bar: BarKind,
        place: &Place<'_>,
        ram: DmaRam,
        events: Events,
    ) -> io::Result<Self> {
        let info = device.info();
        let queues = info.queue_sizes.len();
        if queues > MAX_QUEUES {
            let text = format!("a function has at most {MAX_QUEUES} queues, not {queues}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let msix = Msix::new(queues + 1, place.msi)?;
        let bell = |_| {
            let interrupt = Arc::new(Vector::new(msix.vectors(), NO_VECTOR));
            Ok(Bell { kick: Arc::new(host::event_fd()?), interrupt })
        };
        let bells = (0..queues).map(bell).collect::<io::Result<Vec<_>>>()?;
        let mut config = ConfigSpace::new(place.address, &identity(info.device_type));
        config.add_bar(0, bar, BAR_SIZE, place.bars.first().copied().unwrap_or_default());
        let (window, msix_at) = window::add_capabilities(&mut config, info, &msix);
        let config_vector = Arc::new(Vector::new(msix.vectors(), NO_VECTOR));
        let common = Common::new(info);
        let signals = Arc::new(Signals::new(config_vector.clone(), events.clone()));
        Ok(Self {
            device,
            config,
            window,
            msix,
            msix_at,
            common,
            phase: Phase::Idle,
            bells,
            config_vector,
            signals,
            ram,
            events,
        })
    }

    fn bar_read(&mut self, offset: u64, data: &mut [u8]) {
        match offset {
            ..ISR => {
                self.settle(Instant::now());
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
                self.settle(Instant::now());
                // Until a reset is over, nothing else counts.
                if self.phase != Phase::Stopping(Then::Reset) {
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
        if let Some(bell) = queue.and_then(|queue| self.bells.get(queue)) {
            // A full counter means the worker has not looked since: it will.
            let _ = bell.kick.write(1);
        }
    }

    fn obey(&mut self, action: Action) {
        match action {
            Action::None => {}
            Action::ConfigVector(vector) => self.config_vector.set_index(vector),
            Action::QueueVector(queue, vector) => self.set_queue_vector(queue, vector),
            Action::Start if self.phase == Phase::Idle => {
                self.start();
                self.events.record("virtio-device", "activated", &[("id", &self.device.info().id)]);
            }
            Action::Start => {}
            Action::Reset => self.driver_resets(),
        }
    }

    fn set_queue_vector(&self, queue: u16, vector: u16) {
        if let Some(bell) = self.bells.get(usize::from(queue)) {
            bell.interrupt.set_index(vector);
        }
    }

    fn driver_resets(&mut self) {
        match self.phase {
            Phase::Running => {
                self.device.stop();
                self.phase = Phase::Stopping(Then::Reset);
                self.settle(Instant::now());
            }
            Phase::Stopping(_) => self.phase = Phase::Stopping(Then::Reset),
            Phase::Idle | Phase::Paused => self.forget(),
        }
    }

    /// Hands the queues to the device, or declares the device broken if the driver laid them out wrongly.
    fn start(&mut self) {
        if self.signals.is_broken() {
            // Whatever broke it is in the rings still: only a reset mends that.
            self.phase = Phase::Running;
            return;
        }
        let ram = self.ram.view();
        let mut queues = Vec::new();
        for (index, bell) in (0u16..).zip(&self.bells) {
            let Some(registers) = self.common.queue(index).filter(|q| q.enabled) else { continue };
            let Some(queue) = registers.build(self.common.driver_features & feature::EVENT_IDX != 0) else {
                return self.refuse(index);
            };
            if !queue.is_valid(&ram) {
                return self.refuse(index);
            }
            queues.push(ActiveQueue::new(index, queue, bell.kick.clone(), bell.interrupt.clone()));
        }
        self.phase = Phase::Running;
        let (ram, signals) = (self.ram.clone(), self.signals.clone());
        self.device.start(Activation { ram, features: self.common.driver_features, queues, signals });
    }

    fn refuse(&mut self, queue: u16) {
        tracing::warn!(target: "guest", "{}: the driver laid out queue {queue} wrongly", self.device.info().id);
        self.phase = Phase::Running;
        self.signals.needs_reset();
    }

    /// If queues are on their way back, waits for them until `deadline`, and does what is to be done then.
    fn settle(&mut self, deadline: Instant) {
        let Phase::Stopping(then) = self.phase else { return };
        let Some(queues) = self.device.stopped(deadline) else { return };
        for ActiveQueue { index, queue, .. } in queues {
            self.common.set_progress(index, &queue);
        }
        self.signals.await_queues(false);
        match then {
            Then::Pause => self.phase = Phase::Paused,
            Then::Resume => self.start(),
            Then::Reset => {
                self.forget();
                self.events.record("virtio-device", "reset", &[("id", &self.device.info().id)]);
            }
        }
    }

    fn forget(&mut self) {
        self.phase = Phase::Idle;
        self.common = Common::new(self.device.info());
        self.route_queues();
        self.signals.reset();
        self.device.reset();
    }

    /// Makes interrupts follow the vector registers.
    fn route_queues(&self) {
        self.config_vector.set_index(self.common.config_vector);
        for (index, bell) in (0u16..).zip(&self.bells) {
            bell.interrupt.set_index(self.common.queue(index).map_or(NO_VECTOR, |q| q.vector));
        }
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
                |(i, bell): (u64, &Bell)| (NOTIFY + i * u64::from(NOTIFY_MULTIPLIER), bell.kick.clone());
            region.doorbells = (0..).zip(&self.bells).map(bell).collect();
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
        /// A reset is asked of a machine that is paused: nothing is under way any more.
        const LIMIT: Duration = Duration::from_secs(1);
        self.pause();
        self.settle(Instant::now() + LIMIT);
        if matches!(self.phase, Phase::Stopping(_)) {
            // Whoever has the queues still works with what the driver configured: as if the driver had reset the device.
            self.phase = Phase::Stopping(Then::Reset);
        } else {
            self.forget();
        }
        self.msix.reset();
        self.config.reset();
    }

    fn undo_remap(&mut self) {
        self.config.undo_remap();
    }

    fn pause(&mut self) {
        match self.phase {
            Phase::Running => {
                self.device.stop();
                self.phase = Phase::Stopping(Then::Pause);
            }
            Phase::Stopping(Then::Resume) => self.phase = Phase::Stopping(Then::Pause),
            Phase::Stopping(Then::Reset | Then::Pause) | Phase::Idle | Phase::Paused => {}
        }
    }

    fn is_paused(&mut self, deadline: Instant) -> bool {
        self.settle(deadline);
        !matches!(self.phase, Phase::Stopping(_))
    }

    fn resume(&mut self) {
        match self.phase {
            Phase::Paused => self.start(),
            Phase::Stopping(then) => {
                if then == Then::Pause {
                    self.phase = Phase::Stopping(Then::Resume);
                }
                self.signals.await_queues(true);
                self.settle(Instant::now());
            }
            Phase::Idle | Phase::Running => {}
        }
    }
}

#[cfg(test)]
mod tests;

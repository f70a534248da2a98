//! What a device is handed at DRIVER_OK.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use device::{Event, Events, Interrupt};
use memory::DmaRam;
use serde::{Deserialize, Serialize};

use crate::ActiveQueue;

/// Everything a running device needs.
pub struct Activation {
    /// Guest RAM as the device reaches it.
    pub ram: DmaRam,
    /// Features the driver accepted.
    pub features: u64,
    /// The enabled queues, by rising index.
    pub queues: Vec<ActiveQueue>,
    /// For news to the driver that no queue carries.
    pub signals: Arc<Signals>,
}

/// News from workers to the driver: the device is broken, or its configuration changed. A leaf object shared with the transport.
pub struct Signals {
    needs_reset: AtomicBool,
    generation: AtomicU8,
    isr: AtomicU8,
    interrupt: Arc<dyn Interrupt>,
    /// Control did not wait for the queues and wants to hear when they are back.
    is_awaited: AtomicBool,
    events: Events,
}

/// What of [`Signals`] the driver can see, as it stands in a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalsState {
    needs_reset: bool,
    generation: u8,
    isr: u8,
}

/// ISR bit: the device configuration changed.
const ISR_CONFIG: u8 = 2;

impl Signals {
    /// News for the driver fires `interrupt`, news for control goes to `events`.
    pub fn new(interrupt: Arc<dyn Interrupt>, events: Events) -> Self {
        Self {
            needs_reset: AtomicBool::new(false),
            generation: AtomicU8::new(0),
            isr: AtomicU8::new(0),
            interrupt,
            is_awaited: AtomicBool::new(false),
            events,
        }
    }

    /// The driver must reset the device before it works again.
    pub fn needs_reset(&self) {
        self.needs_reset.store(true, Ordering::SeqCst);
        self.interrupt_config();
    }

    /// Changes the device configuration by `change` and tells the driver. The generation rises before and after, so that a driver that
    /// reads meanwhile reads again, at the latest when it is interrupted.
    ///
    /// # Errors
    /// Those of `change`; then nothing has changed and the driver hears of nothing.
    pub fn change_config<E>(&self, change: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        self.generation.fetch_add(1, Ordering::SeqCst);
        change()?;
        self.config_changed();
        Ok(())
    }

    /// The device configuration has a new content.
    pub fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.interrupt_config();
    }

    fn interrupt_config(&self) {
        self.isr.fetch_or(ISR_CONFIG, Ordering::SeqCst);
        self.interrupt.fire();
    }

    /// Whether [`Signals::needs_reset`] was called since the last reset.
    pub fn is_broken(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    /// Counts changes of the configuration, so that a driver can tell a torn read.
    pub fn generation(&self) -> u8 {
        self.generation.load(Ordering::SeqCst)
    }

    /// The ISR register: reading clears it.
    pub fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::SeqCst)
    }

    /// Some queues are on their way back to the transport.
    pub fn queues_are_back(&self) {
        if self.is_awaited.load(Ordering::SeqCst) {
            self.events.raise(Event::News);
        }
    }

    /// Whether control wants to hear of [`Signals::queues_are_back`]. Whoever says so looks once more afterwards.
    pub(crate) fn await_queues(&self, on: bool) {
        self.is_awaited.store(on, Ordering::SeqCst);
    }

    /// Back to a fresh device.
    pub(crate) fn reset(&self) {
        self.restore(SignalsState::default());
    }

    pub(crate) fn save(&self) -> SignalsState {
        SignalsState {
            needs_reset: self.is_broken(),
            generation: self.generation(),
            isr: self.isr.load(Ordering::SeqCst),
        }
    }

    pub(crate) fn restore(&self, state: SignalsState) {
        self.needs_reset.store(state.needs_reset, Ordering::SeqCst);
        self.generation.store(state.generation, Ordering::SeqCst);
        self.isr.store(state.isr, Ordering::SeqCst);
    }
}

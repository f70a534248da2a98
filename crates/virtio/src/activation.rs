//! What a device is handed at DRIVER_OK.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use device::Interrupt;
use memory::GuestRam;

use crate::ActiveQueue;

/// Everything a running device needs.
pub struct Activation {
    /// Guest RAM.
    pub ram: GuestRam,
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
}

/// ISR bit: the device configuration changed.
const ISR_CONFIG: u8 = 2;

impl Signals {
    /// News fires `interrupt`.
    pub fn new(interrupt: Arc<dyn Interrupt>) -> Self {
        Self {
            needs_reset: AtomicBool::new(false),
            generation: AtomicU8::new(0),
            isr: AtomicU8::new(0),
            interrupt,
        }
    }

    /// The driver must reset the device before it works again.
    pub fn needs_reset(&self) {
        self.needs_reset.store(true, Ordering::SeqCst);
        self.interrupt_config();
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

    /// Back to a fresh device.
    pub fn reset(&self) {
        self.needs_reset.store(false, Ordering::SeqCst);
        self.generation.store(0, Ordering::SeqCst);
        self.isr.store(0, Ordering::SeqCst);
    }
}

//! Interrupts as devices see them: a line to raise, or message-signalled vectors.

use host::EventFd;
use serde::{Deserialize, Serialize};

/// A pin of the interrupt controller.
pub trait InterruptLine: Send + Sync {
    /// Drives the pin. An edge-triggered pin fires when `level` goes from false to true.
    fn set_level(&self, level: bool);

    /// Fires an edge-triggered pin once.
    fn pulse(&self) {
        self.set_level(true);
        self.set_level(false);
    }
}

/// A line nobody listens to.
#[derive(Clone, Copy, Debug)]
pub struct NoInterrupt;

impl InterruptLine for NoInterrupt {
    fn set_level(&self, _: bool) {}
}

/// A message-signalled interrupt as the guest programmed it: a memory write into the local APICs' window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msi {
    /// Guest-physical address.
    pub address: u64,
    /// The value written there.
    pub data: u32,
}

/// An interrupt that is ready to be sent, wherever it goes. A leaf object any thread may fire.
pub trait Interrupt: Send + Sync {
    /// Sends the interrupt; nothing if the guest has not said where to.
    fn fire(&self);

    /// A descriptor that fires the interrupt when it is written, for back ends outside this process; `None` if the hypervisor or the
    /// host has none. It can be had before the guest has said where the interrupt goes, and stays the same.
    fn event_fd(&self) -> Option<EventFd> {
        None
    }
}

/// A message-signalled vector: an interrupt whose destination the guest programs. It starts masked.
///
/// Who fires from inside this process looks at the mask first and keeps what it must not send, so that firing is one write. A back end
/// outside knows no mask: its signals are kept by the vector.
pub trait MsiVector: Interrupt {
    /// Sends the vector to `msi` from now on, and with it what was signalled while it was masked. Called again, it only changes the
    /// destination.
    fn unmask(&self, msi: Msi);

    /// Keeps what is signalled through [`Interrupt::event_fd`] from now on. What is fired from inside may still be sent.
    fn mask(&self);

    /// Takes what was signalled while the vector was masked: whether there was anything.
    fn take_pending(&self) -> bool {
        false
    }
}

/// Hands out vectors.
pub trait MsiSource: Send + Sync {
    /// A vector of the caller's own. Costs nothing until it is unmasked or its descriptor is asked for.
    fn vector(&self) -> Box<dyn MsiVector>;
}

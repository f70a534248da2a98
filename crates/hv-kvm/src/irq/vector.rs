//! One message-signalled vector: an event descriptor, and KVM listening to it (irqfd) while the guest wants the interrupt.
//!
//! ```text
//!            unmask: GSI, route, irqfd              mask, if the descriptor was given away
//!  unbound ----------------------------> listening <--------------------------------------> deaf
//!                                                   unmask: route, irqfd
//! ```
//! While nobody outside this process has the descriptor, masking costs nothing: who fires looks at the mask itself, and KVM goes on
//! listening. Signals of a back end outside gather in the descriptor while KVM does not listen.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use device::{Interrupt, Msi, MsiVector};
use host::EventFd;

use super::Routes;

pub(super) struct KvmVector {
    routes: Arc<Routes>,
    /// What fires the vector: made when the guest first unmasks it, or when a back end asks for it.
    call: OnceLock<EventFd>,
    binding: Mutex<Binding>,
}

struct Binding {
    gsi: Option<u32>,
    masked: bool,
    /// KVM reads the descriptor.
    listening: bool,
    /// Somebody outside this process writes the descriptor, whatever the mask says.
    given_away: bool,
    /// A failure was logged; the guest could cause more of them at will.
    reported: bool,
}

impl KvmVector {
    pub(super) fn new(routes: Arc<Routes>) -> Self {
        let binding =
            Binding { gsi: None, masked: true, listening: false, given_away: false, reported: false };
        Self { routes, call: OnceLock::new(), binding: Mutex::new(binding) }
    }

    fn lock(&self) -> MutexGuard<'_, Binding> {
        self.binding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The descriptor; the caller holds the binding's lock, so that two are never made.
    fn call(&self) -> io::Result<&EventFd> {
        if let Some(call) = self.call.get() {
            return Ok(call);
        }
        let call = host::event_fd()?;
        Ok(self.call.get_or_init(|| call))
    }

    fn listen(&self, binding: &mut Binding, msi: Msi) -> io::Result<()> {
        let call = self.call()?;
        let (gsi, is_new) = match binding.gsi {
            Some(gsi) => (gsi, self.routes.set(gsi, Some(msi)).map(|()| false)?),
            None => (self.routes.allocate(msi)?, true),
        };
        if !binding.listening {
            if let Err(e) = self.routes.vm.register_irqfd(call, gsi) {
                if is_new {
                    self.release(gsi);
                }
                return Err(e.into());
            }
            // KVM has looked at the descriptor and sent what it found, but left the count as it was.
            let _ = call.read();
            binding.listening = true;
        }
        binding.gsi = Some(gsi);
        Ok(())
    }

    fn stop_listening(&self, binding: &mut Binding) {
        if let (true, Some(call), Some(gsi)) = (binding.listening, self.call.get(), binding.gsi) {
            // Old kernels send without taking the count. What is signalled from here on is pending, or is sent and pending as well: a
            // guest must expect an interrupt too many, but none may get lost.
            let _ = call.read();
            match self.routes.vm.unregister_irqfd(call, gsi) {
                Ok(()) => binding.listening = false,
                Err(e) => tracing::error!("KVM goes on sending a masked interrupt: {e}"),
            }
        }
    }

    fn release(&self, gsi: u32) {
        if let Err(e) = self.routes.set(gsi, None) {
            tracing::debug!("KVM keeps the route of GSI {gsi}: {e}");
        }
    }
}

impl MsiVector for KvmVector {
    fn unmask(&self, msi: Msi) {
        let mut binding = self.lock();
        binding.masked = false;
        if let Err(e) = self.listen(&mut binding, msi)
            && !std::mem::replace(&mut binding.reported, true)
        {
            tracing::error!(target: "guest", "An interrupt vector cannot be bound, and its device may stall: {e}");
        }
    }

    fn mask(&self) {
        let mut binding = self.lock();
        binding.masked = true;
        if binding.given_away {
            self.stop_listening(&mut binding);
        }
    }

    fn take_pending(&self) -> bool {
        let binding = self.lock();
        !binding.listening && self.call.get().is_some_and(|call| call.read().is_ok())
    }
}

impl Interrupt for KvmVector {
    fn fire(&self) {
        if let Some(call) = self.call.get() {
            // A full counter means the interrupt is pending already.
            let _ = call.write(1);
        }
    }

    fn event_fd(&self) -> Option<EventFd> {
        let mut binding = self.lock();
        let copy = self.call().and_then(EventFd::try_clone).inspect_err(|e| {
            tracing::error!("A back end cannot be given an interrupt's descriptor: {e}");
        });
        let copy = copy.ok()?;
        binding.given_away = true;
        if binding.masked {
            self.stop_listening(&mut binding);
        }
        Some(copy)
    }
}

impl Drop for KvmVector {
    fn drop(&mut self) {
        let binding = self.binding.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(gsi) = binding.gsi else { return };
        if let (true, Some(call)) = (binding.listening, self.call.get()) {
            // The VM may be going away as a whole.
            let _ = self.routes.vm.unregister_irqfd(call, gsi);
        }
        self.release(gsi);
    }
}

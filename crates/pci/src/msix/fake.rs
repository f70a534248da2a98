//! Vectors for tests: they remember where they were sent and how often they fired.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use device::{Interrupt, Msi, MsiSource, MsiVector};
use host::EventFd;

/// Hands out vectors whose firing it remembers, in order.
#[derive(Clone, Debug, Default)]
pub struct FakeSource(Arc<Mutex<Vec<Msi>>>);

struct FakeVector {
    fired: Arc<Mutex<Vec<Msi>>>,
    target: Mutex<Option<Msi>>,
    /// Looked at while the vector is masked and when it is unmasked.
    outside: OnceLock<EventFd>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeSource {
    /// What was fired so far.
    pub fn fired(&self) -> Vec<Msi> {
        lock(&self.0).clone()
    }
}

impl MsiSource for FakeSource {
    fn vector(&self) -> Box<dyn MsiVector> {
        Box::new(FakeVector { fired: self.0.clone(), target: Mutex::new(None), outside: OnceLock::new() })
    }
}

impl MsiVector for FakeVector {
    fn unmask(&self, msi: Msi) {
        *lock(&self.target) = Some(msi);
        if self.take_pending() {
            self.fire();
        }
    }

    fn mask(&self) {}

    fn take_pending(&self) -> bool {
        self.outside.get().is_some_and(|outside| outside.read().is_ok())
    }
}

impl Interrupt for FakeVector {
    fn fire(&self) {
        if let Some(msi) = *lock(&self.target) {
            lock(&self.fired).push(msi);
        }
    }

    fn event_fd(&self) -> Option<EventFd> {
        if self.outside.get().is_none() {
            let _ = self.outside.set(host::event_fd().ok()?);
        }
        self.outside.get()?.try_clone().ok()
    }
}

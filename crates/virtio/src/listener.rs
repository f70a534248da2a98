//! Telling a driver, at any time, that the device's configuration has changed.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Signals;

/// The way to a device's driver while there is one, for those who change the device's configuration whether there is one or not. A leaf
/// object.
#[derive(Default)]
pub struct Listener(Mutex<Option<Arc<Signals>>>);

impl Listener {
    /// Who hears of changes from now on; nobody, if none.
    pub fn set(&self, signals: Option<Arc<Signals>>) {
        *self.lock() = signals;
    }

    /// Changes the configuration by `change`, and tells the driver as [`Signals::change_config`] does.
    ///
    /// # Errors
    /// Those of `change`; then nothing has changed.
    pub fn try_change<E>(&self, change: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        match &*self.lock() {
            Some(signals) => signals.change_config(change),
            None => change(),
        }
    }

    /// The same for a change that cannot fail.
    pub fn change(&self, change: impl FnOnce()) {
        let Ok(()) = self.try_change(|| {
            change();
            Ok::<_, Infallible>(())
        });
    }

    /// The configuration has changed.
    pub fn config_changed(&self) {
        if let Some(signals) = &*self.lock() {
            signals.config_changed();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Signals>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Devices that come while the guest runs, and those that it is asked to let go of (`spec/lifecycle.md` §11).
//!
//! A device that is to go works until the guest ejects it. Nobody waits for that: a removal that takes long is told of once, and may be
//! asked for again, because a guest that was not listening yet has not heard of it.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use api::PciDeviceInfo;
use config::plan;
use pci::Address;
use thiserror::Error;

use crate::nodes::Given;
use crate::{DeviceError, Machine};

/// How long a guest that listens may take to let go of a device.
const PATIENCE: Duration = Duration::from_secs(30);

/// A device that the guest was asked to let go of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Removal {
    asked: Instant,
    /// Whether it was told of as overdue.
    pub(crate) is_overdue: bool,
}

impl Removal {
    /// As clients are shown it.
    pub(crate) fn shown(self) -> api::Removal {
        if self.is_overdue { api::Removal::Overdue } else { api::Removal::Pending }
    }
}

/// Why a device is not asked back.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RemoveError {
    /// There is none.
    #[error("There is no device '{0}' to remove: see the ids in vm.info")]
    Unknown(String),
    /// It belongs to the machine.
    #[error("Not allowed to remove '{0}' from a running VM: shut the VM down and leave its section out")]
    Kept(String),
    /// The guest was asked a moment ago.
    #[error("The guest has been asked to let go of '{0}': wait for the event device-removed")]
    Pending(String),
}

impl Machine {
    /// Builds a device, puts it into a slot and tells the guest. `descriptors` are what a client opened for it.
    ///
    /// # Errors
    /// [`DeviceError`] names the device and what is in the way; nothing is left behind.
    pub fn add(
        &mut self,
        device: &plan::Device,
        descriptors: &[OwnedFd],
    ) -> Result<PciDeviceInfo, DeviceError> {
        if self.nodes.address(&device.id).is_some() {
            return Err(DeviceError::Exists { id: device.id.clone() });
        }
        let given = Given { descriptors, stream: self.consoles.console.as_ref() };
        let address = self.nodes.attach(device, given)?;
        self.pci_slots.insert(address);
        Ok(info(&device.id, address))
    }

    /// Asks the guest to let go of a device: [`device::Event::Ejected`] says when it may have.
    ///
    /// # Errors
    /// [`RemoveError::Unknown`], or [`RemoveError::Pending`] if it was asked a moment ago.
    pub fn ask_back(&mut self, id: &str) -> Result<(), RemoveError> {
        let unknown = || RemoveError::Unknown(id.into());
        let address = self.nodes.address(id).ok_or_else(unknown)?;
        let removal = self.nodes.removal_mut(id).ok_or_else(unknown)?;
        if removal.is_some_and(|removal| !removal.is_overdue) {
            return Err(RemoveError::Pending(id.into()));
        }
        *removal = Some(Removal { asked: Instant::now(), is_overdue: false });
        self.pci_slots.ask_back(address);
        Ok(())
    }

    /// Asks once more for a device that the guest has not let go of in time.
    ///
    /// # Errors
    /// [`RemoveError`].
    pub fn ask_again(&mut self, id: &str) -> Result<(), RemoveError> {
        match self.nodes.removal_mut(id) {
            Some(None) => Err(RemoveError::Kept(id.into())),
            _ => self.ask_back(id),
        }
    }

    /// Takes away what the guest has ejected: vCPUs, and the devices that come out. Threads of these devices have ended and their back
    /// ends are closed.
    pub fn take_ejected(&mut self) -> Vec<PciDeviceInfo> {
        self.park_ejected();
        let ejected = self.pci_slots.take_ejected().into_iter();
        let removed = ejected.filter_map(|address| Some(info(&self.nodes.detach_at(address)?, address)));
        removed.collect()
    }

    /// The devices that the guest has not let go of yet.
    pub fn removals(&self) -> Vec<PciDeviceInfo> {
        self.nodes.removals().map(|(id, address, _)| info(id, address)).collect()
    }

    /// When the next removal is overdue.
    pub fn next_overdue(&self) -> Option<Instant> {
        let waiting = self.nodes.removals().filter(|(.., removal)| !removal.is_overdue);
        waiting.map(|(.., removal)| removal.asked + PATIENCE).min()
    }

    /// The removals that have become overdue since the last call.
    pub fn take_overdue(&mut self, now: Instant) -> Vec<PciDeviceInfo> {
        let late = |removal: &Removal| !removal.is_overdue && removal.asked + PATIENCE <= now;
        let removals = self.nodes.removals().filter(|(.., removal)| late(removal));
        let overdue: Vec<_> = removals.map(|(id, address, _)| info(id, address)).collect();
        for device in &overdue {
            if let Some(Some(removal)) = self.nodes.removal_mut(&device.id) {
                removal.is_overdue = true;
            }
        }
        overdue
    }
}

fn info(id: &str, address: Address) -> PciDeviceInfo {
    PciDeviceInfo { id: id.into(), bdf: address.to_string() }
}

#[cfg(test)]
mod tests;

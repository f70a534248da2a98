//! How much RAM the guest has, and what devices do about it.

use memory::GuestRam;
use virtio_devices::balloon::Balloon;
use virtio_devices::mem::Mem;

use crate::Machine;

/// The RAM that the guest has, to be read at any time and without the machine.
pub(crate) struct RamSize {
    ram: GuestRam,
    balloons: Vec<Balloon>,
    memory_devices: Vec<Mem>,
}

impl RamSize {
    /// Bytes: RAM less what the guest says it has given to its balloon, and what it has plugged.
    pub(crate) fn read(&self) -> u64 {
        let given = self.balloons.iter().map(Balloon::actual).fold(0, u64::saturating_add);
        let plugged = self.memory_devices.iter().map(Mem::plugged).fold(0, u64::saturating_add);
        self.ram.total().saturating_sub(given).saturating_add(plugged)
    }
}

impl Machine {
    /// Bytes of RAM that the guest has now.
    pub fn ram_size(&self) -> u64 {
        self.watch_ram_size().read()
    }

    pub(crate) fn watch_ram_size(&self) -> RamSize {
        RamSize {
            ram: self.ram.guest().clone(),
            balloons: self.balloons().cloned().collect(),
            memory_devices: self.handles().map(|(_, device): (_, &Mem)| device.clone()).collect(),
        }
    }

    /// Asks the guest for `size` bytes of its RAM. False if the machine has no balloon.
    pub fn set_balloon(&self, size: u64) -> bool {
        let set = |balloon: &Balloon| balloon.set_target(size);
        self.balloons().map(set).count() > 0
    }

    /// Asks the guest to have `size` bytes plugged in a zone. False if the zone has no room for more.
    pub fn request_ram(&self, zone: &str, size: u64) -> bool {
        let device = self.handles::<Mem>().find(|(id, _)| *id == zone);
        device.inspect(|(_, device)| device.request(size)).is_some()
    }

    fn balloons(&self) -> impl Iterator<Item = &Balloon> {
        self.handles().map(|(_, balloon)| balloon)
    }
}

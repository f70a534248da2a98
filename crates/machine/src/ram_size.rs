//! How much RAM the guest has, and what devices do about it.

use memory::GuestRam;
use virtio_devices::balloon::Balloon;

use crate::Machine;

/// The RAM that the guest has, to be read at any time and without the machine.
pub(crate) struct RamSize {
    ram: GuestRam,
    balloons: Vec<Balloon>,
}

impl RamSize {
    /// Bytes: RAM less what the guest says it has given to its balloon.
    pub(crate) fn read(&self) -> u64 {
        let given = self.balloons.iter().map(Balloon::actual).fold(0, u64::saturating_add);
        self.ram.total().saturating_sub(given)
    }
}

impl Machine {
    /// Bytes of RAM that the guest has now.
    pub fn ram_size(&self) -> u64 {
        self.watch_ram_size().read()
    }

    pub(crate) fn watch_ram_size(&self) -> RamSize {
        RamSize { ram: self.ram.guest().clone(), balloons: self.balloons().cloned().collect() }
    }

    /// Asks the guest for `size` bytes of its RAM. False if the machine has no balloon.
    pub fn set_balloon(&self, size: u64) -> bool {
        let set = |balloon: &Balloon| balloon.set_target(size);
        self.balloons().map(set).count() > 0
    }

    fn balloons(&self) -> impl Iterator<Item = &Balloon> {
        self.handles().map(|(_, balloon)| balloon)
    }
}

//! How much RAM the guest has, and what devices do about it.

use config::Plan;
use config::plan::DeviceKind;
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

    /// Asks the guest to have plugged what `plan` says, in each zone, through virtio-mem.
    pub(crate) fn request_ram(&self, plan: &Plan) {
        for (id, device) in self.handles::<Mem>() {
            let mut kinds = plan.devices.iter().filter(|device| device.id == id).map(|device| &device.kind);
            if let Some(DeviceKind::Mem(mem)) = kinds.next() {
                device.request(mem.requested);
            }
        }
    }

    fn balloons(&self) -> impl Iterator<Item = &Balloon> {
        self.handles().map(|(_, balloon)| balloon)
    }
}

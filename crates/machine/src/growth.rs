//! RAM that comes to a running guest through ACPI (`spec/devices.md` §11).

use chipset::acpi::{Cause, MemorySlots};
use config::Plan;
use config::plan::Zone;
use memory::GuestAddress;
use memory::layout::Range;

use crate::build::Addresses;
use crate::ram::MappedRam;
use crate::{GrowError, Machine, StateError};

/// What limits the growth of a machine's RAM.
pub(crate) struct Growth {
    /// Bytes of RAM when the guest was booted.
    pub(crate) boot_ram: u64,
    /// The addresses that RAM comes to.
    pub(crate) later: Range,
    /// Bits of the addresses that the guest sees.
    pub(crate) phys_bits: u8,
    /// What has come, and the room for more.
    pub(crate) slots: MemorySlots,
}

impl Growth {
    /// Whether the RAM that a restored state tells of is there.
    pub(crate) fn check_ram(&self, ram: &MappedRam) -> Result<(), StateError> {
        let missing = self.slots.ranges().into_iter().find(|(base, len)| !ram.has(GuestAddress(*base), *len));
        missing.map_or(Ok(()), |(base, _)| Err(StateError::Ram(base)))
    }

    /// Bytes of RAM that are missing to what `plan` has.
    fn missing(&self, plan: &Plan) -> u64 {
        plan.memory.total().saturating_sub(self.boot_ram.saturating_add(self.slots.plugged()))
    }
}

impl Machine {
    /// Whether the guest can be given the RAM of `plan`, and the machine be built again with it.
    ///
    /// # Errors
    /// [`GrowError::Refused`] or [`GrowError::NextBoot`].
    pub fn check_ram(&self, plan: &Plan) -> Result<(), GrowError> {
        Addresses::lay_out(plan, plan.memory.total(), 0, self.growth.phys_bits)
            .map_err(|e| GrowError::NextBoot(Box::new(e)))?;
        match self.growth.missing(plan) {
            0 => Ok(()),
            missing => Ok(self.growth.slots.plan(missing).map(|_| ())?),
        }
    }

    /// Gives the guest the RAM that it lacks of `plan`'s. What comes through ACPI is there at once, and the guest finds it when it looks;
    /// what is beyond the plan stays until the machine is built anew. What comes and goes through virtio-mem is the guest's business.
    ///
    /// # Errors
    /// [`GrowError`].
    pub fn resize_ram(&mut self, plan: &Plan) -> Result<(), GrowError> {
        self.check_ram(plan)?;
        self.request_ram(plan);
        let missing = self.growth.missing(plan);
        let Some(zone) = plan.memory.zones.first().filter(|_| missing > 0) else { return Ok(()) };
        let base = GuestAddress(self.growth.slots.plan(missing)?);
        self.ram.plug(&Zone { size: missing, ..zone.clone() }, base)?;
        if let Err(refused) = self.growth.slots.insert(missing) {
            self.ram.unplug(base)?;
            return Err(refused.into());
        }
        self.notifier.notify(Cause::Memory);
        Ok(())
    }
}

//! What a device is: registers in address spaces, effects on the machine, interrupts, events, and state that is data.
//!
//! A device never learns what runs the CPU, and it never calls upwards: a register access returns an [`Effect`], and news travels
//! through [`Events`]. Locks have two levels: a bus slot, then leaf objects such as an [`InterruptLine`].

pub mod aml;
mod bus;
#[cfg(feature = "contract")]
pub mod contract;
mod events;
mod interrupt;
mod state;

pub use bus::{AddressSpaces, Collision, Doorbells, NoDoorbells, Slot};
pub use events::{Event, EventBits, EventSink, Events, NoSink, Record};
pub use interrupt::{Interrupt, InterruptLine, Msi, MsiSource, MsiVector, NoInterrupt};
pub use state::{Part, Persist, RestoreError, SaveError, Saved, Stateful, Stateless};

use std::sync::Arc;
use std::time::Instant;

use host::EventFd;

/// The three address spaces a device may have registers in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// I/O ports.
    Pio,
    /// Guest-physical addresses.
    Mmio,
    /// PCI configuration: segment << 20 | slot << 15 | register. The bus is always 0, as is the function.
    Config,
}

/// A stretch of addresses that a device answers.
#[derive(Debug)]
pub struct Region {
    /// Which address space.
    pub space: Space,
    /// First address.
    pub base: u64,
    /// Bytes, not zero.
    pub len: u64,
    /// The number the device knows this region by; it comes back in [`Access`].
    pub index: u32,
    /// Writes that only ring a bell: offset in the region, and the descriptor to signal. The bus hands them to the hypervisor
    /// (ioeventfd) so that the device is not entered.
    pub doorbells: Vec<(u64, Arc<EventFd>)>,
}

impl Region {
    /// A region without doorbells.
    pub const fn new(space: Space, base: u64, len: u64, index: u32) -> Self {
        Self { space, base, len, index, doorbells: Vec::new() }
    }
}

/// Which of a device's registers is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// [`Region::index`].
    pub region: u32,
    /// Bytes from the region's base; `offset + data.len()` never passes its end.
    pub offset: u64,
}

/// Fills `data` from registers that hold `bytes`, as they stand from `offset` on. What lies beyond them stays as it is.
pub fn read_bytes(bytes: impl IntoIterator<Item = u8>, offset: u64, data: &mut [u8]) {
    let from = bytes.into_iter().skip(usize::try_from(offset).unwrap_or(usize::MAX));
    data.iter_mut().zip(from).for_each(|(to, from)| *to = from);
}

/// What a register write asks of the machine. Applied after the device's lock is released.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The device's regions have moved (a BAR or its decode bit was written).
    Remap,
    /// The guest has let go of something that it was asked for: control looks what it is.
    Ejected,
    /// The machine is to be reset or switched off.
    Power(Power),
}

/// Ways for a guest to end its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// Start again from the boot loader.
    Reset,
    /// Switch off.
    Off,
}

/// A device's registers: the half of it that vCPUs enter, one at a time, under its bus slot's lock. Control enters it the same way to
/// stop it, let it go on, save and restore it.
///
/// Accesses may have any size and alignment; bytes a device does not serve read as ones.
pub trait Device: Stateful + Send {
    /// Where the registers are now. Asked when the device is attached and after [`Effect::Remap`].
    fn regions(&self) -> Vec<Region>;

    /// What the guest's ACPI code must know of it, in AML: nothing of what the guest discovers by itself.
    fn aml(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Fills `data` from the registers. It comes filled with ones.
    fn read(&mut self, at: Access, data: &mut [u8]);

    /// Stores `data` into the registers.
    fn write(&mut self, at: Access, data: &[u8]) -> Effect;

    /// Puts the guest-visible state back to what it was when the device was built.
    fn reset(&mut self);

    /// Takes back a move that collided with another device's registers.
    fn undo_remap(&mut self) {}

    /// Asks whatever works for the device beside its registers to hold still: threads, timers, clocks. Does not wait. The vCPUs are
    /// held already.
    fn pause(&mut self) {}

    /// Whether it holds still now; waits for that until `deadline`.
    fn is_paused(&mut self, _deadline: Instant) -> bool {
        true
    }

    /// Goes on after [`Device::pause`], whether it has held still meanwhile or not.
    fn resume(&mut self) {}
}

//! The VM generation ID (Microsoft, "Virtual Machine Generation ID", 2012): 16 random bytes in RAM that are others as soon as the guest goes
//! on from a state that may have run before, such as a snapshot. A guest then knows that what it holds to be its own alone (the state of its
//! random number generator, keys, leases) may be in use elsewhere too. Linux reseeds its random number generator.
//!
//! It has no registers: the guest is told where the bytes are, and the generic event device says that they have changed
//! ([`Cause::Generation`](super::Cause::Generation)). The machine writes them. They lie behind the firmware tables, which no memory map names
//! as RAM for the guest's use.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use acpi_tables::aml::Package;
use device::{Access, Device, Effect, Persist, Region, RestoreError, aml};
use memory::layout;
use serde::{Deserialize, Serialize};

/// Names one run of a guest: from its boot, through reboots, pauses and migrations, until it goes on from a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationId([u8; Self::SIZE]);

impl GenerationId {
    /// Bytes.
    pub const SIZE: usize = 16;

    /// One that no other machine has.
    ///
    /// # Errors
    /// The host has no random numbers.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; Self::SIZE];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// As the guest finds it in RAM.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<[u8; GenerationId::SIZE]> for GenerationId {
    fn from(bytes: [u8; Self::SIZE]) -> Self {
        Self(bytes)
    }
}

/// Where the bytes are and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Guest-physical.
    address: u64,
    id: GenerationId,
}

/// Knows the generation for the machine. A leaf object; cloning shares it.
#[derive(Clone, Debug)]
pub struct GenerationHandle(Arc<Mutex<State>>);

impl GenerationHandle {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The generation as the guest has been told.
    pub fn id(&self) -> GenerationId {
        self.with(|state| state.id)
    }

    /// Another generation has begun.
    pub fn set(&self, id: GenerationId) {
        self.with(|state| state.id = id);
    }

    /// The guest-physical address of its bytes.
    pub fn address(&self) -> u64 {
        self.with(|state| state.address)
    }
}

/// The ACPI device.
pub struct Generation(GenerationHandle);

impl Generation {
    /// Bytes at [`layout::GENERATION`]; `id` will be there.
    pub fn new(id: GenerationId) -> Self {
        let state = State { address: layout::GENERATION, id };
        Self(GenerationHandle(Arc::new(Mutex::new(state))))
    }

    /// The machine's access to it.
    pub fn handle(&self) -> GenerationHandle {
        self.0.clone()
    }
}

/// Where the ACPI device is in the namespace.
pub(super) const PATH: &str = "_SB_.VGEN";

impl Device for Generation {
    fn regions(&self) -> Vec<Region> {
        Vec::new()
    }

    /// Drivers know it by its compatible id. The address has two parts.
    fn aml(&self) -> Vec<u8> {
        const KIND: &str = "VM_Gen_Counter";
        let address = self.0.address();
        let (low, high) = (address as u32, (address >> 32) as u32);
        aml::device(
            PATH,
            vec![
                &aml::name("_HID", &"CHVMGNID"),
                &aml::name("_CID", &KIND),
                &aml::name("_DDN", &KIND),
                &aml::name("ADDR", &Package::new(vec![&low, &high])),
            ],
        )
    }

    fn read(&mut self, _: Access, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, _: Access, _: &[u8]) -> Effect {
        Effect::None
    }

    /// The machine that comes next tells its guest which generation it is.
    fn reset(&mut self) {}
}

impl Persist for Generation {
    type State = State;
    const KIND: &'static str = "vm-generation";
    const VERSION: u32 = 1;

    fn save(&self) -> State {
        self.0.with(|state| *state)
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        const ALIGN: u64 = 8;
        let room = layout::RSDP..=layout::HIGH_RAM - GenerationId::SIZE as u64;
        // Whatever lies elsewhere is the guest's.
        if !room.contains(&state.address) || !state.address.is_multiple_of(ALIGN) {
            return Err(RestoreError::Value { kind: Self::KIND, field: "address" });
        }
        self.0.with(|own| *own = state);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use device::Stateful;

    fn id(byte: u8) -> GenerationId {
        GenerationId::from([byte; GenerationId::SIZE])
    }

    #[test]
    fn no_two_are_the_same() {
        assert_ne!(GenerationId::random().unwrap(), GenerationId::random().unwrap());
    }

    #[test]
    fn the_guest_is_told_what_it_is_and_where() {
        let aml = Generation::new(id(1)).aml();
        let contains = |needle: &[u8]| aml.windows(needle.len()).any(|window| window == needle);
        for needle in
            [&b"VGEN"[..], b"_HID\x0dCHVMGNID\0", b"_CID\x0dVM_Gen_Counter\0", b"_DDN\x0dVM_Gen_Counter\0"]
        {
            assert!(contains(needle), "{needle:?}");
        }
        // Name (ADDR, Package (2) { address, 0 })
        let address = (layout::GENERATION as u32).to_le_bytes();
        assert!(contains(&[b"\x08ADDR\x12\x08\x02\x0c", &address[..], &[0]].concat()), "{aml:x?}");
    }

    #[test]
    fn a_state_keeps_place_and_id() {
        let old = Generation::new(id(1));
        old.handle().set(id(2));
        let saved = old.to_saved().unwrap();
        let mut new = Generation::new(id(3));
        let handle = new.handle();
        new.restore_saved(&saved).unwrap();
        assert_eq!((handle.id(), handle.address()), (id(2), layout::GENERATION));
    }

    #[test]
    fn it_lies_where_the_guest_has_nothing_else() {
        let mut device = Generation::new(id(1));
        let last = layout::HIGH_RAM - 16;
        for (address, allowed) in [
            (0, false),
            (layout::RSDP - 8, false),
            (layout::RSDP, true),
            (layout::GENERATION, true),
            (layout::GENERATION + 4, false),
            (last, true),
            (last + 8, false),
            (u64::MAX - 7, false),
        ] {
            assert_eq!(device.restore(State { address, id: id(1) }).is_ok(), allowed, "{address:#x}");
        }
    }

    #[test]
    fn contract() {
        device::contract::check(&mut Generation::new(id(1)));
    }
}

//! A function's configuration registers: identity, command, BARs and the list of capabilities (PCI Local Bus 3.0 §6).

use device::{Effect, Region, Space};
use serde::{Deserialize, Serialize};

use crate::address::{Address, CONFIG_LEN, within_dword};

/// [`device::Region::index`] of the configuration registers. BAR `n` has index `n`.
pub const REGION_CONFIG: u32 = 0xff;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
const BARS_END: usize = 0x28;
const CAPABILITIES: usize = 0x34;
const FIRST_CAPABILITY: usize = 0x40;
const COMMAND_MEMORY: u8 = 2;
const STATUS_CAPABILITY_LIST: u8 = 0x10;
const LEN: usize = 256;

/// Who a function says it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Class, subclass and programming interface: 24 bits.
    pub class: u32,
    /// Subsystem vendor id.
    pub subsystem_vendor: u16,
    /// Subsystem id.
    pub subsystem: u16,
}

/// How wide a memory BAR is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// One register, below 4 GiB.
    Memory32,
    /// Two registers, anywhere.
    Memory64,
}

#[derive(Clone, Copy, Debug)]
struct Bar {
    register: usize,
    size: u64,
    kind: BarKind,
}

/// The registers a guest can change, as they stand in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigState {
    registers: Vec<u8>,
}

/// The registers, which of their bits the guest may write, and where BARs lead.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    address: Address,
    registers: [u8; LEN],
    writable: [u8; LEN],
    /// As built: what a reset brings back.
    initial: [u8; LEN],
    /// Before the last write that moved something.
    former: [u8; LEN],
    bars: Vec<Bar>,
    next_capability: usize,
    last_capability: usize,
}

impl ConfigSpace {
    /// Registers of a function without BARs and capabilities.
    pub fn new(address: Address, identity: &Identity) -> Self {
        let mut registers = [0; LEN];
        let mut put = |at: usize, bytes: &[u8]| registers[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x00, &identity.vendor.to_le_bytes());
        put(0x02, &identity.device.to_le_bytes());
        put(0x08, &(identity.class << 8 | u32::from(identity.revision)).to_le_bytes());
        put(0x2c, &identity.subsystem_vendor.to_le_bytes());
        put(0x2e, &identity.subsystem.to_le_bytes());
        let mut writable = [0; LEN];
        // Memory decode, bus master, parity and SERR; interrupt disable.
        writable[COMMAND] = 0x46;
        writable[COMMAND + 1] = 0x05;
        // Cache line size and interrupt line belong to the guest's software.
        writable[0x0c] = 0xff;
        writable[0x3c] = 0xff;
        Self {
            address,
            registers,
            writable,
            initial: registers,
            former: registers,
            bars: Vec::new(),
            next_capability: FIRST_CAPABILITY,
            last_capability: CAPABILITIES - 1,
        }
    }

    /// Adds a memory BAR of `size` (a power of two) bytes that starts at `base`, as if firmware had placed and enabled it.
    /// `register` is 0 to 5, and 0 to 4 for 64-bit ones.
    pub fn add_bar(&mut self, register: usize, kind: BarKind, size: u64, base: u64) {
        let (flags, len) = if kind == BarKind::Memory64 { (4u64, 8) } else { (0, 4) };
        let at = BAR0 + register * 4;
        let mask = !(size - 1);
        self.registers[at..at + len].copy_from_slice(&(base | flags).to_le_bytes()[..len]);
        self.writable[at..at + len].copy_from_slice(&mask.to_le_bytes()[..len]);
        self.registers[COMMAND] |= COMMAND_MEMORY;
        self.bars.push(Bar { register, size, kind });
        self.initial = self.registers;
    }

    /// Appends a capability with `body` behind its two header bytes and returns its offset. `writable` masks the body's bits that the
    /// guest may write; missing bytes are read-only.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> usize {
        let at = self.next_capability;
        self.registers[self.last_capability + 1] = at as u8;
        self.registers[at] = id;
        self.registers[at + 2..at + 2 + body.len()].copy_from_slice(body);
        self.writable[at + 2..at + 2 + writable.len()].copy_from_slice(writable);
        self.registers[STATUS] |= STATUS_CAPABILITY_LIST;
        self.last_capability = at;
        self.next_capability = (at + 2 + body.len()).next_multiple_of(4);
        self.initial = self.registers;
        at
    }

    /// Where the function sits.
    pub fn address(&self) -> Address {
        self.address
    }

    /// The configuration region and, while memory decode is on, the BARs.
    pub fn regions(&self) -> Vec<Region> {
        let mut regions =
            vec![Region::new(Space::Config, self.address.config_base(), CONFIG_LEN, REGION_CONFIG)];
        if self.registers[COMMAND] & COMMAND_MEMORY != 0 {
            regions.extend(
                self.bars
                    .iter()
                    .map(|bar| Region::new(Space::Mmio, self.bar_base(bar), bar.size, bar.register as u32)),
            );
        }
        regions
    }

    /// Base and size of the BAR at `register`, whether decoded or not.
    pub fn bar(&self, register: usize) -> Option<(u64, u64)> {
        self.bars.iter().find(|bar| bar.register == register).map(|bar| (self.bar_base(bar), bar.size))
    }

    fn bar_base(&self, bar: &Bar) -> u64 {
        let low = self.dword(BAR0 + bar.register * 4);
        let high = if bar.kind == BarKind::Memory64 { self.dword(BAR0 + bar.register * 4 + 4) } else { 0 };
        (u64::from(high) << 32 | u64::from(low)) & !(bar.size - 1)
    }

    /// The four bytes at `at`, zeroes past the end.
    pub fn dword(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        for (byte, value) in bytes.iter_mut().zip(self.registers.iter().skip(at)) {
            *byte = *value;
        }
        u32::from_le_bytes(bytes)
    }

    /// A configuration read. Extended registers are zero; accesses across a dword read ones.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        if !within_dword(offset, data.len()) {
            return;
        }
        let at = usize::try_from(offset).unwrap_or(LEN);
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = self.registers.get(at + i).copied().unwrap_or(0);
        }
    }

    /// A configuration write. Answers [`Effect::Remap`] if the addresses changed that the function decodes, and only then: binding all
    /// doorbells anew takes its time.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        if !within_dword(offset, data.len()) {
            return Effect::None;
        }
        let at = usize::try_from(offset).unwrap_or(LEN);
        let before = self.registers;
        for (i, value) in data.iter().enumerate() {
            if let (Some(register), Some(mask)) = (self.registers.get_mut(at + i), self.writable.get(at + i))
            {
                *register = *register & !mask | value & mask;
            }
        }
        if self.decoded(&self.registers) == self.decoded(&before) {
            return Effect::None;
        }
        self.former = before;
        Effect::Remap
    }

    /// The BARs' registers while memory accesses are decoded: a change moves the function.
    fn decoded<'a>(&self, registers: &'a [u8; LEN]) -> Option<&'a [u8]> {
        let decodes = !self.bars.is_empty() && registers[COMMAND] & COMMAND_MEMORY != 0;
        decodes.then(|| &registers[BAR0..BARS_END])
    }

    /// Takes the last move back.
    pub fn undo_remap(&mut self) {
        self.registers = self.former;
    }

    /// Puts the registers back to what they were when the function was built.
    pub fn reset(&mut self) {
        self.registers = self.initial;
        self.former = self.initial;
    }

    /// Clones the registers out.
    pub fn save(&self) -> ConfigState {
        ConfigState { registers: self.registers.to_vec() }
    }

    /// Puts the registers' writable bits in.
    ///
    /// # Errors
    /// The name of the field that is impossible.
    pub fn restore(&mut self, state: ConfigState) -> Result<(), &'static str> {
        let registers: [u8; LEN] = state.registers.try_into().map_err(|_| "configuration space length")?;
        let fixed_differs = |((new, built), mask): ((&u8, &u8), &u8)| (new ^ built) & !mask != 0;
        if registers.iter().zip(&self.initial).zip(&self.writable).any(fixed_differs) {
            return Err("configuration register");
        }
        self.registers = registers;
        Ok(())
    }
}

#[cfg(test)]
mod tests;

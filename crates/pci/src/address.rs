//! Names of PCI functions, and the two ways to their configuration registers: the ECAM window and the ports 0xcf8 to 0xcff.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use device::{Access, AddressSpaces, Device, Effect, Persist, Region, RestoreError, Space};

/// A function's place. Bus and function are always 0 (`spec/devices.md` §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// PCI segment.
    pub segment: u16,
    /// Slot 0 to 31.
    pub slot: u8,
}

/// Bytes of configuration registers per function.
pub const CONFIG_LEN: u64 = 4096;

impl Address {
    /// Where the function's registers start in [`Space::Config`].
    pub fn config_base(self) -> u64 {
        u64::from(self.segment) << 20 | u64::from(self.slot) << 15
    }
}

/// `segment:bus:device.function`, as in `0000:00:05.0`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:00:{:02x}.0", self.segment, self.slot)
    }
}

/// Translates an offset in the ECAM window. The function number is ignored, so functions 1 to 7 show function 0.
pub fn from_ecam(offset: u64) -> u64 {
    const FUNCTION: u64 = 7 << 12;
    offset & !FUNCTION
}

/// Whether an access stays inside one dword, as configuration accesses must.
pub fn within_dword(address: u64, len: usize) -> bool {
    (address & 3) + len as u64 <= 4
}

/// The ports 0xcf8 (address) and 0xcfc (data): segment 0, bus 0, function 0 only. A leaf object: vCPUs share it without a lock, as
/// the real register is shared.
#[derive(Debug, Default)]
pub struct ConfigPorts(AtomicU32);

impl ConfigPorts {
    /// First port.
    pub const BASE: u16 = 0xcf8;
    /// Number of ports.
    pub const LEN: u16 = 8;

    /// Reads `data.len()` bytes at `BASE + offset`.
    pub fn read(&self, spaces: &AddressSpaces, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        if offset >= 4 {
            if let Some(target) = self.target(offset, data.len()) {
                spaces.read(Space::Config, target, data);
            }
            return;
        }
        let register = self.0.load(Ordering::Relaxed).to_le_bytes();
        for (byte, value) in data.iter_mut().zip(register.iter().skip(offset.into())) {
            *byte = *value;
        }
    }

    /// Writes `data` at `BASE + offset`.
    pub fn write(&self, spaces: &AddressSpaces, offset: u16, data: &[u8]) -> Effect {
        if offset >= 4 {
            return match self.target(offset, data.len()) {
                Some(target) => spaces.write(Space::Config, target, data),
                None => Effect::None,
            };
        }
        let mut register = self.0.load(Ordering::Relaxed).to_le_bytes();
        for (byte, value) in register.iter_mut().skip(offset.into()).zip(data) {
            *byte = *value;
        }
        self.0.store(u32::from_le_bytes(register), Ordering::Relaxed);
        Effect::None
    }

    fn target(&self, offset: u16, len: usize) -> Option<u64> {
        const ENABLE: u32 = 1 << 31;
        const BUS_AND_FUNCTION: u32 = 0xff << 16 | 7 << 8;
        let register = self.0.load(Ordering::Relaxed);
        let reachable =
            register & ENABLE != 0 && register & BUS_AND_FUNCTION == 0 && within_dword(offset.into(), len);
        let slot = (register >> 11) as u8 & 31;
        reachable.then(|| {
            Address { segment: 0, slot }.config_base() + u64::from(register & 0xfc) + u64::from(offset & 3)
        })
    }
}

/// The address register of the [`ConfigPorts`] as one of the machine's devices, so that it is saved and restored like all others. The
/// ports themselves are decoded in front of the bus.
#[derive(Debug)]
pub struct ConfigLatch(Arc<ConfigPorts>);

impl ConfigLatch {
    /// The register of `ports`.
    pub fn new(ports: Arc<ConfigPorts>) -> Self {
        Self(ports)
    }
}

impl Device for ConfigLatch {
    fn regions(&self) -> Vec<Region> {
        Vec::new()
    }

    fn read(&mut self, _: Access, _: &mut [u8]) {}

    fn write(&mut self, _: Access, _: &[u8]) -> Effect {
        Effect::None
    }

    fn reset(&mut self) {
        self.0.0.store(0, Ordering::Relaxed);
    }
}

impl Persist for ConfigLatch {
    type State = u32;
    const KIND: &'static str = "pci-config-address";
    const VERSION: u32 = 1;

    fn save(&self) -> u32 {
        self.0.0.load(Ordering::Relaxed)
    }

    fn restore(&mut self, address: u32) -> Result<(), RestoreError> {
        self.0.0.store(address, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HostBridge;
    use device::NoDoorbells;
    use std::sync::Mutex;

    #[test]
    fn both_ways_lead_to_the_same_function() {
        let spaces = AddressSpaces::new(Arc::new(NoDoorbells));
        spaces.attach(&(Arc::new(Mutex::new(HostBridge::new())) as device::Slot)).unwrap();
        let ports = ConfigPorts::default();
        let mut id = [0; 4];
        assert_eq!(ports.write(&spaces, 0, &0x8000_0000u32.to_le_bytes()), Effect::None);
        ports.read(&spaces, 4, &mut id);
        assert_eq!(id, [0x86, 0x80, 0x57, 0x0d]);
        spaces.read(Space::Config, from_ecam(3 << 12 | 2), &mut id[..2]);
        assert_eq!(id[..2], [0x57, 0x0d]);
        for unreachable in [0u32, 0x8001_0000, 0x8000_0100, 0x8000_0800] {
            assert_eq!(ports.write(&spaces, 0, &unreachable.to_le_bytes()), Effect::None);
            ports.read(&spaces, 4, &mut id);
            assert_eq!(id, [0xff; 4], "{unreachable:#x}");
        }
        let mut register = [0; 4];
        ports.read(&spaces, 0, &mut register);
        assert_eq!(u32::from_le_bytes(register), 0x8000_0800);
    }

    #[test]
    fn addresses_are_written_as_bdf() {
        assert_eq!(Address { segment: 1, slot: 31 }.to_string(), "0001:00:1f.0");
    }
}

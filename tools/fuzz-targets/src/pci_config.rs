//! PCI configuration space over real address spaces: a guest writes any register of several functions, through the ECAM window and
//! through the ports 0xcf8 to 0xcff, so that BARs move onto each other, onto the board and around the ends of memory. Functions come
//! and go meanwhile, and the whole is saved and restored. Each byte is a step or a part of one.
//!
//! Whatever happens: no address has two functions, each function answers where its registers say, both ways to a register agree, and
//! what is leased to a new function is free.

use std::sync::{Arc, Mutex, MutexGuard};

use device::{
    Access, AddressSpaces, Device, Effect, NoDoorbells, Persist, Region, RestoreError, Saved, Slot, Space,
    Stateless,
};
use pci::{
    BarKind, BarLease, ConfigPorts, ConfigSpace, ConfigState, HostBridge, Identity, REGION_CONFIG, Segments,
    SlotLease, Windows, address::from_ecam,
};

use crate::bytes::Bytes;

const STEPS: usize = 128;
const WINDOWS: Windows =
    Windows { memory32: (0xc000_0000, 0xc000_ffff), memory64: (0x1_0000_0000, 0x1_0000_ffff) };
/// Registers at a fixed address above the windows: the board's.
const BOARD: u64 = 0xfec0_0000;
const BOARD_LEN: u64 = 0x1000;
const VENDOR: u16 = 0x1234;
/// The two BARs of a function: register, kind and bytes.
const BARS: [(usize, BarKind, u64); 2] = [(0, BarKind::Memory32, 0x1000), (2, BarKind::Memory64, 0x4000)];
/// Functions at the beginning; so many more can be added.
const FUNCTIONS: usize = 3;
const MOST_FUNCTIONS: usize = 5;

/// A function whose registers read as its slot, all over both BARs.
struct Numbered(ConfigSpace);

impl Device for Numbered {
    fn regions(&self) -> Vec<Region> {
        self.0.regions()
    }

    fn read(&mut self, at: Access, data: &mut [u8]) {
        if at.region == REGION_CONFIG {
            self.0.read(at.offset, data);
        } else {
            data.fill(self.0.address().slot);
        }
    }

    fn write(&mut self, at: Access, data: &[u8]) -> Effect {
        if at.region == REGION_CONFIG { self.0.write(at.offset, data) } else { Effect::None }
    }

    fn reset(&mut self) {
        self.0.reset();
    }

    fn undo_remap(&mut self) {
        self.0.undo_remap();
    }
}

impl Persist for Numbered {
    type State = ConfigState;
    const KIND: &'static str = "numbered";
    const VERSION: u32 = 1;

    fn save(&self) -> ConfigState {
        self.0.save()
    }

    fn restore(&mut self, state: ConfigState) -> Result<(), RestoreError> {
        self.0.restore(state).map_err(|field| RestoreError::Value { kind: Self::KIND, field })
    }
}

/// Something of the board's, which never moves.
struct Fixed;

impl Stateless for Fixed {
    const KIND: &'static str = "fixed";
}

impl Device for Fixed {
    fn regions(&self) -> Vec<Region> {
        vec![Region::new(Space::Mmio, BOARD, BOARD_LEN, 0)]
    }

    fn read(&mut self, _: Access, data: &mut [u8]) {
        data.fill(0xee);
    }

    fn write(&mut self, _: Access, _: &[u8]) -> Effect {
        Effect::None
    }

    fn reset(&mut self) {}
}

/// A function in its place. The leases are given back when it goes.
struct Function {
    slot: Slot,
    place: SlotLease,
    bars: Vec<(usize, BarLease)>,
}

struct Machine {
    spaces: AddressSpaces,
    ports: ConfigPorts,
    segments: Segments,
    functions: Vec<Function>,
}

pub(crate) fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut machine = Machine::new();
    for _ in 0..STEPS {
        if bytes.is_empty() {
            break;
        }
        machine.step(&mut bytes);
        machine.check();
    }
    machine.round_trip();
}

impl Machine {
    fn new() -> Self {
        let spaces = AddressSpaces::new(Arc::new(NoDoorbells));
        spaces.attach(&(Arc::new(Mutex::new(HostBridge::new())) as Slot)).unwrap();
        spaces.attach(&(Arc::new(Mutex::new(Fixed)) as Slot)).unwrap();
        let (ports, segments) = (ConfigPorts::default(), Segments::new([WINDOWS]));
        let mut machine = Self { spaces, ports, segments, functions: Vec::new() };
        for _ in 0..FUNCTIONS {
            machine.add();
        }
        machine
    }

    /// Adds a function as a hot-plug does: leases follow the guest's moves first.
    fn add(&mut self) {
        self.follow();
        let segment = self.segments.get(0).unwrap();
        let place = segment.lease_slot(None).unwrap();
        let lease = |(register, kind, size): (usize, BarKind, u64)| {
            segment.lease_bar(kind, size, size).ok().map(|lease| (register, lease))
        };
        // The windows are small, and the guest may have filled them.
        let Some(bars) = BARS.into_iter().map(lease).collect::<Option<Vec<_>>>() else { return };
        let identity =
            Identity { vendor: VENDOR, device: place.address().slot.into(), ..Identity::default() };
        let mut config = ConfigSpace::new(place.address(), &identity);
        for ((register, kind, size), (_, lease)) in BARS.into_iter().zip(&bars) {
            config.add_bar(register, kind, size, lease.base());
        }
        let slot: Slot = Arc::new(Mutex::new(Numbered(config)));
        self.spaces.attach(&slot).unwrap_or_else(|e| panic!("what was leased is taken: {e}"));
        self.functions.push(Function { slot, place, bars });
    }

    fn remove(&mut self, index: usize) {
        let Function { slot, .. } = self.functions.remove(index);
        self.spaces.detach(slot, std::time::Instant::now() + std::time::Duration::from_secs(60));
    }

    fn follow(&mut self) {
        let moved = self.functions.iter_mut().flat_map(|function| {
            let regions = lock(&function.slot).regions();
            function.bars.iter_mut().map(move |(register, lease)| {
                let region = regions.iter().find(|region| region.index == *register as u32);
                (lease, region.map(|region| region.base))
            })
        });
        self.segments.follow(moved);
    }

    fn step(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.below(16) {
            0..=6 => {
                let target = self.target(bytes);
                let value = self.value(bytes);
                self.write(target, &value.to_le_bytes()[..*bytes.one_of(&[4, 2, 1])], bytes);
            }
            7 | 8 => {
                // Decoding on and off, which is what moves things.
                let function = &self.functions[bytes.below(self.functions.len())];
                let target = function.place.address().config_base() + 4;
                self.write(target, &[bytes.byte() & 2, 0], bytes);
            }
            9 | 10 => {
                let (offset, len) = (bytes.below(8) as u16, *bytes.one_of(&[1, 2, 4, 8]));
                let data = bytes.take(len);
                let _ = self.ports.write(&self.spaces, offset, &data);
            }
            11 if self.functions.len() < MOST_FUNCTIONS => self.add(),
            12 if self.functions.len() > 1 => self.remove(bytes.below(self.functions.len())),
            13 => self.round_trip(),
            14 => self.follow(),
            _ => {
                let (target, len) = (self.target(bytes), *bytes.one_of(&[4, 1, 2, 3, 8]));
                self.compare(target, len);
            }
        }
    }

    /// A configuration register: mostly one that matters of a function that is there.
    fn target(&self, bytes: &mut Bytes<'_>) -> u64 {
        const REGISTERS: [u64; 8] = [0x10, 0x18, 0x1c, 0x04, 0x10, 0x18, 0x14, 0x3c];
        if bytes.one_in(8) {
            return from_ecam(bytes.number() & 0xf_ffff);
        }
        let function = &self.functions[bytes.below(self.functions.len())];
        function.place.address().config_base() + bytes.one_of(&REGISTERS)
    }

    /// Something to write: mostly where others lie, or near.
    fn value(&self, bytes: &mut Bytes<'_>) -> u32 {
        let function = &self.functions[bytes.below(self.functions.len())];
        let (_, lease) = &function.bars[bytes.below(BARS.len())];
        match bytes.below(8) {
            0 | 1 => lease.base() as u32,
            2 => (lease.base() as u32).wrapping_add(u32::from(bytes.byte()) << 10),
            3 => (lease.base() as u32).wrapping_sub(u32::from(bytes.byte()) << 10),
            4 => BOARD as u32 - (u32::from(bytes.byte()) << 8),
            5 => u32::MAX,
            6 => bytes.below(2) as u32,
            _ => bytes.number() as u32,
        }
    }

    /// Writes through either way.
    fn write(&self, target: u64, data: &[u8], bytes: &mut Bytes<'_>) {
        let effect = if bytes.one_in(2) {
            self.point(target);
            self.ports.write(&self.spaces, 4 + (target & 3) as u16, data)
        } else {
            self.spaces.write(Space::Config, target, data)
        };
        assert_eq!(effect, Effect::None, "moves are the bus's to make");
    }

    /// Points the ports at a register, which lies below 0x100 there: others are in the window only.
    fn point(&self, target: u64) {
        let latch = 0x8000_0000 | (target >> 15 << 11) as u32 | (target & 0xfc) as u32;
        assert_eq!(self.ports.write(&self.spaces, 0, &latch.to_le_bytes()), Effect::None);
    }

    /// Reads a register both ways.
    fn compare(&self, target: u64, len: usize) {
        let register = target & !0xf00;
        self.point(register);
        let (mut through_ports, mut through_window) = (vec![0; len], vec![0; len]);
        self.ports.read(&self.spaces, 4 + (register & 3) as u16, &mut through_ports);
        self.spaces.read(Space::Config, register, &mut through_window);
        assert_eq!(through_ports, through_window, "{len} bytes at {register:#x}");
    }

    /// Saves all, brings all back to its beginning, and restores all, as a snapshot does.
    fn round_trip(&mut self) {
        let saved: Vec<Saved> =
            self.functions.iter().map(|function| lock(&function.slot).to_saved().unwrap()).collect();
        for (function, saved) in self.functions.iter().zip(&saved) {
            let mut device = lock(&function.slot);
            device.reset();
            device.restore_saved(saved).unwrap_or_else(|e| panic!("{e}: {saved:?}"));
            assert_eq!(&device.to_saved().unwrap(), saved);
        }
        self.functions.iter().for_each(|function| self.spaces.withdraw(&function.slot));
        for function in &self.functions {
            self.spaces.attach(&function.slot).unwrap_or_else(|e| panic!("a place is taken: {e}"));
        }
        self.check();
    }

    fn check(&self) {
        let mut taken = vec![(BOARD, BOARD_LEN, 0xee)];
        for function in &self.functions {
            let address = function.place.address();
            let mut vendor = [0; 2];
            self.spaces.read(Space::Config, address.config_base(), &mut vendor);
            assert_eq!(vendor, VENDOR.to_le_bytes(), "{address} is lost");
            let regions = lock(&function.slot).regions();
            let bars = regions.iter().filter(|region| region.space == Space::Mmio);
            taken.extend(bars.map(|region| (region.base, region.len, address.slot)));
        }
        for (i, &(base, len, owner)) in taken.iter().enumerate() {
            let last = base + (len - 1);
            for &(other, other_len, other_owner) in &taken[..i] {
                let apart = last < other || other + (other_len - 1) < base;
                assert!(apart, "{owner} and {other_owner} both say that they are at {base:#x}");
            }
            for at in [base, last, base + len / 2] {
                let mut found = [0];
                self.spaces.read(Space::Mmio, at, &mut found);
                assert_eq!(found, [owner], "somebody else answers at {at:#x}");
            }
        }
    }
}

fn lock(slot: &Slot) -> MutexGuard<'_, dyn Device + 'static> {
    slot.lock().unwrap()
}

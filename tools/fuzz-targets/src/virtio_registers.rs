//! The register file of each virtio device, in configuration space and in its BAR, as a driver without any manners uses it, with pauses,
//! snapshots and resets in between. The first byte chooses the device, each of the others a step or a part of one.
//!
//! Whatever happens: status bits go away by a reset only, no feature is accepted that was not offered, what was accepted stays, and
//! each state can be saved and restored.

use device::{Access, Effect};
use pci::REGION_CONFIG;

use crate::bytes::Bytes;
use crate::driver::{FEATURES_OK, Rings, STATUS};
use crate::rig::{RAM_LEN, Rig, with_rig};

/// Steps of one run at most.
const STEPS: usize = 64;
const BAR_LEN: u64 = 0x8_0000;
const CONFIG_LEN: u64 = 0x1000;
/// Capabilities begin here: one of them is a window into the BAR.
const CAPABILITIES: u64 = 0x40;
/// Sizes of accesses: those of CPUs first.
const SIZES: [usize; 8] = [4, 1, 2, 8, 3, 5, 12, 16];

/// Areas of the BAR, by first offset and bytes worth touching.
const AREAS: [(u64, u64); 8] = [
    (0, 0x40),
    (0, 0x40),
    (0x2000, 8),
    (0x4000, 0x48),
    (0x6000, 0x20),
    (0x8000, 0x60),
    (0x4_8000, 8),
    (0, BAR_LEN),
];

/// Registers in their own width (§4.1.4.3), the most telling ones more than once.
const REGISTERS: [(u64, usize); 16] = [
    (STATUS, 1),
    (STATUS, 1),
    (0x08, 4),
    (0x0c, 4),
    (0x0c, 4),
    (0x10, 2),
    (0x16, 2),
    (0x18, 2),
    (0x1a, 2),
    (0x1c, 2),
    (0x20, 8),
    (0x24, 4),
    (0x28, 8),
    (0x30, 4),
    (0x4020, 1),
    (0x800c, 4),
];

pub(crate) fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    with_rig(bytes.byte(), |rig| {
        let mut seen = Seen::default();
        for _ in 0..STEPS {
            if bytes.is_empty() {
                break;
            }
            step(rig, &mut bytes, &mut seen);
            seen.check(rig);
        }
        rig.round_trip();
    });
}

/// What the driver has seen since the last reset.
#[derive(Default)]
struct Seen {
    status: u8,
    features: Option<u64>,
    /// The device may have been told to reset itself and may be about it.
    reset_asked: bool,
}

impl Seen {
    fn check(&mut self, rig: &Rig) {
        let status = rig.status();
        let lost = self.status & !status;
        assert!(lost == 0 || self.reset_asked, "status went from {:#x} to {status:#x}", self.status);
        if lost != 0 || status == 0 {
            *self = Self::default();
        }
        self.status = status;
        if status & FEATURES_OK == 0 || self.reset_asked {
            return;
        }
        let (accepted, offered) = (rig.accepted(), rig.offered());
        assert_eq!(accepted & !offered, 0, "features beyond the offered {offered:#x}");
        assert_eq!(*self.features.get_or_insert(accepted), accepted, "features changed after FEATURES_OK");
    }

    /// What a write of a zero somewhere may have done has been done, or it has not been a reset.
    fn settle(&mut self, rig: &Rig) {
        rig.hold();
        rig.device().resume();
        self.check(rig);
        self.reset_asked = false;
    }
}

fn step(rig: &Rig, bytes: &mut Bytes<'_>, seen: &mut Seen) {
    match bytes.below(16) {
        0 | 1 => {
            let (offset, len) = bar_place(bytes);
            rig.device().read(Access { region: 0, offset }, &mut vec![0xff; len]);
        }
        kind @ 2..=7 => {
            let (offset, len) = if kind < 6 { *bytes.one_of(&REGISTERS) } else { bar_place(bytes) };
            let data = bytes.take(len);
            seen.reset_asked |= offset == STATUS && data == [0];
            rig.write(offset, &data);
        }
        8 => {
            let (offset, len) = config_place(bytes);
            rig.read_config(offset, &mut vec![0xff; len]);
        }
        9 | 10 => write_config(rig, bytes, seen),
        11 => {
            if bytes.one_in(2) {
                rig.hold();
            } else {
                rig.device().pause();
            }
            rig.device().resume();
        }
        12 => {
            rig.round_trip();
            rig.device().resume();
        }
        13 => rig.kick(bytes.byte().into()),
        14 => bring_up(rig, bytes, seen),
        _ => {
            rig.device().reset();
            *seen = Seen::default();
        }
    }
}

fn bar_place(bytes: &mut Bytes<'_>) -> (u64, usize) {
    let (start, room) = *bytes.one_of(&AREAS);
    let within = if room > 0x100 { bytes.number() } else { bytes.byte().into() };
    cut(start + within % room, *bytes.one_of(&SIZES), BAR_LEN)
}

fn config_place(bytes: &mut Bytes<'_>) -> (u64, usize) {
    let offset = if bytes.one_in(8) { bytes.number() % CONFIG_LEN } else { bytes.byte().into() };
    cut(offset, *bytes.one_of(&SIZES), CONFIG_LEN)
}

/// The bus lets no access pass the end of a region.
fn cut(offset: u64, len: usize, end: u64) -> (u64, usize) {
    (offset, len.min(usize::try_from(end - offset).unwrap()))
}

fn write_config(rig: &Rig, bytes: &mut Bytes<'_>, seen: &mut Seen) {
    let (offset, len) = config_place(bytes);
    let data = bytes.take(len);
    let effect = rig.device().write(Access { region: REGION_CONFIG, offset }, &data);
    if effect == Effect::Remap && bytes.one_in(2) {
        rig.device().undo_remap();
    }
    if offset >= CAPABILITIES && data.contains(&0) {
        seen.reset_asked = true;
        seen.settle(rig);
    }
}

/// Does what a driver does, up to one of its steps, with queues that are empty and lie in RAM for the most part.
fn bring_up(rig: &Rig, bytes: &mut Bytes<'_>, seen: &mut Seen) {
    seen.reset_asked = true;
    rig.reset_by_driver();
    seen.check(rig);
    let features = if bytes.one_in(2) { bytes.number() } else { u64::MAX };
    rig.negotiate(features);
    let count = rig.queue_count();
    for index in 0..count {
        let base = if bytes.one_in(8) { bytes.number() } else { u64::from(index) * 0x4000 };
        let rings = Rings {
            size: 1 << bytes.below(5),
            descriptors: base,
            available: base.wrapping_add(0x1000),
            used: base.wrapping_add(0x2000) % RAM_LEN,
        };
        rig.lay_out(index, &rings);
    }
    if !bytes.one_in(4) {
        rig.go();
    }
}

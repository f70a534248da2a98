use device::Stateful;
use memory::layout::BLOCK;

use super::register::{EJECT, ENABLED, INSERTING};
use super::*;

const BASE: u64 = 0xfff0_0000;
const WINDOW: u64 = 4 << 30;

/// Room for this many blocks of RAM.
fn controller(blocks: u64) -> MemoryHotplug {
    MemoryHotplug::new(BASE, (WINDOW, blocks * BLOCK))
}

fn select(controller: &mut MemoryHotplug, slot: u32) {
    let _ = controller.write(Access { region: 0, offset: register::SELECT }, &slot.to_le_bytes());
}

/// What the guest reads of a slot: base, length and status.
fn shown(controller: &mut MemoryHotplug, slot: u32) -> (u64, u64, u8) {
    select(controller, slot);
    let mut data = [0xff; 24];
    for (number, part) in data.chunks_exact_mut(4).enumerate() {
        controller.read(Access { region: 0, offset: 4 * number as u64 }, part);
    }
    assert_eq!((&data[16..20], &data[21..]), (&[0; 4][..], &[0; 3][..]));
    let number = |at: usize| u64::from_le_bytes(data[at..at + 8].try_into().unwrap());
    (number(0), number(8), data[20])
}

fn tell(controller: &mut MemoryHotplug, slot: u32, done: u8) {
    select(controller, slot);
    let _ = controller.write(Access { region: 0, offset: register::STATUS }, &[done]);
}

/// Brings so many blocks as control does; where they come to.
fn bring(slots: &MemorySlots, blocks: u64) -> Result<u64, GrowthError> {
    let base = slots.plan(blocks * BLOCK)?;
    slots.insert(blocks * BLOCK).map(|()| base)
}

#[test]
fn ram_comes_in_slots_that_follow_each_other() {
    let mut controller = controller(8);
    let slots = controller.slots();
    assert_eq!(shown(&mut controller, 0), (0, 0, 0));
    assert_eq!(bring(&slots, 4), Ok(WINDOW));
    assert_eq!(bring(&slots, 1), Ok(WINDOW + 4 * BLOCK));
    assert_eq!(slots.plugged(), 5 * BLOCK);
    assert_eq!(slots.ranges(), [(WINDOW, 4 * BLOCK), (WINDOW + 4 * BLOCK, BLOCK)]);
    assert_eq!(shown(&mut controller, 0), (WINDOW, 4 * BLOCK, ENABLED | INSERTING));
    assert_eq!(shown(&mut controller, 1), (WINDOW + 4 * BLOCK, BLOCK, ENABLED | INSERTING));
    tell(&mut controller, 0, INSERTING);
    assert_eq!([0, 1].map(|slot| shown(&mut controller, slot).2), [ENABLED, ENABLED | INSERTING]);
    tell(&mut controller, 1, EJECT | INSERTING);
    assert_eq!(shown(&mut controller, 1).2, ENABLED, "it stays");
    assert_eq!(slots.plugged(), 5 * BLOCK);
}

#[test]
fn growth_that_cannot_be_is_refused_with_a_reason() {
    let controller = controller(20);
    let slots = controller.slots();
    for len in [0, 1, BLOCK - 1, BLOCK + 4096] {
        assert_eq!(slots.insert(len), Err(GrowthError::Size(len)));
    }
    let wanted = 21 * BLOCK;
    assert_eq!(slots.plan(wanted), Err(GrowthError::Window { wanted, left: 20 * BLOCK }));
    for _ in 0..8 {
        bring(&slots, 2).unwrap();
    }
    assert_eq!(bring(&slots, 1), Err(GrowthError::Slots));
    assert_eq!(bring(&slots, 5), Err(GrowthError::Window { wanted: 5 * BLOCK, left: 4 * BLOCK }));
    let texts = [GrowthError::Size(1), GrowthError::Slots].map(|error| error.to_string());
    assert!(texts.iter().all(|text| text.contains("desired_ram")), "{texts:?}");
}

#[test]
fn a_window_need_not_be_whole_blocks() {
    let controller = MemoryHotplug::new(BASE, (WINDOW, BLOCK + 4096));
    let slots = controller.slots();
    assert_eq!(bring(&slots, 2), Err(GrowthError::Window { wanted: 2 * BLOCK, left: BLOCK }));
    bring(&slots, 1).unwrap();
    assert_eq!(bring(&slots, 1), Err(GrowthError::Window { wanted: BLOCK, left: 0 }));
}

#[test]
fn what_a_guest_writes_elsewhere_changes_nothing() {
    let mut controller = controller(8);
    let slots = controller.slots();
    bring(&slots, 1).unwrap();
    for slot in [1, 7, 8, 0x100, 0x8000_0000, u32::MAX] {
        tell(&mut controller, slot, 0xff);
        assert_eq!(shown(&mut controller, slot), (0, 0, 0), "slot {slot:#x}");
    }
    tell(&mut controller, 0, !INSERTING);
    let _ = controller.write(Access { region: 0, offset: 4 }, &[0xff; 16]);
    let _ = controller.write(Access { region: 0, offset: 0x15 }, &[0xff; 3]);
    let _ = controller.write(Access { region: 0, offset: 0x16 }, &[0xff; 16]);
    assert_eq!(shown(&mut controller, 0), (WINDOW, BLOCK, ENABLED | INSERTING));
    assert_eq!(slots.plugged(), BLOCK);
}

#[test]
fn registers_may_be_read_and_written_in_any_pieces() {
    let mut controller = controller(8);
    bring(&controller.slots(), 1).unwrap();
    bring(&controller.slots(), 2).unwrap();
    for (offset, byte) in (0..).zip([1, 0, 0, 0]) {
        let _ = controller.write(Access { region: 0, offset }, &[byte]);
    }
    let mut all = [0xff; 32];
    controller.read(Access { region: 0, offset: 0 }, &mut all);
    let mut expected = [0; 32];
    expected[..8].copy_from_slice(&(WINDOW + BLOCK).to_le_bytes());
    expected[8..16].copy_from_slice(&(2 * BLOCK).to_le_bytes());
    expected[20] = ENABLED | INSERTING;
    assert_eq!(all, expected);
    controller.read(Access { region: 0, offset: 0x13 }, &mut all[..2]);
    assert_eq!(all[..2], [0, ENABLED | INSERTING]);
}

#[test]
fn states_that_cannot_be_are_refused() {
    let mut old = controller(8);
    bring(&old.slots(), 3).unwrap();
    bring(&old.slots(), 5).unwrap();
    tell(&mut old, 0, INSERTING);
    select(&mut old, 77);
    let good = old.to_saved().unwrap();
    let mut new = controller(8);
    new.restore_saved(&good).unwrap();
    assert_eq!(new.slots().ranges(), old.slots().ranges());
    assert_eq!(shown(&mut new, 1), (WINDOW + 3 * BLOCK, 5 * BLOCK, ENABLED | INSERTING));

    let slot_of = |len: u64| Slot { len, is_new: false };
    let state = old.save();
    let slots: Vec<Vec<Slot>> = [vec![9], vec![8, 1], vec![1; 9], vec![0], vec![1, 0]]
        .map(|blocks| blocks.into_iter().map(|n: u64| slot_of(n * BLOCK)).collect())
        .into();
    let odd = [vec![slot_of(BLOCK + 1)], vec![slot_of(u64::MAX - BLOCK + 1); 2]];
    for slots in slots.into_iter().chain(odd) {
        let wrong = State { slots, ..state.clone() };
        assert!(Persist::restore(&mut new, wrong.clone()).is_err(), "{wrong:?}");
    }
    assert_eq!(new.slots().plugged(), 8 * BLOCK, "what is refused leaves no traces");
    assert!(controller(7).restore_saved(&good).is_err(), "there is no room for it");
    assert!(controller(0).restore_saved(&good).is_err());
}

#[test]
fn the_guest_is_told_of_every_slot() {
    let controller = controller(8);
    let aml = controller.aml();
    let contains = |needle: &[u8]| aml.windows(needle.len()).any(|window| window == needle);
    let names =
        ["MHPC", "MHPR", "MHBL", "MHBH", "MHLL", "MHLH", "MHPX", "MEN_", "MINS", "MRMV", "MEJ0", "MSEL"];
    for name in names.into_iter().chain(["MOEV", "MOSC", "MSTA", "MCRS", "MSCN", "M000", "M007"]) {
        assert!(contains(name.as_bytes()), "{name}");
    }
    assert!(!contains(b"M008"));
    // Region (MHPR, SystemMemory, base, 24)
    assert!(contains(&[b"MHPR\0\x0c", &(BASE as u32).to_le_bytes()[..], &[0x0a, 24]].concat()));
    // Name (_HID, EisaId ("PNP0C80")), once for each slot.
    let memory = [0x0c, 0x41, 0xd0, 0x0c, 0x80];
    assert_eq!(aml.windows(5).filter(|window| *window == memory).count(), 8);
}

#[test]
fn a_machine_without_room_says_so() {
    let controller = controller(0);
    assert!(controller.regions().is_empty());
    let aml = controller.aml();
    let contains = |needle: &[u8]| aml.windows(needle.len()).any(|window| window == needle);
    assert!(contains(b"MHPC") && !contains(b"M000"));
    // Method (MSCN, 0, Serialized) {}
    assert!(contains(b"\x14\x06MSCN\x08"));
    let left = controller.slots().plan(BLOCK);
    assert_eq!(left, Err(GrowthError::Window { wanted: BLOCK, left: 0 }));
}

#[test]
fn contract() {
    device::contract::check(&mut controller(8));
}

/// The contract of a controller to which RAM has come. Its reset is that of power-on.
#[test]
fn contract_while_ram_comes() {
    let mut controller = controller(8);
    let slots = controller.slots();
    device::contract::check_after(&mut controller, |_| {
        bring(&slots, 2).unwrap();
        bring(&slots, 1).unwrap();
    });
}

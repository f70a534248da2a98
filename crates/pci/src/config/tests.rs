use super::*;

fn function() -> ConfigSpace {
    let mut config = ConfigSpace::new(Address { segment: 0, slot: 3 }, &Identity::default());
    config.add_bar(0, BarKind::Memory64, 0x8_0000, 0x40_0000_0000);
    config
}

fn write(config: &mut ConfigSpace, at: u64, value: u32) -> Effect {
    config.write(at, &value.to_le_bytes())
}

#[test]
fn bars_are_sized_and_moved_as_the_specification_says() {
    let mut config = function();
    assert_eq!(config.write(4, &[0, 0]), Effect::Remap);
    assert_eq!(config.regions().len(), 1);
    assert_eq!(write(&mut config, 0x10, u32::MAX), Effect::None);
    assert_eq!(write(&mut config, 0x14, u32::MAX), Effect::None);
    assert_eq!((config.dword(0x10), config.dword(0x14)), (0xfff8_0004, u32::MAX));
    assert_eq!(write(&mut config, 0x10, 0x10_0000), Effect::None);
    assert_eq!(write(&mut config, 0x14, 0x50), Effect::None);
    assert_eq!(config.write(4, &[2, 0]), Effect::Remap);
    assert_eq!(config.bar(0), Some((0x50_0010_0000, 0x8_0000)));
    config.undo_remap();
    assert_eq!(config.regions().len(), 1);
    config.reset();
    assert_eq!(config.bar(0), Some((0x40_0000_0000, 0x8_0000)));
}

#[test]
fn capabilities_form_a_list() {
    let mut config = function();
    let first = config.add_capability(9, &[1, 2, 3], &[]);
    let second = config.add_capability(0x11, &[4], &[0xf0]);
    assert_eq!((config.dword(0x34) & 0xff, first, second), (0x40, 0x40, 0x48));
    assert_eq!(config.dword(0x40), u32::from_le_bytes([9, 0x48, 1, 2]));
    assert_eq!(config.write(0x4a, &[0xff]), Effect::None);
    assert_eq!(config.dword(0x48), u32::from_le_bytes([0x11, 0, 0xf4, 0]));
}

#[test]
fn accesses_across_a_dword_read_ones() {
    let mut data = [0xff; 4];
    function().read(1, &mut data);
    assert_eq!(data, [0xff; 4]);
    function().read(0x800, &mut data);
    assert_eq!(data, [0; 4]);
}

#[test]
fn a_state_of_another_function_is_refused() {
    let mut other = function();
    other.add_capability(9, &[1], &[]);
    assert_eq!(function().restore(other.save()), Err("configuration register"));
    assert_eq!(function().restore(ConfigState { registers: vec![0; 3] }), Err("configuration space length"));
    assert_eq!(function().restore(function().save()), Ok(()));
}

#[test]
fn only_what_moves_a_function_remaps_it() {
    const BUS_MASTER: u8 = 4;
    const INTX_OFF: u8 = 4;
    let mut config = function();
    for (command, expected, why) in [
        ([2 | BUS_MASTER, 0], Effect::None, "bus master"),
        ([2 | BUS_MASTER, INTX_OFF], Effect::None, "INTx off"),
        ([2 | BUS_MASTER, INTX_OFF], Effect::None, "the same again"),
        ([BUS_MASTER, INTX_OFF], Effect::Remap, "decoding ends"),
        ([0, 0], Effect::None, "not decoding"),
        ([2, 0], Effect::Remap, "decoding begins"),
        ([0x46, 5], Effect::None, "all else"),
    ] {
        assert_eq!(config.write(4, &command), expected, "{why}");
    }
    assert_eq!(config.write(0x3c, &[11]), Effect::None, "interrupt line");
    assert_eq!(write(&mut config, 0x10, 0x40_0000), Effect::Remap, "a decoded BAR moves");
    assert_eq!(write(&mut config, 0x10, 0x40_0000), Effect::None, "it is there already");
    assert_eq!(write(&mut config, 0x10, 0x40_0004), Effect::None, "its flags are fixed");
    assert_eq!(config.write(4, &[0, 0]), Effect::Remap);
    assert_eq!(write(&mut config, 0x10, 0x80_0000), Effect::None, "not decoded");
    let mut empty = ConfigSpace::new(Address { segment: 0, slot: 0 }, &Identity::default());
    assert_eq!(empty.write(4, &[2, 0]), Effect::None, "there is nothing to decode");
}

/// The addresses that a bus would give the function.
fn addresses(config: &ConfigSpace) -> Vec<(Space, u64, u64, u32)> {
    config.regions().iter().map(|region| (region.space, region.base, region.len, region.index)).collect()
}

/// Pseudo-random numbers (xorshift), the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) % below
    }
}

#[test]
fn no_sequence_of_accesses_breaks_a_function() {
    for seed in 1..=16u64 {
        let mut random = Random(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(seed));
        let mut config = function();
        config.add_bar(2, BarKind::Memory32, 0x1000, 0xc000_0000);
        config.add_capability(0x11, &[1, 2, 3, 4, 5, 6], &[0, 0xc0]);
        survives(&mut config, &mut random);
        // As the host bridge is.
        let mut bare = ConfigSpace::new(Address { segment: 0, slot: 0 }, &Identity::default());
        survives(&mut bare, &mut random);
    }
}

fn survives(config: &mut ConfigSpace, random: &mut Random) {
    let fresh = config.save();
    for _ in 0..1000 {
        step(config, random);
    }
    let saved = config.save();
    config.reset();
    assert_eq!(config.save(), fresh);
    config.restore(saved.clone()).unwrap();
    assert_eq!(config.save(), saved);
}

/// One access of any size, most of them where something is, and what must hold after it.
fn step(config: &mut ConfigSpace, random: &mut Random) {
    const SIZES: [usize; 7] = [1, 2, 4, 4, 3, 8, 16];
    let size = SIZES[random.next(7) as usize];
    let offset = match random.next(8) {
        0 => random.next(CONFIG_LEN),
        1 => u64::MAX - random.next(4),
        2 | 3 => COMMAND as u64,
        _ => 0x10 + random.next(0x40),
    };
    let mut data = vec![0; size];
    data.fill_with(|| [0, 2, 6, 0xff, random.next(256) as u8][random.next(5) as usize]);
    let (before, at) = (config.clone(), addresses(config));
    let effect = config.write(offset, &data);
    let fixed = |c: &ConfigSpace| -> Vec<u8> {
        c.registers.iter().zip(&c.writable).map(|(register, mask)| register & !mask).collect()
    };
    assert_eq!(fixed(config), fixed(&before), "a read-only bit changed");
    let moved = addresses(config) != at;
    assert_eq!(effect, if moved { Effect::Remap } else { Effect::None }, "{offset:#x} {data:x?}");
    for (space, base, len, _) in addresses(config) {
        assert!(base.is_multiple_of(len) && (space == Space::Config || len.is_power_of_two()));
    }
    if moved && random.next(2) == 0 {
        config.undo_remap();
        assert_eq!(addresses(config), at);
    }
    let mut read = vec![0xff; size];
    config.read(offset, &mut read);
    if within_dword(offset, size) {
        for (i, byte) in read.iter().enumerate() {
            let register = config.registers.get(offset as usize + i).copied().unwrap_or(0);
            assert_eq!(*byte, register);
        }
    } else {
        assert!(read.iter().all(|byte| *byte == 0xff));
    }
}

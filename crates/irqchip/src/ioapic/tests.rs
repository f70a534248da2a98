use super::*;
use device::Stateful;
use device::{MsiSource, MsiVector};

/// A pin and where it leads while it is level-triggered.
type Watched = (u8, Option<Msi>);

#[derive(Default)]
struct Recorder {
    sent: Mutex<Vec<Msi>>,
    watched: Mutex<Vec<Watched>>,
}

impl Recorder {
    fn sent(&self) -> Vec<Msi> {
        std::mem::take(&mut self.sent.lock().unwrap())
    }

    fn watched(&self) -> Vec<Watched> {
        std::mem::take(&mut self.watched.lock().unwrap())
    }
}

impl MsiSource for Recorder {
    fn vector(&self) -> Box<dyn MsiVector> {
        unreachable!("an IOAPIC has pins, no vectors")
    }
}

impl IrqChip for Recorder {
    fn send(&self, msi: Msi) {
        self.sent.lock().unwrap().push(msi);
    }

    fn watch_level_pin(&self, pin: u8, msi: Option<Msi>) {
        self.watched.lock().unwrap().push((pin, msi));
    }
}

fn chip() -> (IoApic, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    (IoApic::new(recorder.clone()), recorder)
}

fn at(offset: u64) -> Access {
    Access { region: 0, offset }
}

fn write(chip: &mut IoApic, register: u8, value: u32) {
    assert_eq!(Device::write(chip, at(SELECT), &[register]), Effect::None);
    assert_eq!(Device::write(chip, at(WINDOW), &value.to_le_bytes()), Effect::None);
}

fn read(chip: &mut IoApic, register: u8) -> u32 {
    assert_eq!(Device::write(chip, at(SELECT), &[register]), Effect::None);
    let mut data = [0xff; 4];
    chip.read(at(WINDOW), &mut data);
    u32::from_le_bytes(data)
}

/// Writes the halves of an entry as Linux does: the one with the mask last.
fn program(chip: &mut IoApic, pin: u8, entry: u64) {
    write(chip, REG_TABLE + 2 * pin + 1, (entry >> 32) as u32);
    write(chip, REG_TABLE + 2 * pin, entry as u32);
}

const LEVEL: u64 = 1 << 15;
const ACTIVE_LOW: u64 = 1 << 13;
const MASK: u64 = 1 << 16;
const IRR: u32 = 1 << 14;

#[test]
fn identity_and_reset_values() {
    let (mut chip, _) = chip();
    assert_eq!([read(&mut chip, 0), read(&mut chip, 1), read(&mut chip, 2)], [0, 0x0017_0011, 0]);
    assert!((0..24).all(|pin| read(&mut chip, 0x10 + 2 * pin) == 0x1_0000));
    assert_eq!([read(&mut chip, 3), read(&mut chip, 0x40), read(&mut chip, 0xff)], [u32::MAX; 3]);
    write(&mut chip, 0, 0xff00_0000);
    assert_eq!(read(&mut chip, 0), 0x0f00_0000);
}

#[test]
fn an_edge_is_sent_once_and_lost_while_masked() {
    let (mut chip, recorder) = chip();
    let line = chip.pins().line(4);
    line.pulse();
    program(&mut chip, 4, 0x31);
    assert_eq!(recorder.sent(), []);
    line.pulse();
    line.set_level(true);
    line.set_level(true);
    let msi = Msi { address: 0xfee0_0000, data: 0x31 };
    assert_eq!(recorder.sent(), [msi, msi]);
    program(&mut chip, 4, 0x31 | MASK);
    line.set_level(false);
    line.set_level(true);
    program(&mut chip, 4, 0x31);
    assert_eq!(recorder.sent(), []);
}

#[test]
fn a_level_waits_for_its_end_and_fires_again() {
    let (mut chip, recorder) = chip();
    let pins = chip.pins();
    let line = pins.line(5);
    program(&mut chip, 5, 0x40 | LEVEL | ACTIVE_LOW);
    line.set_level(true);
    line.set_level(true);
    let msi = Msi { address: 0xfee0_0000, data: 0xc040 };
    assert_eq!(recorder.sent(), [msi]);
    assert_eq!(read(&mut chip, 0x1a) & IRR, IRR);
    pins.eoi(0x41);
    assert_eq!(recorder.sent(), []);
    pins.eoi(0x40);
    assert_eq!(recorder.sent(), [msi]);
    line.set_level(false);
    pins.eoi(0x40);
    assert_eq!(recorder.sent(), []);
    assert_eq!(read(&mut chip, 0x1a), 0xa040);
}

#[test]
fn a_masked_level_stays_pending() {
    let (mut chip, recorder) = chip();
    chip.pins().line(6).set_level(true);
    program(&mut chip, 6, 0x50 | LEVEL | MASK);
    assert_eq!(recorder.sent(), []);
    program(&mut chip, 6, 0x50 | LEVEL);
    assert_eq!(recorder.sent().len(), 1);
}

#[test]
fn turning_a_pin_to_edge_ends_its_interrupt() {
    let (mut chip, recorder) = chip();
    chip.pins().line(7).set_level(true);
    program(&mut chip, 7, 0x60 | LEVEL);
    assert_eq!(recorder.sent().len(), 1);
    // The guest cannot clear the bit by writing it.
    program(&mut chip, 7, 0x60 | LEVEL | MASK);
    assert_eq!(read(&mut chip, 0x1e) & IRR, IRR);
    program(&mut chip, 7, 0x60 | MASK);
    assert_eq!(read(&mut chip, 0x1e) & IRR, 0);
    program(&mut chip, 7, 0x60 | LEVEL);
    assert_eq!(recorder.sent().len(), 1);
}

#[test]
fn destination_and_modes_are_encoded() {
    let (mut chip, recorder) = chip();
    // Destination 0x1234 (0x34, extension 0x12), logical, lowest priority.
    program(&mut chip, 0, 0x34 << 56 | 0x12 << 49 | 1 << 11 | 1 << 8 | 0x77);
    chip.pins().line(0).pulse();
    let msi = Msi { address: 0xfee3_4000 | 0x12 << 5 | 1 << 2, data: 0x177 };
    assert_eq!(recorder.sent(), [msi]);
    assert_eq!(recorder.watched(), [], "an edge has no end to be reported");
}

#[test]
fn level_pins_are_watched_from_their_programming_on_masked_or_not() {
    let (mut chip, recorder) = chip();
    write(&mut chip, 0x20, 0x40 | LEVEL as u32);
    let level = Some(Msi { address: 0xfee0_0000, data: 0xc040 });
    assert_eq!(recorder.watched(), [(8, level)]);
    write(&mut chip, 0x20, 0x40 | LEVEL as u32 | MASK as u32);
    assert_eq!(recorder.watched(), []);
    write(&mut chip, 0x20, 0x40);
    assert_eq!(recorder.watched(), [(8, None)]);
    write(&mut chip, 0x20, 0x40 | LEVEL as u32);
    chip.reset();
    assert_eq!(recorder.watched(), [(8, level), (8, None)]);
}

#[test]
fn a_restored_chip_is_watched_and_goes_on() {
    let (mut old, _) = chip();
    program(&mut old, 5, 0x40 | LEVEL);
    old.pins().line(5).set_level(true);
    let saved = old.to_saved().unwrap();
    let (mut new, recorder) = chip();
    new.restore_saved(&saved).unwrap();
    assert_eq!(recorder.watched().len(), 1);
    assert_eq!(recorder.sent(), []);
    new.pins().eoi(0x40);
    assert_eq!(recorder.sent().len(), 1);
}

#[test]
fn impossible_states_are_refused() {
    let (mut chip, _) = chip();
    for broken in [
        State { id: 16, ..State::default() },
        State { levels: 1 << 24, ..State::default() },
        State { entries: [1 << 40; 24], ..State::default() },
    ] {
        assert!(Persist::restore(&mut chip, broken).is_err());
    }
}

#[test]
fn pins_beyond_the_chip_lead_nowhere() {
    let (chip, recorder) = chip();
    chip.pins().line(24).pulse();
    chip.pins().line(255).pulse();
    assert_eq!(recorder.sent(), []);
}

#[test]
fn contract() {
    device::contract::check(&mut chip().0);
}

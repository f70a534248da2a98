//! The contract of every device, as a test that the crates with devices run over theirs.

use std::time::{Duration, Instant};

use crate::{Access, Device, Effect, Saved};

/// Sizes of accesses: what CPUs make, and what they do not.
const SIZES: [u64; 9] = [1, 2, 3, 4, 5, 7, 8, 12, 16];

/// In which order registers are touched.
#[derive(Clone, Copy, Debug)]
enum Order {
    Rising,
    Falling,
    /// Any, from this seed on.
    Shuffled(u64),
}

const ORDERS: [Order; 5] =
    [Order::Rising, Order::Falling, Order::Shuffled(1), Order::Shuffled(2), Order::Shuffled(3)];

/// Drives a freshly built device with accesses of every size, in several orders, to every register, those of PCI configuration space
/// among them, and checks that
/// * none of them panics,
/// * a reset brings back the state it was built with,
/// * saving, resetting and restoring gives the state that was saved,
/// * states that are not its own are refused and leave no traces.
///
/// # Panics
/// If the device breaks the contract: this is a test.
pub fn check(device: &mut dyn Device) {
    check_after(device, |_| {});
}

/// [`check`], from the state in which `bring_up` leaves the device as well: a driver has negotiated, say.
///
/// # Panics
/// If the device breaks the contract: this is a test.
pub fn check_after(device: &mut dyn Device, mut bring_up: impl FnMut(&mut dyn Device)) {
    let fresh = saved(device);
    bring_up(device);
    goes_round(device, &fresh);
    for (order, value) in ORDERS.into_iter().zip([0u8, 1, 0x5a, 0xff, 0x80]) {
        batter(device, order, value);
        goes_round(device, &fresh);
        bring_up(device);
        batter(device, order, value);
        goes_round(device, &fresh);
    }
}

/// Saves, resets, restores, and leaves the device fresh.
fn goes_round(device: &mut dyn Device, fresh: &Saved) {
    hold(device);
    let before = saved(device);
    device.reset();
    assert_eq!(&saved(device), fresh, "reset does not bring the fresh state back");
    device.restore_saved(&before).expect("a saved state is restorable");
    assert_eq!(saved(device), before, "restore does not bring the saved state back");
    refuses_foreign_state(device, &before);
    device.resume();
    hold(device);
    device.resume();
    device.reset();
    assert_eq!(&saved(device), fresh, "reset after a restore does not bring the fresh state back");
}

fn saved(device: &dyn Device) -> Saved {
    device.to_saved().expect("a state can be written down")
}

fn hold(device: &mut dyn Device) {
    device.pause();
    assert!(device.is_paused(Instant::now() + Duration::from_secs(30)), "the device does not hold still");
}

fn batter(device: &mut dyn Device, order: Order, value: u8) {
    let mut random = Random(u64::from(value) + 1);
    for at in registers(device, order) {
        // The guest may have moved it meanwhile.
        let regions = device.regions();
        let Some(region) = regions.iter().find(|region| region.index == at.region) else { continue };
        let left = region.len.saturating_sub(at.offset);
        for len in SIZES.into_iter().filter(|len| *len <= left) {
            let mut data = vec![0xff; usize::try_from(len).unwrap_or(1)];
            device.read(at, &mut data);
            match order {
                Order::Shuffled(_) => data.fill_with(|| random.next() as u8),
                _ => data.fill(value.wrapping_add(at.offset as u8)),
            }
            if device.write(at, &data) == Effect::Remap && random.next().is_multiple_of(2) {
                device.undo_remap();
            }
        }
    }
}

/// Every register of small regions; of large ones, which repeat themselves, the first 256 bytes of each page and a sample of the rest.
fn registers(device: &dyn Device, order: Order) -> Vec<Access> {
    const SMALL: u64 = 8 << 10;
    const PAGE: u64 = 4 << 10;
    const HEAD: u64 = 0x100;
    const SAMPLE: u64 = 61;
    let mut registers = Vec::new();
    for region in device.regions() {
        let wanted =
            |offset: &u64| region.len <= SMALL || offset % PAGE < HEAD || offset.is_multiple_of(SAMPLE);
        let offsets = (0..region.len).filter(wanted);
        registers.extend(offsets.map(|offset| Access { region: region.index, offset }));
    }
    match order {
        Order::Rising => {}
        Order::Falling => registers.reverse(),
        Order::Shuffled(seed) => {
            let mut random = Random(seed);
            for i in (1..registers.len()).rev() {
                registers.swap(i, (random.next() % (i as u64 + 1)) as usize);
            }
        }
    }
    registers
}

/// Marsaglia's xorshift: the same numbers every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn refuses_foreign_state(device: &mut dyn Device, own: &Saved) {
    let foreign = Saved { kind: "something-else".into(), ..own.clone() };
    assert!(device.restore_saved(&foreign).is_err(), "a foreign state was taken");
    let newer = Saved { version: own.version + 1, ..own.clone() };
    assert!(device.restore_saved(&newer).is_err(), "a newer state was taken");
    let broken = Saved { state: serde_json::Value::String("broken".into()), ..own.clone() };
    assert!(device.restore_saved(&broken).is_err(), "a broken state was taken");
    assert_eq!(&saved(device), own, "a refused state left traces");
}

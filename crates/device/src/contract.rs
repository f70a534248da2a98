//! The contract of every device, as a test that the crates with devices run over theirs.

use crate::{Access, Device, Effect, Saved};

/// Drives a freshly built device with accesses of every size and checks that
/// * none of them panics,
/// * a reset brings back the state it was built with,
/// * saving, resetting and restoring gives the state that was saved.
///
/// # Panics
/// If the device breaks the contract: this is a test.
pub fn check(device: &mut dyn Device) {
    let fresh = device.save();
    for (seed, value) in [0u8, 1, 0x5a, 0xff].into_iter().enumerate() {
        batter(device, value, seed as u64);
        let battered = device.save();
        device.reset();
        assert_eq!(device.save(), fresh, "reset does not bring the fresh state back");
        if let Some(battered) = battered {
            device.restore(&battered).expect("a saved state is restorable");
            assert_eq!(
                device.save().as_ref(),
                Some(&battered),
                "restore does not bring the saved state back"
            );
            refuses_foreign_state(device, &battered);
        }
        device.reset();
    }
}

/// Reads and writes every register with sizes 1 to 16, plus sizes no CPU makes; the device may hold thousands.
fn batter(device: &mut dyn Device, value: u8, seed: u64) {
    for region in device.regions() {
        let step = (region.len / 512).max(1);
        for offset in (seed % step..region.len).step_by(usize::try_from(step).unwrap_or(1)) {
            for len in [1u64, 2, 3, 4, 5, 8, 16].into_iter().filter(|len| offset + len <= region.len) {
                let at = Access { region: region.index, offset };
                let mut data = vec![0xff; usize::try_from(len).unwrap_or(1)];
                device.read(at, &mut data);
                data.fill(value.wrapping_add(offset as u8));
                let effect = device.write(at, &data);
                if effect == Effect::Remap {
                    device.undo_remap();
                }
            }
        }
    }
}

fn refuses_foreign_state(device: &mut dyn Device, own: &Saved) {
    let foreign = Saved { kind: "something-else".into(), ..own.clone() };
    assert!(device.restore(&foreign).is_err(), "a foreign state was taken");
    let newer = Saved { version: own.version + 1, ..own.clone() };
    assert!(device.restore(&newer).is_err(), "a newer state was taken");
    let broken = Saved { state: serde_json::Value::String("broken".into()), ..own.clone() };
    assert!(device.restore(&broken).is_err(), "a broken state was taken");
    assert_eq!(device.save().as_ref(), Some(own), "a refused state left traces");
}

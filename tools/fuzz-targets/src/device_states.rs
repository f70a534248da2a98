//! The saved state of each device, virtio functions and the board's, changed in places. The first byte chooses the device, some more
//! what it has gone through before it is saved, and the others change the state.
//!
//! A changed state is refused and leaves no traces, or it is what the device then has: it saves the same, is restored again, and the
//! device works on with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chipset::acpi::{CpuController, Ged, Generation, GenerationId, MemoryHotplug, PmTimer, SleepControl};
use chipset::cmos::Cmos;
use chipset::debug::{BootLog, TextPort};
use chipset::i8042::I8042;
use chipset::pvpanic::PvpanicFunction;
use chipset::serial::Serial;
use device::{Access, Device, Events, Msi, MsiSource, MsiVector, NoInterrupt, NoSink, Saved};
use hv::IrqChip;
use irqchip::IoApic;
use pci::{Address, ConfigLatch, FakeSource, HostBridge};
use serde_json::{Value, json};
use stream::Stream;

use crate::bytes::Bytes;
use crate::driver::Rings;
use crate::json::assert_kept;
use crate::rig::{self, Rig, with_rig};

/// Changes of one state at most.
const EDITS: usize = 3;
/// What a device may put in order when it takes a state: older versions become its own, interrupts that nothing holds back are sent,
/// a UART's input moves on, and a timer is set forward by the time that has passed.
const SETTLED: [&str; 8] =
    ["version", "pending", "fifo", "waiting", "line_status", "interrupt_identification", "ticks", "host_ns"];
const TIME: Duration = Duration::from_secs(1_000_000_000);

/// The board's devices.
const BOARD: &[fn() -> Box<dyn Device>] = &[
    || Box::new(IoApic::new(Arc::new(NoApics(FakeSource::default())))),
    || Box::new(Serial::build(null(), Arc::new(NoInterrupt)).unwrap()),
    || Box::new(Ged::new(0xfff0_0000, Arc::new(NoInterrupt))),
    || Box::new(PmTimer::new(Box::new(|| TIME), Box::new(|| TIME))),
    || Box::new(Cmos::new(Box::new(|| TIME), 1 << 30, 1 << 32)),
    || Box::new(HostBridge::new()),
    || Box::new(ConfigLatch::new(Arc::default())),
    || {
        let events = Events::new(Arc::new(NoSink)).unwrap();
        Box::new(PvpanicFunction::new(Address { segment: 0, slot: 2 }, 0xe000_0000, events))
    },
    || Box::new(SleepControl),
    || Box::new(I8042),
    || Box::new(BootLog::new(Box::new(|| TIME))),
    || Box::new(TextPort::firmware(null())),
    || {
        let cpus = CpuController::new(0xfff0_0000, vec![0, 1, 2, 3], 3);
        cpus.slots().insert(4);
        cpus.slots().ask_to_leave(2);
        Box::new(cpus)
    },
    || {
        let memory = MemoryHotplug::new(0xfff0_0000, (4 << 30, 1 << 30));
        memory.slots().insert(256 << 20).unwrap();
        Box::new(memory)
    },
    || Box::new(Generation::new(GenerationId::from([7; GenerationId::SIZE]))),
];

fn null() -> Stream {
    Stream::open(&config::plan::Stream::Null).unwrap().unwrap()
}

/// Local APICs that take every message.
struct NoApics(FakeSource);

impl MsiSource for NoApics {
    fn vector(&self) -> Box<dyn MsiVector> {
        self.0.vector()
    }
}

impl IrqChip for NoApics {
    fn send(&self, _: Msi) {}

    fn watch_level_pin(&self, _: u8, _: Option<Msi>) {}
}

pub(crate) fn run(data: &[u8]) {
    is_taken(data);
}

fn is_taken(data: &[u8]) -> bool {
    let mut bytes = Bytes(data);
    let choice = bytes.byte();
    let mut taken = false;
    match usize::from(choice).checked_sub(rig::KINDS.len()) {
        None => with_rig(choice, |rig| {
            drive(rig, &mut bytes);
            rig.hold();
            taken = check(&mut *rig.device(), &mut bytes);
        }),
        Some(index) => {
            let mut device = BOARD[index % BOARD.len()]();
            use_registers(&mut *device, &mut bytes);
            taken = check(&mut *device, &mut bytes);
        }
    }
    taken
}

/// Brings a virtio device up as far as a byte says.
fn drive(rig: &Rig, bytes: &mut Bytes<'_>) {
    let steps = bytes.below(4);
    if steps == 0 {
        return;
    }
    rig.negotiate(u64::MAX);
    for index in 0..rig.queue_count() {
        let base = u64::from(index) * 0x4000;
        rig.lay_out(
            index,
            &Rings { size: 8, descriptors: base, available: base + 0x1000, used: base + 0x2000 },
        );
    }
    if steps > 1 {
        rig.go();
    }
    if steps > 2 {
        (0..rig.queue_count()).for_each(|queue| rig.kick(queue));
    }
}

/// Reads and writes some registers.
fn use_registers(device: &mut dyn Device, bytes: &mut Bytes<'_>) {
    for _ in 0..bytes.below(16) {
        let regions = device.regions();
        if regions.is_empty() {
            return;
        }
        let region = bytes.one_of(&regions);
        let offset = u64::from(bytes.byte()) % region.len;
        let at = Access { region: region.index, offset };
        let len = *bytes.one_of(&[1usize, 4, 2]);
        let mut data = bytes.take(len.min((region.len - offset) as usize));
        // Moves and resets are the machine's to make.
        let _ = device.write(at, &data);
        device.read(at, &mut data);
    }
}

/// Answers whether the changed state was taken.
fn check(device: &mut dyn Device, bytes: &mut Bytes<'_>) -> bool {
    let own = device.to_saved().unwrap();
    device.reset();
    let fresh = device.to_saved().unwrap();
    let mut changed = own;
    for _ in 0..=bytes.below(EDITS) {
        edit(&mut changed.state, bytes);
    }
    if let Err(error) = device.restore_saved(&changed) {
        assert!(!error.to_string().is_empty());
        assert_eq!(device.to_saved().unwrap(), fresh, "a refused state left traces: {changed:?}");
        return false;
    }
    let taken = device.to_saved().unwrap();
    assert_kept(&without(&changed.state), &without(&taken.state));
    again(device, &taken);
    device.resume();
    use_registers(device, bytes);
    device.pause();
    assert!(device.is_paused(Instant::now() + rig::PATIENCE), "the device does not hold still");
    let later = device.to_saved().unwrap();
    again(device, &later);
    device.reset();
    true
}

/// What a device saves is restored to the same.
fn again(device: &mut dyn Device, saved: &Saved) {
    device.reset();
    device.restore_saved(saved).unwrap_or_else(|e| panic!("{e}: a saved state is refused: {saved:?}"));
    assert_eq!(&device.to_saved().unwrap(), saved, "a restored state is another");
}

/// The state without what a device may put in order.
fn without(state: &Value) -> Value {
    match state {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(name, _)| !SETTLED.contains(&name.as_str()));
            kept.map(|(name, value)| (name.clone(), without(value))).collect()
        }
        Value::Array(values) => values.iter().map(without).collect(),
        other => other.clone(),
    }
}

/// Changes one thing somewhere in `value`.
fn edit(value: &mut Value, bytes: &mut Bytes<'_>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let name = fields.keys().nth(bytes.below(fields.len())).unwrap().clone();
            if bytes.one_in(32) {
                fields.remove(&name);
            } else {
                edit(&mut fields[&name], bytes);
            }
        }
        Value::Array(values) => match bytes.below(32) {
            31 => drop(values.pop()),
            30 => values.push(values.first().cloned().unwrap_or(json!(0))),
            29 => values.resize(values.len() + 5000, json!(1)),
            _ if values.is_empty() => {}
            _ => {
                let index = bytes.below(values.len());
                edit(&mut values[index], bytes);
            }
        },
        Value::Number(number) => *value = number_near(number.as_u64().unwrap_or(0), bytes),
        Value::Bool(flag) => *flag = !*flag,
        Value::String(text) => match bytes.below(4) {
            0 => text.clear(),
            1 => text.push_str("\u{1f980}\0"),
            2 => *text = "x".repeat(bytes.byte().into()),
            _ => *value = json!(null),
        },
        // What a network card's driver has set up.
        Value::Null => {
            let (offloads, pairs) = (number_near(0, bytes), number_near(1, bytes));
            *value = json!({"offloads": offloads, "pairs": pairs, "announce": bytes.one_in(2)});
        }
        // Nothing is left to change.
        Value::Object(_) => {}
    }
}

fn number_near(number: u64, bytes: &mut Bytes<'_>) -> Value {
    match bytes.below(16) {
        0..=5 => json!(number ^ 1 << bytes.below(8)),
        6..=8 => json!(bytes.byte()),
        9 => json!(number.wrapping_add(1)),
        10 => json!(0),
        11 => json!(number ^ 1 << bytes.below(64)),
        12 => json!(u64::MAX >> bytes.below(64)),
        13 => json!(bytes.number()),
        14 => json!(number << 8),
        _ => [json!(-1), json!(0.5), json!("1"), json!(null), json!([])][bytes.below(5)].clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A corpus of states that are all refused, or all taken, would test little.
    #[test]
    fn some_states_are_taken_and_some_are_refused() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/device_states");
        let files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        let taken = files.iter().filter(|path| is_taken(&std::fs::read(path).unwrap())).count();
        let refused = files.len() - taken;
        assert!(taken > 10 && refused > 10, "{taken} taken, {refused} refused");
    }
}

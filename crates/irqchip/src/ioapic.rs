//! The 82093AA I/O APIC: 24 pins, each with an entry that says which message it sends (Intel 82093AA data sheet; `spec/devices.md` §3).
//!
//! vCPU threads enter [`IoApic`] through the bus. Pins are driven by any thread through [`Pins`], which shares the registers as a leaf
//! object; messages leave after its lock is released, because what sends them may lock as well.
//!
//! A pin's level means asserted or not. The polarity bit is kept for the guest to read: the board between device and pin inverts
//! where it must.

mod entry;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use device::{Access, Device, Effect, InterruptLine, Msi, Persist, Region, RestoreError, Space};
use hv::IrqChip;
use memory::layout;
use serde::{Deserialize, Serialize};

use entry::Entry;

/// Pins of the chip.
pub const PINS: u8 = 24;

const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;

const REG_ID: u8 = 0;
const REG_VERSION: u8 = 1;
const REG_ARBITRATION: u8 = 2;
const REG_TABLE: u8 = 0x10;
/// 24 entries, version 0x11 (no EOI register).
const VERSION: u32 = 0x0017_0011;

/// The registers, and what devices drive the pins to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    id: u8,
    select: u8,
    entries: [u64; PINS as usize],
    /// One bit per pin: asserted.
    levels: u32,
}

impl Default for State {
    fn default() -> Self {
        Self { id: 0, select: 0, entries: [Entry::RESET.0; PINS as usize], levels: 0 }
    }
}

impl State {
    fn entry(&self, pin: u8) -> Entry {
        Entry(self.entries.get(usize::from(pin)).copied().unwrap_or(Entry::RESET.0))
    }

    fn set_entry(&mut self, pin: u8, entry: Entry) {
        if let Some(slot) = self.entries.get_mut(usize::from(pin)) {
            *slot = entry.0;
        }
    }

    fn is_asserted(&self, pin: u8) -> bool {
        self.levels & 1 << pin != 0
    }

    /// The message to send if `pin` is an asserted, unmasked level pin whose last interrupt has ended.
    fn deliver_level(&mut self, pin: u8) -> Option<Msi> {
        let entry = self.entry(pin);
        let due = entry.is_level() && !entry.is_masked() && !entry.remote_irr() && self.is_asserted(pin);
        due.then(|| {
            self.set_entry(pin, entry.with_remote_irr(true));
            entry.msi()
        })
    }

    fn set_level(&mut self, pin: u8, level: bool) -> Option<Msi> {
        let before = self.levels;
        self.levels = if level { before | 1 << pin } else { before & !(1 << pin) };
        let entry = self.entry(pin);
        if entry.is_level() {
            return self.deliver_level(pin);
        }
        // An edge on a masked pin is lost, as on the real chip.
        let rising = level && before & 1 << pin == 0;
        (rising && !entry.is_masked()).then(|| entry.msi())
    }

    fn read(&self, register: u8) -> u32 {
        match register {
            REG_ID | REG_ARBITRATION => u32::from(self.id) << 24,
            REG_VERSION => VERSION,
            _ => register.checked_sub(REG_TABLE).map_or(u32::MAX, |i| {
                let entry = if i / 2 < PINS { self.entry(i / 2).0 } else { u64::MAX };
                (if i % 2 == 0 { entry } else { entry >> 32 }) as u32
            }),
        }
    }
}

struct Core {
    state: Mutex<State>,
    local_apics: Arc<dyn IrqChip>,
}

impl Core {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, msi: Option<Msi>) {
        if let Some(msi) = msi {
            self.local_apics.send(msi);
        }
    }

    fn write_register(&self, register: u8, value: u32) {
        let mut state = self.lock();
        if register == REG_ID {
            state.id = (value >> 24 & 0xf) as u8;
        }
        let Some(index) = register.checked_sub(REG_TABLE).filter(|i| i / 2 < PINS) else { return };
        let (pin, old) = (index / 2, state.entry(index / 2));
        let bits = if index % 2 == 0 {
            old.0 & !u64::from(u32::MAX) | u64::from(value)
        } else {
            old.0 & u64::from(u32::MAX) | u64::from(value) << 32
        };
        let new = old.written(bits);
        state.set_entry(pin, new);
        let msi = state.deliver_level(pin);
        drop(state);
        if new.level_message() != old.level_message() {
            self.local_apics.watch_level_pin(pin, new.level_message());
        }
        self.send(msi);
    }

    /// Puts a whole state in and tells the hypervisor what has changed.
    fn replace(&self, new: State) {
        let old = std::mem::replace(&mut *self.lock(), new.clone());
        for pin in 0..PINS {
            let message = new.entry(pin).level_message();
            if message != old.entry(pin).level_message() {
                self.local_apics.watch_level_pin(pin, message);
            }
        }
    }
}

/// The chip's pins, for devices and for the hypervisor's reports. Cloning shares them.
#[derive(Clone)]
pub struct Pins(Arc<Core>);

impl Pins {
    /// The line that ends at `pin`, 0 to 23; a line nobody listens to beyond.
    pub fn line(&self, pin: u8) -> Arc<dyn InterruptLine> {
        if pin >= PINS {
            return Arc::new(device::NoInterrupt);
        }
        Arc::new(Line { core: self.0.clone(), pin })
    }

    /// A local APIC reports the end of the level-triggered interrupt `vector`. A pin that is still asserted fires again.
    pub fn eoi(&self, vector: u8) {
        for pin in 0..PINS {
            let mut state = self.0.lock();
            let entry = state.entry(pin);
            if entry.vector() != vector || !entry.remote_irr() {
                continue;
            }
            state.set_entry(pin, entry.with_remote_irr(false));
            let again = state.deliver_level(pin);
            drop(state);
            self.0.send(again);
        }
    }
}

struct Line {
    core: Arc<Core>,
    pin: u8,
}

impl InterruptLine for Line {
    fn set_level(&self, level: bool) {
        let msi = self.core.lock().set_level(self.pin, level);
        self.core.send(msi);
    }
}

/// The chip's registers on the bus.
pub struct IoApic(Arc<Core>);

impl IoApic {
    /// A chip out of reset: all pins masked. Messages go to `local_apics`.
    pub fn new(local_apics: Arc<dyn IrqChip>) -> Self {
        Self(Arc::new(Core { state: Mutex::default(), local_apics }))
    }

    /// The pins, to hand out before the chip goes to the bus.
    pub fn pins(&self) -> Pins {
        Pins(self.0.clone())
    }
}

impl Device for IoApic {
    fn regions(&self) -> Vec<Region> {
        vec![Region::new(Space::Mmio, layout::IOAPIC, layout::IOAPIC_SIZE, 0)]
    }

    fn read(&mut self, at: Access, data: &mut [u8]) {
        let state = self.0.lock();
        let value = match at.offset {
            SELECT => u32::from(state.select),
            WINDOW => state.read(state.select),
            _ => return,
        };
        data.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
    }

    fn write(&mut self, at: Access, data: &[u8]) -> Effect {
        let mut bytes = [0; 4];
        bytes.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
        let value = u32::from_le_bytes(bytes);
        match at.offset {
            SELECT => self.0.lock().select = value as u8,
            WINDOW => {
                let register = self.0.lock().select;
                self.0.write_register(register, value);
            }
            _ => {}
        }
        Effect::None
    }

    fn reset(&mut self) {
        self.0.replace(State::default());
    }
}

impl Persist for IoApic {
    type State = State;
    const KIND: &'static str = "ioapic";
    const VERSION: u32 = 1;

    fn save(&self) -> State {
        self.0.lock().clone()
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        let wrong = |field| Err(RestoreError::Value { kind: Self::KIND, field });
        if state.id > 0xf {
            return wrong("id");
        }
        if !state.entries.iter().all(|bits| Entry::is_possible(*bits)) {
            return wrong("redirection entry");
        }
        if state.levels >> PINS != 0 {
            return wrong("pin level");
        }
        self.0.replace(state);
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! The board: everything at fixed addresses (`spec/devices.md` §2, §3).

use std::sync::{Arc, Mutex};

use chipset::acpi::{Ged, Notifier, PmTimer, SleepControl};
use chipset::cmos::Cmos;
use chipset::debug::{BootLog, TextPort};
use chipset::i8042::I8042;
use chipset::serial::Serial;
use device::{AddressSpaces, Device, InterruptLine, Msi, Slot};
use hv::IrqChip;
use irqchip::{IoApic, MsiSend, Pins};
use memory::layout;
use pci::HostBridge;
use stream::Stream;

use crate::DeviceError;

/// COM1's pin.
const SERIAL_PIN: u8 = 4;
/// The generic event device's pin.
pub(crate) const GED_PIN: u8 = 13;

/// The IOAPIC's way to the local APICs.
struct ToLocalApics(Arc<dyn IrqChip>);

impl MsiSend for ToLocalApics {
    fn send(&self, msi: Msi) {
        self.0.send(msi);
    }

    fn route(&self, pin: u8, entry: Option<(Msi, bool)>) {
        let level = entry.and_then(|(msi, level)| level.then_some(msi));
        self.0.watch_level_pin(pin, level);
    }
}

/// The parts of the board that others talk to.
pub(crate) struct Board {
    pub(crate) pins: Pins,
    pub(crate) notifier: Notifier,
}

/// Puts the board's devices into `spaces`. The generic event device's register lies at `ged`.
pub(crate) fn attach(
    spaces: &AddressSpaces,
    irqchip: Arc<dyn IrqChip>,
    serial: Option<Stream>,
    ram: u64,
    ged: u64,
) -> Result<Board, DeviceError> {
    let put = |id: &str, slot: Slot| {
        spaces.attach(&slot).map_err(|source| DeviceError::Attach { id: id.into(), source })
    };
    let ioapic = IoApic::new(Arc::new(ToLocalApics(irqchip)));
    let pins = ioapic.pins();
    put("__ioapic", slot(ioapic))?;
    if let Some(stream) = serial {
        let line: Arc<dyn InterruptLine> = pins.line(SERIAL_PIN);
        let serial = Serial::build(stream, line).map_err(|e| DeviceError::build("__serial", e))?;
        put("__serial", slot(serial))?;
    }
    let ged = Ged::new(ged, pins.line(GED_PIN));
    let notifier = ged.notifier();
    put("ged", slot(ged))?;
    put("sleep control", slot(SleepControl))?;
    put("pm timer", slot(PmTimer::new(chipset::stopwatch())))?;
    put("i8042", slot(I8042))?;
    put(
        "cmos",
        slot(Cmos::new(chipset::wall_clock(), ram.min(layout::HOLE), ram.saturating_sub(layout::HOLE))),
    )?;
    put("debug port", slot(BootLog::new(chipset::stopwatch())))?;
    let stdout = Stream::stdout().map_err(|e| DeviceError::build("firmware port", e))?;
    put("firmware port", slot(TextPort::firmware(stdout)))?;
    put("host bridge", slot(HostBridge::new()))?;
    Ok(Board { pins, notifier })
}

fn slot(device: impl Device + 'static) -> Slot {
    Arc::new(Mutex::new(device))
}

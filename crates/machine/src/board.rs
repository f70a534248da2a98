//! The board: everything at fixed addresses (`spec/devices.md` §2, §3).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use chipset::acpi::{
    CpuController, CpuSlots, Ged, Generation, GenerationHandle, GenerationId, MemoryHotplug, MemorySlots,
    Notifier,
};
use chipset::acpi::{PciHotplug, PciSlots, PmTimer, SleepControl};
use chipset::cmos::Cmos;
use chipset::debug::{BootLog, TextPort};
use chipset::i8042::I8042;
use chipset::serial::Serial;
use config::plan;
use device::{Device, InterruptLine, Slot};
use hv::IrqChip;
use irqchip::{IoApic, Pins};
use memory::layout::{self, DeviceArea};
use pci::{ConfigLatch, ConfigPorts, HostBridge};
use stream::Stream;

use crate::DeviceError;
use crate::nodes::Nodes;

/// The parts of the board that others talk to.
pub(crate) struct Board {
    pub(crate) pins: Pins,
    pub(crate) notifier: Notifier,
    pub(crate) pci_slots: PciSlots,
    pub(crate) cpu_slots: CpuSlots,
    pub(crate) memory_slots: MemorySlots,
    pub(crate) generation: GenerationHandle,
}

/// What the board is built around.
pub(crate) struct Fixed<'a> {
    pub(crate) irqchip: Arc<dyn IrqChip>,
    /// Bytes of RAM at boot.
    pub(crate) ram: u64,
    /// Where RAM lies that comes later through ACPI.
    pub(crate) memory_window: layout::Range,
    /// The CPUs there can be.
    pub(crate) cpus: &'a plan::Cpus,
    /// The NUMA nodes of CPUs, by the CPU's number.
    pub(crate) cpu_nodes: BTreeMap<u32, u8>,
    /// Which generation of the VM it is.
    pub(crate) generation: GenerationId,
    /// How many PCI segments there are.
    pub(crate) segments: usize,
    /// Where what is not at an address of its own lies.
    pub(crate) area: &'a DeviceArea,
    /// The ports to configuration space.
    pub(crate) ports: &'a Arc<ConfigPorts>,
}

/// Puts the board's devices among the machine's.
pub(crate) fn attach(
    nodes: &mut Nodes,
    fixed: Fixed<'_>,
    serial: Option<Stream>,
) -> Result<Board, DeviceError> {
    let ioapic = IoApic::new(fixed.irqchip);
    let pins = ioapic.pins();
    let mut put = |id: &str, slot: Slot| nodes.attach_board(id, slot);
    put("__ioapic", slot(ioapic))?;
    if let Some(stream) = serial {
        let line: Arc<dyn InterruptLine> = pins.line(Serial::PIN);
        let serial = Serial::build(stream, line).map_err(|e| DeviceError::build("__serial", e))?;
        put("__serial", slot(serial))?;
    }
    let ged = Ged::new(platform_page(fixed.area, 1), pins.line(Ged::PIN));
    let notifier = ged.notifier();
    let apic_ids = (0..fixed.cpus.max).map(|vcpu| fixed.cpus.topology.apic_id(vcpu)).collect();
    let (page, present) = (platform_page(fixed.area, 2), fixed.cpus.boot);
    let cpus = CpuController::new(page, apic_ids, present).in_nodes(fixed.cpu_nodes);
    let cpu_slots = cpus.slots();
    let pci_hotplug = PciHotplug::new(platform_page(fixed.area, 3), fixed.segments, notifier.clone());
    let pci_slots = pci_hotplug.slots();
    let memory_hotplug = MemoryHotplug::new(platform_page(fixed.area, 4), fixed.memory_window);
    let memory_slots = memory_hotplug.slots();
    let generation = Generation::new(fixed.generation);
    let generation_handle = generation.handle();
    let (low, high) = (fixed.ram.min(layout::HOLE), fixed.ram.saturating_sub(layout::HOLE));
    put("__sleep_control", slot(SleepControl))?;
    put("__ged", slot(ged))?;
    put("__cpus", slot(cpus))?;
    put("__pci_hotplug", slot(pci_hotplug))?;
    put("__memory_hotplug", slot(memory_hotplug))?;
    put("__generation", slot(generation))?;
    put("__pm_timer", slot(PmTimer::new(chipset::stopwatch(), chipset::wall_clock())))?;
    put("__i8042", slot(I8042))?;
    put("__cmos", slot(Cmos::new(chipset::wall_clock(), low, high)))?;
    put("__boot_log", slot(BootLog::new(chipset::stopwatch())))?;
    let stdout = Stream::stdout().map_err(|e| DeviceError::build("__firmware_port", e))?;
    put("__firmware_port", slot(TextPort::firmware(stdout)))?;
    put("__host_bridge", slot(HostBridge::new()))?;
    put("__config_ports", slot(ConfigLatch::new(fixed.ports.clone())))?;
    Ok(Board { pins, notifier, pci_slots, cpu_slots, memory_slots, generation: generation_handle })
}

/// A page of the platform area, counted from its end, from 1.
fn platform_page(area: &DeviceArea, nth: u64) -> u64 {
    const PAGE: u64 = 4096;
    area.platform + layout::PLATFORM_SIZE - nth * PAGE
}

fn slot(device: impl Device + 'static) -> Slot {
    Arc::new(Mutex::new(device))
}

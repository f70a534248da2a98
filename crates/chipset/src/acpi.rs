//! ACPI hardware of a machine with the hardware-reduced profile (ACPI 6.4 §4; `spec/devices.md` §2 and §4). vCPUs enter the
//! registers.

mod code;
mod cpus;
mod ged;
mod generation;
mod memory_hotplug;
mod pci_hotplug;
mod pm_timer;
mod power;

pub use cpus::{CpuController, CpuSlots, madt_entry};
pub use ged::{Cause, Ged, Notifier};
pub use generation::{Generation, GenerationHandle, GenerationId};
pub use memory_hotplug::{GrowthError, MemoryHotplug, MemorySlots};
pub use pci_hotplug::{PciHotplug, PciSlots};
pub use pm_timer::PmTimer;
pub use power::SleepControl;

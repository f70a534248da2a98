//! A virtual machine: a plan made real, and its life until it is dropped.
//!
//! ```text
//!  Plan --build--> held --start--> running <--pause/resume--> paused --save--> Tree
//!  Plan, Tree and RAM --build--> paused \____ drop ____/
//! ```
//! The control thread owns a [`Machine`] by value and is the only one to call it. Reset and reboot drop it and build it anew. Whatever
//! control asks of it has a limit: 30 s for all vCPUs together, 30 s for all devices, 30 s for the threads of a device that ends. An error names
//! what was late.

mod board;
mod build;
mod catalogue;
mod consoles;
mod cpus;
mod debug;
mod dirty;
mod error;
mod growth;
mod hotplug;
mod io;
mod missing;
mod nodes;
mod numa;
mod output_files;
mod own_memory;
mod ram;
mod ram_size;
mod readings;
mod tree;
mod vcpus;

use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use api::DeviceNode;
use chipset::acpi::{Cause, CpuSlots, GenerationHandle, Notifier, PciSlots};
use config::VmConfig;
use virtio_devices::blk::Disk;
use virtio_devices::console::Resizer;

use cpus::CpuMaker;
use growth::Growth;
use nodes::Nodes;
use ram::MappedRam;
use vcpus::Vcpus;

pub use build::{Generation, Start, build};
pub use catalogue::profiles;
pub use chipset::acpi::GenerationId;
pub use consoles::Consoles;
pub use debug::{DebugDesk, DebugStops};
pub use dirty::DirtyRam;
pub use error::{
    BuildError, ConsoleError, DeviceError, GrowError, LateDevice, PauseError, PlugError, ResizeDiskError,
    ResizeError,
};
pub use hotplug::RemoveError;
pub use readings::Readings;
pub use tree::{StateError, Tree};
pub use vcpus::{Debugger, VcpuError};

#[cfg(test)]
mod tests;

/// A machine. Its parts are dropped in this order: CPUs first, RAM last.
pub struct Machine {
    vcpus: Vcpus,
    cpu_slots: CpuSlots,
    maker: CpuMaker,
    nodes: Nodes,
    notifier: Notifier,
    pci_slots: PciSlots,
    consoles: Consoles,
    paused: bool,
    vm: Arc<dyn hv::Vm>,
    ram: MappedRam,
    growth: Growth,
    generation: GenerationHandle,
}

/// Descriptors that clients handed over for devices, by the device's id: of a network device, the queues of its tap.
pub type Descriptors = BTreeMap<String, Vec<OwnedFd>>;

impl Machine {
    /// Lets a freshly built machine run.
    pub fn start(&mut self) {
        self.resume();
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Holds the CPUs, then the devices. In-flight requests are finished; the guest's clocks run on ([`hv::GuestClock`]).
    ///
    /// # Errors
    /// [`PauseError`] names what could not be held; the machine runs on then.
    pub fn pause(&mut self) -> Result<(), PauseError> {
        if let Err(error) = self.vcpus.pause() {
            // The devices go on: they were asked nothing, and a vCPU that does not come back may have one's lock.
            self.vcpus.run();
            return Err(error.into());
        }
        if let Err(error) = self.nodes.pause() {
            self.resume();
            return Err(error.into());
        }
        self.paused = true;
        Ok(())
    }

    /// Lets a paused machine go on where it was.
    pub fn resume(&mut self) {
        self.nodes.resume();
        self.vcpus.run();
        self.paused = false;
    }

    /// Looks after what was late and has come to its end meanwhile: [`device::Event::News`] says when.
    pub fn look_after(&mut self) {
        self.nodes.look_after();
    }

    /// The state of a paused machine, without guest RAM.
    ///
    /// # Errors
    /// [`StateError`] names what has none.
    pub fn save(&self) -> Result<Tree, StateError> {
        let clock = self.vm.clock().map(hv::GuestClock::read).transpose().map_err(StateError::Clock)?;
        let memory = self.nodes.memory_places();
        let (nodes, vcpus) = (self.nodes.save()?, self.vcpus.save()?);
        Ok(Tree {
            nodes,
            memory,
            vcpus,
            boot_ram: self.growth.boot_ram,
            clock,
            ram: self.ram.guest().ranges(),
            slots: self.nodes.slots().map(|(id, slot)| (id.to_owned(), slot)).collect(),
            cpuid: self.maker.leaves().to_vec(),
        })
    }

    /// Which generation of the VM it is: a machine that takes its place after a reboot is the same.
    pub fn generation(&self) -> GenerationId {
        self.generation.id()
    }

    /// Presses the power button. What follows is the guest's business.
    pub fn press_power_button(&self) {
        self.notifier.notify(Cause::PowerButton);
    }

    /// Tells the guest that its console's terminal may have another size.
    pub fn console_resized(&self) {
        self.handles::<Resizer>().for_each(|(_, resizer)| resizer.refresh());
    }

    /// Gives the disk `id` another size and tells the guest. Requests that are under way end before; those that come later and reach beyond
    /// the new end fail.
    ///
    /// # Errors
    /// [`ResizeDiskError`]; the disk keeps its size.
    pub fn resize_disk(&self, id: &str, bytes: u64) -> Result<(), ResizeDiskError> {
        let disk = self.handles::<Arc<Disk>>().find(|(of, _)| *of == id);
        let (_, disk) = disk.ok_or_else(|| ResizeDiskError::NoDisk(id.into()))?;
        Ok(self.nodes.hold(id, !self.paused, || disk.resize(bytes))??)
    }

    /// What devices have handed out for later, by type, with the devices' ids.
    fn handles<H: Any>(&self) -> impl Iterator<Item = (&str, &H)> {
        self.nodes.handles()
    }

    /// Sends a non-maskable interrupt to every vCPU.
    ///
    /// # Errors
    /// [`VcpuError`] names the CPU that did not take it.
    pub fn nmi(&self) -> Result<(), VcpuError> {
        self.vcpus.nmi()
    }

    /// A debugger's way to the vCPUs that the guest has now, and to its RAM.
    pub fn debugger(&self) -> Debugger {
        self.vcpus.debugger(self.ram.guest().clone())
    }

    /// Open consoles, to be kept when the machine goes.
    pub fn consoles(&self) -> &Consoles {
        &self.consoles
    }

    /// The slot that each PCI device has got, by id: a plan keeps it ([`config::Plan::settle`]).
    pub fn slots(&self) -> impl Iterator<Item = (&str, u8)> {
        self.nodes.slots()
    }

    /// Writes what devices have found out into the configuration that clients see.
    pub fn amend(&self, config: &mut VmConfig) {
        self.nodes.amend(config);
    }

    /// The devices and what they occupy.
    pub fn device_tree(&self) -> BTreeMap<String, DeviceNode> {
        self.nodes.describe()
    }

    /// What the machine counts, for threads that read it later.
    pub fn readings(&self) -> Readings {
        Readings {
            devices: self.nodes.counters(),
            vcpus: self.vcpus.exits(),
            ram_size: self.watch_ram_size(),
        }
    }
}

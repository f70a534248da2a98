//! A virtual machine: a plan made real, and its life until it is dropped.
//!
//! ```text
//!  Plan --build--> held --start--> running <--pause/resume--> paused
//!                                     \____ drop ____/
//! ```
//! The control thread owns a [`Machine`] by value and is the only one to call it. Reset and reboot drop it and build it anew.

mod board;
mod build;
mod catalogue;
mod consoles;
mod error;
mod found;
mod functions;
mod io;
mod output_files;
mod readings;
mod vcpus;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use api::DeviceNode;
use chipset::acpi::{Cause, Notifier};
use hv::{ClockReading, Vm};
use memory::GuestRam;

use functions::Functions;
use vcpus::Vcpus;

pub use build::build;
pub use consoles::Consoles;
pub use error::{BuildError, ConsoleError, DeviceError};
pub use found::Found;
pub use readings::Readings;

/// A machine. Its parts are dropped in this order: CPUs first, RAM last.
pub struct Machine {
    vcpus: Vcpus,
    functions: Functions,
    board: DeviceNodes,
    notifier: Notifier,
    consoles: Consoles,
    vm: Arc<dyn Vm>,
    clock: Option<ClockReading>,
    paused: bool,
    ram: GuestRam,
}

/// Descriptors that clients handed over for devices, by the device's id: of a network device, the queues of its tap.
pub type Descriptors = BTreeMap<String, Vec<OwnedFd>>;

/// Ids of board devices that `vm.info` shows.
type DeviceNodes = Vec<&'static str>;

impl Machine {
    /// Lets a freshly built machine run.
    pub fn start(&mut self) {
        self.vcpus.run();
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Holds the CPUs, then the devices. In-flight requests are finished; the guest's clock stands still.
    ///
    /// # Errors
    /// The hypervisor's, if the clock cannot be read; the machine runs on then.
    pub fn pause(&mut self) -> Result<(), hv::Error> {
        self.vcpus.pause();
        match self.vm.clock().map(hv::GuestClock::read).transpose() {
            Ok(clock) => self.clock = clock,
            Err(error) => {
                self.vcpus.run();
                return Err(error);
            }
        }
        self.functions.pause();
        self.paused = true;
        Ok(())
    }

    /// Lets a paused machine go on where it was.
    ///
    /// # Errors
    /// The hypervisor's, if the clock cannot be set; the machine stays paused then.
    pub fn resume(&mut self) -> Result<(), hv::Error> {
        if let (Some(clock), Some(reading)) = (self.vm.clock(), self.clock) {
            clock.set(reading)?;
        }
        self.functions.resume();
        self.vcpus.run();
        self.paused = false;
        Ok(())
    }

    /// Presses the power button. What follows is the guest's business.
    pub fn press_power_button(&self) {
        self.notifier.notify(Cause::PowerButton);
    }

    /// Tells the guest that its console's terminal may have another size.
    pub fn console_resized(&self) {
        if let Some(resizer) = &self.functions.resizer {
            resizer.refresh();
        }
    }

    /// Sends a non-maskable interrupt to every vCPU.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn nmi(&self) -> Result<(), hv::Error> {
        self.vcpus.nmi()
    }

    /// The state of every vCPU. The machine is paused.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn cpu_states(&self) -> Result<Vec<hv::CpuState>, hv::Error> {
        self.vcpus.save()
    }

    /// Bytes of RAM.
    pub fn ram_size(&self) -> u64 {
        self.ram.total()
    }

    /// Open consoles, to be kept when the machine goes.
    pub fn consoles(&self) -> &Consoles {
        &self.consoles
    }

    /// What building the devices found out.
    pub fn found(&self) -> &Found {
        &self.functions.found
    }

    /// The devices and what they occupy.
    pub fn device_tree(&self) -> BTreeMap<String, DeviceNode> {
        let node = |id: &&str| (id.to_string(), DeviceNode { id: id.to_string(), ..DeviceNode::default() });
        let mut tree = self.board.iter().map(node).collect();
        self.functions.describe(&mut tree);
        tree
    }

    /// What the machine counts, for threads that read it later.
    pub fn readings(&self) -> Readings {
        Readings { devices: self.functions.counters(), vcpus: self.vcpus.exits() }
    }
}

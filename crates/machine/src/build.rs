//! Plan to machine, one step after the other. A step that fails drops what came before it.

use std::sync::Arc;
use std::thread;

use boot::Loaded;
use config::{Plan, plan};
use device::{AddressSpaces, Doorbells, Events, NoDoorbells};
use hv::cpuid::{self, Leaf, Model};
use hv::{Hypervisor, Vcpu, Vm};
use memory::GuestRam;
use memory::layout::{self, DeviceArea};
use pci::{ConfigPorts, Segments, Windows};
use sandbox::{Profile, groups};

use crate::board::Board;
use crate::io::MachineIo;
use crate::nodes::{Given, Nodes};
use crate::ram::MappedRam;
use crate::tree::{StateError, Tree};
use crate::vcpus::Vcpus;
use crate::{BuildError, Consoles, Descriptors, DeviceError, Machine, board};

/// What a machine begins with.
pub enum Start<'a> {
    /// Fresh RAM, and the payload in it.
    Boot,
    /// A machine's state, and its RAM as it was then.
    Restore {
        /// The state.
        tree: &'a Tree,
        /// RAM with its contents.
        ram: GuestRam,
    },
}

/// Builds the machine that `plan` describes, its CPUs held. `descriptors` stay open for the next one.
///
/// # Errors
/// [`BuildError`] names the part that failed; nothing is left behind.
pub fn build(
    plan: &Plan,
    start: Start<'_>,
    hypervisor: &dyn Hypervisor,
    consoles: Consoles,
    descriptors: &Descriptors,
    events: &Events,
) -> Result<Machine, BuildError> {
    if !plan.unbuilt().is_empty() {
        return Err(BuildError::NotBuilt(plan.unbuilt().to_vec()));
    }
    let limit = hypervisor.max_vcpus();
    if plan.cpus.boot > limit {
        return Err(BuildError::TooManyVcpus { wanted: plan.cpus.boot, limit });
    }
    let build = |ram: &GuestRam| Parts::build(plan, hypervisor, consoles, descriptors, events, ram);
    match start {
        Start::Boot => {
            let ram = GuestRam::allocate(&plan.memory.zones)?;
            let (parts, loaded) = while_loading(&ram, &plan.payload, || build(&ram))?;
            parts.boot(plan, &ram, &loaded, events)
        }
        Start::Restore { tree, ram } => build(&ram)?.restore(plan, tree, events),
    }
}

/// The thread that reads kernel and initramfs.
pub(crate) static PAYLOAD_LOADER: Profile = Profile::new("payload-loader", &[groups::READ_FILES]);

/// Reads the payload while `build` builds devices: both take their time.
fn while_loading<T>(
    ram: &GuestRam,
    payload: &plan::Payload,
    build: impl FnOnce() -> Result<T, BuildError>,
) -> Result<(T, Loaded), BuildError> {
    thread::scope(|scope| {
        let load = || boot::load(ram, payload);
        let loading = sandbox::spawn_scoped(scope, &PAYLOAD_LOADER, "payload_loader", load)
            .map_err(BuildError::Threads)?;
        let built = build()?;
        let loaded = loading
            .join()
            .map_err(|_| BuildError::Threads(std::io::Error::other("the payload loader died")))?;
        Ok((built, loaded?))
    })
}

/// A machine whose CPUs have no threads yet and no state but that of power-on.
struct Parts {
    vm: Arc<dyn Vm>,
    ram: MappedRam,
    area: DeviceArea,
    vcpus: Vec<Box<dyn Vcpu>>,
    board: Board,
    nodes: Nodes,
    spaces: Arc<AddressSpaces>,
    ports: Arc<ConfigPorts>,
    consoles: Consoles,
}

impl Parts {
    fn build(
        plan: &Plan,
        hypervisor: &dyn Hypervisor,
        consoles: Consoles,
        descriptors: &Descriptors,
        events: &Events,
        ram: &GuestRam,
    ) -> Result<Self, BuildError> {
        let supported = hypervisor.supported_cpuid()?;
        let phys_bits = cpuid::phys_bits(&supported).min(plan.cpus.max_phys_bits);
        let largest = plan.memory.largest();
        let area = layout::device_area(layout::end(largest).max(ram.end()), phys_bits)
            .ok_or(BuildError::AddressSpace { ram: largest, phys_bits })?;
        let vm = hypervisor.create_vm()?;
        let mapped = MappedRam::new(vm.clone(), ram.clone())?;
        let vcpus = create_vcpus(&plan.cpus, vm.as_ref(), &supported, phys_bits)?;
        let doorbells = vm.doorbells().unwrap_or_else(|| Arc::new(NoDoorbells) as Arc<dyn Doorbells>);
        let spaces = Arc::new(AddressSpaces::new(doorbells));
        let ports = Arc::new(ConfigPorts::default());
        let mut nodes = Nodes::new(spaces.clone(), segments(&area), vm.irqchip(), ram.dma(), events.clone());
        let fixed =
            board::Fixed { irqchip: vm.irqchip(), ram: ram.total(), ged: ged_address(&area), ports: &ports };
        let board = board::attach(&mut nodes, fixed, consoles.serial.clone())?;
        attach_devices(&mut nodes, plan, &consoles, descriptors)?;
        Ok(Self { vm, ram: mapped, area, vcpus, board, nodes, spaces, ports, consoles })
    }

    /// Writes what firmware would leave behind and lets the first CPU begin at the payload's entry.
    fn boot(
        mut self,
        plan: &Plan,
        ram: &GuestRam,
        loaded: &Loaded,
        events: &Events,
    ) -> Result<Machine, BuildError> {
        boot::acpi::write(ram, &self.tables(plan)).map_err(unwritable)?;
        boot::smbios::write(ram, &plan.smbios)?;
        if let Some(first) = self.vcpus.first_mut() {
            let (registers, system) =
                boot::enter(ram, loaded, &first.system_registers()?).map_err(unwritable)?;
            first.set_boot_registers(&registers, &system)?;
        }
        self.finish(plan, events)
    }

    /// Puts a saved state into everything.
    fn restore(mut self, plan: &Plan, tree: &Tree, events: &Events) -> Result<Machine, BuildError> {
        let (expected, found) = (self.vcpus.len(), tree.vcpus.len());
        if expected != found {
            return Err(StateError::Vcpus { expected, found }.into());
        }
        for (vcpu, state) in self.vcpus.iter_mut().zip(&tree.vcpus) {
            vcpu.set_state(state)?;
        }
        // After the CPUs' local APICs: a device may send at once what was on its way.
        self.nodes.restore(&tree.nodes)?;
        // After the CPUs' time stamp counters, which the clock is computed from.
        if let (Some(clock), Some(reading)) = (self.vm.clock(), tree.clock) {
            clock.set(reading)?;
        }
        let mut machine = self.finish(plan, events)?;
        machine.paused = true;
        Ok(machine)
    }

    /// Puts the CPUs on their threads.
    fn finish(self, plan: &Plan, events: &Events) -> Result<Machine, BuildError> {
        let io = Arc::new(MachineIo {
            spaces: self.spaces,
            config_ports: self.ports,
            pins: self.board.pins,
            events: events.clone(),
        });
        let mut vcpus = Vcpus::new(io, events.clone());
        for (number, vcpu) in (0u32..).zip(self.vcpus) {
            let hosts = plan.cpus.affinity.iter().find(|(vcpu, _)| *vcpu == number);
            vcpus.add(vcpu, hosts.map(|(_, hosts)| hosts.as_slice())).map_err(BuildError::Threads)?;
        }
        Ok(Machine {
            vcpus,
            nodes: self.nodes,
            notifier: self.board.notifier,
            consoles: self.consoles,
            paused: false,
            vm: self.vm,
            ram: self.ram,
        })
    }

    fn tables(&self, plan: &Plan) -> boot::acpi::Tables {
        let topology = plan.cpus.topology;
        let cpu = |vcpu| boot::acpi::Cpu { apic_id: topology.apic_id(vcpu), enabled: vcpu < plan.cpus.boot };
        boot::acpi::Tables {
            cpus: (0..plan.cpus.max).map(cpu).collect(),
            segments: vec![boot::acpi::PciSegment {
                number: 0,
                window32: layout::HOLE as u32..=(layout::HOLE + layout::PCI32_SIZE - 1) as u32,
                window64: self.area.pci64_start..=self.area.pci64_end,
            }],
            devices: self.nodes.aml(),
        }
    }
}

/// Builds the plan's devices one by one. Slots that users chose, or that devices had before, are promised first.
fn attach_devices(
    nodes: &mut Nodes,
    plan: &Plan,
    consoles: &Consoles,
    descriptors: &Descriptors,
) -> Result<(), DeviceError> {
    plan.devices.iter().try_for_each(|device| nodes.promise(&device.id, &device.place))?;
    for device in &plan.devices {
        let descriptors = descriptors.get(&device.id).map_or(&[][..], Vec::as_slice);
        nodes.attach(device, Given { descriptors, stream: consoles.console.as_ref() })?;
    }
    Ok(())
}

/// The machine's one segment: its 32-bit window lies below the ECAM, its 64-bit one after RAM.
fn segments(area: &DeviceArea) -> Segments {
    let windows = Windows {
        memory32: (layout::HOLE, layout::HOLE + layout::PCI32_SIZE - 1),
        memory64: (area.pci64_start, area.pci64_end),
    };
    Segments::new(windows, [])
}

fn unwritable(error: impl std::error::Error + Send + Sync + 'static) -> BuildError {
    BuildError::Tables(Box::new(error))
}

/// The generic event device's register: on the last page of the platform area.
fn ged_address(area: &DeviceArea) -> u64 {
    const PAGE: u64 = 4096;
    area.platform + layout::PLATFORM_SIZE - PAGE
}

fn create_vcpus(
    cpus: &plan::Cpus,
    vm: &dyn Vm,
    supported: &[Leaf],
    phys_bits: u8,
) -> Result<Vec<Box<dyn Vcpu>>, BuildError> {
    let topology = cpus.topology;
    let model = Model { topology, phys_bits, nested: cpus.nested, tsc_khz: None };
    let leaves = cpuid::build(supported, &model);
    let create = |number| {
        let apic_id = topology.apic_id(number);
        let mut own = leaves.clone();
        cpuid::personalise(&mut own, topology, apic_id);
        let mut vcpu = vm.create_vcpu(apic_id, &own)?;
        vcpu.set_msrs(&boot::boot_msrs())?;
        Ok(vcpu)
    };
    (0..cpus.boot).map(create).collect()
}

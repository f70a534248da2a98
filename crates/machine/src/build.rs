//! Plan to machine, one step after the other. A step that fails drops what came before it.

use std::sync::Arc;
use std::thread;

use boot::Loaded;
use boot::acpi::AcpiError;
use chipset::acpi::{Cause, GenerationId};
use config::{Plan, plan};
use device::{AddressSpaces, Doorbells, Events, NoDoorbells};
use hv::{Hypervisor, Vcpu, Vm, cpuid};
use memory::layout::{self, DeviceArea};
use memory::{Bytes, GuestAddress, GuestRam};
use pci::{ConfigPorts, Segments, Windows};
use sandbox::{Profile, groups};

use crate::board::Board;
use crate::cpus::CpuMaker;
use crate::growth::Growth;
use crate::io::MachineIo;
use crate::nodes::{Given, Nodes};
use crate::own_memory::MemoryPlaces;
use crate::ram::MappedRam;
use crate::tree::Tree;
use crate::vcpus::Vcpus;
use crate::{BuildError, Consoles, Descriptors, DeviceError, Machine, board, numa};

/// What a machine begins with.
pub enum Start<'a> {
    /// Fresh RAM, and the payload in it.
    Boot {
        /// The generation of the machine before, if this is its reboot; else a new one begins.
        generation: Option<GenerationId>,
    },
    /// A machine's state, and its RAM as it was then.
    Restore {
        /// The state.
        tree: &'a Tree,
        /// RAM with its contents.
        ram: GuestRam,
        /// Whether others may go on from the same state.
        generation: Generation,
    },
}

/// Which generation of the VM a restored machine is (the head of `chipset`'s module `acpi::generation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// Another one than the saved: what was saved may have gone on already, or may once more. The guest is told.
    New,
    /// The saved one: the machine moved, and goes on here only. The guest notices nothing.
    Same,
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
    if plan.cpus.max > limit {
        return Err(BuildError::TooManyVcpus { wanted: plan.cpus.max, limit });
    }
    let host = Host { hypervisor, consoles, descriptors, events };
    match start {
        Start::Boot { generation } => {
            let generation = generation.map_or_else(random, Ok)?;
            let ram = GuestRam::allocate(&plan.memory.zones)?;
            let memory = Memory { ram: &ram, at_boot: plan.memory.total(), places: &MemoryPlaces::new() };
            let (parts, loaded) = while_loading(&ram, &plan.payload, || {
                Parts::build(plan, host, &memory, generation, plan.cpus.boot, None)
            })?;
            parts.boot(plan, &ram, &loaded, events)
        }
        Start::Restore { tree, ram, generation } => {
            let vcpus = tree.vcpu_slots(plan.cpus.max)?;
            let memory = Memory { ram: &ram, at_boot: tree.boot_ram, places: &tree.memory };
            // Which one it is comes out of the state, or after it.
            let parts = Parts::build(plan, host, &memory, random()?, vcpus, Some(tree))?;
            parts.restore(tree, generation, events)
        }
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

/// What a machine is built from, besides its plan.
struct Host<'a> {
    hypervisor: &'a dyn Hypervisor,
    consoles: Consoles,
    descriptors: &'a Descriptors,
    events: &'a Events,
}

/// What the guest finds in its address space besides registers.
struct Memory<'a> {
    ram: &'a GuestRam,
    /// Bytes of RAM when the guest was booted.
    at_boot: u64,
    /// Where devices had memory of their own before.
    places: &'a MemoryPlaces,
}

/// A machine whose CPUs have no threads yet and no state but that of power-on.
struct Parts {
    vm: Arc<dyn Vm>,
    ram: MappedRam,
    growth: Growth,
    windows: Vec<Windows>,
    maker: CpuMaker,
    vcpus: Vec<Box<dyn Vcpu>>,
    board: Board,
    nodes: Nodes,
    spaces: Arc<AddressSpaces>,
    ports: Arc<ConfigPorts>,
    consoles: Consoles,
}

impl Parts {
    /// With the first `vcpus` vCPUs, which are those of `saved`, if that is to be restored.
    fn build(
        plan: &Plan,
        host: Host<'_>,
        memory: &Memory<'_>,
        generation: GenerationId,
        vcpus: u32,
        saved: Option<&Tree>,
    ) -> Result<Self, BuildError> {
        let Host { hypervisor, consoles, descriptors, events } = host;
        let Memory { ram, at_boot, places } = *memory;
        let supported = hypervisor.supported_cpuid()?;
        // Windows and platform registers lie where the guest's addresses end, and it remembers where that was.
        let phys_bits = match saved {
            Some(saved) => cpuid::phys_bits(&saved.cpuid),
            None => cpuid::phys_bits(&supported).min(plan.cpus.max_phys_bits),
        };
        let addresses = Addresses::lay_out(plan, at_boot, ram.end(), phys_bits)?;
        let Addresses { later, area, windows } = addresses;
        let vm = hypervisor.create_vm()?;
        let mapped = MappedRam::new(vm.clone(), ram.clone())?;
        let mut maker = CpuMaker::new(vm.clone(), &plan.cpus, &supported, phys_bits);
        if let Some(saved) = saved {
            saved.check_cpuid(maker.leaves())?;
            maker.show(&saved.cpuid);
        }
        let vcpus = (0..vcpus).map(|number| maker.make(number)).collect::<Result<_, _>>()?;
        let doorbells = vm.doorbells().unwrap_or_else(|| Arc::new(NoDoorbells) as Arc<dyn Doorbells>);
        let spaces = Arc::new(AddressSpaces::new(doorbells));
        let ports = Arc::new(ConfigPorts::default());
        let segments = Segments::new(windows.iter().copied());
        let mut nodes = Nodes::new(spaces.clone(), segments, vm.clone(), ram.dma(), events.clone());
        let fixed = board::Fixed {
            irqchip: vm.irqchip(),
            ram: at_boot,
            memory_window: later,
            cpus: &plan.cpus,
            cpu_nodes: numa::nodes_of_cpus(plan),
            generation,
            segments: windows.len(),
            area: &area,
            ports: &ports,
        };
        let board = board::attach(&mut nodes, fixed, consoles.serial.clone())?;
        nodes.promise_memory(plan, places)?;
        attach_devices(&mut nodes, plan, &consoles, descriptors)?;
        let growth = Growth { boot_ram: at_boot, later, phys_bits, slots: board.memory_slots.clone() };
        Ok(Self { vm, ram: mapped, growth, windows, maker, vcpus, board, nodes, spaces, ports, consoles })
    }

    /// Writes what firmware would leave behind and lets the first CPU begin at the payload's entry.
    fn boot(
        mut self,
        plan: &Plan,
        ram: &GuestRam,
        loaded: &Loaded,
        events: &Events,
    ) -> Result<Machine, BuildError> {
        boot::acpi::write(ram, &self.tables(plan)).map_err(|e| match e {
            AcpiError::TooLarge(_) => BuildError::Crowded { vcpus: plan.cpus.max, source: e },
            AcpiError::Window(_) | AcpiError::Ram(_) => unwritable(e),
        })?;
        boot::smbios::write(ram, &plan.smbios)?;
        self.write_generation()?;
        if let Some(first) = self.vcpus.first_mut() {
            // Ids grow with the numbers.
            let last_apic_id = plan.cpus.topology.apic_id(plan.cpus.max - 1);
            let fresh = first.system_registers()?;
            let (registers, system) = boot::enter(ram, loaded, &fresh, last_apic_id).map_err(unwritable)?;
            first.set_boot_registers(&registers, &system)?;
        }
        self.finish(events)
    }

    /// Tells the guest in RAM which generation it is.
    fn write_generation(&self) -> Result<(), BuildError> {
        let (id, at) = (self.board.generation.id(), GuestAddress(self.board.generation.address()));
        self.ram.guest().map().write_slice(id.bytes(), at).map_err(unwritable)
    }

    /// Puts a saved state into everything.
    fn restore(
        mut self,
        tree: &Tree,
        generation: Generation,
        events: &Events,
    ) -> Result<Machine, BuildError> {
        // Before the CPUs: with their registers, KVM writes into RAM when the guest was booted, as this clock has it.
        if let (Some(clock), Some(reading)) = (self.vm.clock(), tree.clock) {
            clock.set(reading)?;
        }
        for (vcpu, number) in self.vcpus.iter_mut().zip(0u32..) {
            if let Some(state) = tree.vcpus.get(&number) {
                vcpu.set_state(state)?;
            }
        }
        // After the CPUs' local APICs: a device may send at once what was on its way.
        self.nodes.restore(&tree.nodes)?;
        tree.check_vcpus(&self.board.cpu_slots)?;
        self.growth.check_ram(&self.ram)?;
        if generation == Generation::New {
            self.board.generation.set(random()?);
            self.write_generation()?;
            self.board.notifier.notify(Cause::Generation);
        }
        let mut machine = self.finish(events)?;
        machine.paused = true;
        Ok(machine)
    }

    /// Puts the CPUs on their threads.
    fn finish(self, events: &Events) -> Result<Machine, BuildError> {
        let io = Arc::new(MachineIo {
            spaces: self.spaces,
            config_ports: self.ports,
            pins: self.board.pins,
            events: events.clone(),
        });
        let mut vcpus = Vcpus::new(io, events.clone(), self.maker.core_scheduling());
        for (number, vcpu) in (0u32..).zip(self.vcpus) {
            vcpus.add(vcpu, self.maker.hosts(number)).map_err(BuildError::Threads)?;
        }
        vcpus.park_unless(|number| self.board.cpu_slots.is_present(number));
        Ok(Machine {
            pci_slots: self.board.pci_slots,
            vcpus,
            cpu_slots: self.board.cpu_slots,
            maker: self.maker,
            nodes: self.nodes,
            notifier: self.board.notifier,
            consoles: self.consoles,
            paused: false,
            vm: self.vm,
            ram: self.ram,
            growth: self.growth,
            generation: self.board.generation,
        })
    }

    fn tables(&self, plan: &Plan) -> boot::acpi::Tables {
        let topology = plan.cpus.topology;
        let cpu = |vcpu| boot::acpi::Cpu { apic_id: topology.apic_id(vcpu), enabled: vcpu < plan.cpus.boot };
        boot::acpi::Tables {
            cpus: (0..plan.cpus.max).map(cpu).collect(),
            segments: (0u8..).zip(&self.windows).map(|(number, own)| described(plan, number, own)).collect(),
            nodes: numa::nodes(plan, self.growth.later, self.ram.guest(), &self.nodes),
            pm1_ports: plan.cpus.kvm_hyperv && plan.cpus.nested,
            devices: self.nodes.aml(),
        }
    }
}

/// A segment as the guest's firmware tables have it.
fn described(plan: &Plan, number: u8, windows: &Windows) -> boot::acpi::PciSegment {
    let node = numa::node_of_segment(plan, number.into());
    let Windows { memory32, memory64 } = *windows;
    let window32 = memory32.0 as u32..=memory32.1 as u32;
    boot::acpi::PciSegment { number, node, window32, window64: memory64.0..=memory64.1 }
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
    nodes.forget_promises();
    Ok(())
}

/// What lies where beyond RAM.
pub(crate) struct Addresses {
    /// RAM that comes later through ACPI.
    later: layout::Range,
    /// What is not RAM.
    area: DeviceArea,
    /// Each PCI segment's windows.
    windows: Vec<Windows>,
}

impl Addresses {
    /// Beyond `boot_ram` bytes of RAM, and behind all that there is before `end`, for a guest that sees `phys_bits` of addresses.
    pub(crate) fn lay_out(plan: &Plan, boot_ram: u64, end: u64, phys_bits: u8) -> Result<Self, BuildError> {
        let largest = plan.memory.largest();
        let later = layout::rooms(layout::end(boot_ram), [(plan.memory.more, 0)]);
        let later = later.first().copied().unwrap_or_default();
        let end = layout::end(largest).max(later.0.saturating_add(later.1)).max(end);
        let area = layout::device_area(end, phys_bits);
        let area = area.ok_or(BuildError::AddressSpace { ram: largest, phys_bits })?;
        let windows = windows(&area, &plan.pci_segments)?;
        Ok(Self { later, area, windows })
    }
}

/// Each segment's part of the 32-bit window, which lies below the ECAM, and of the 64-bit one, after RAM.
fn windows(area: &DeviceArea, segments: &[plan::Segment]) -> Result<Vec<Windows>, BuildError> {
    let whole = Windows {
        memory32: (layout::HOLE, layout::HOLE + layout::PCI32_SIZE - 1),
        memory64: (area.pci64_start, area.pci64_end),
    };
    let weights: Vec<_> = segments.iter().map(|segment| (segment.memory32, segment.memory64)).collect();
    let windows = whole.split(&weights);
    let is_empty = |(first, last): (u64, u64)| first > last;
    match windows.iter().position(|part| is_empty(part.memory32) || is_empty(part.memory64)) {
        Some(segment) => Err(BuildError::Segments { segment, count: windows.len() }),
        None => Ok(windows),
    }
}

fn random() -> Result<GenerationId, BuildError> {
    GenerationId::random().map_err(BuildError::Random)
}

fn unwritable(error: impl std::error::Error + Send + Sync + 'static) -> BuildError {
    BuildError::Tables(Box::new(error))
}

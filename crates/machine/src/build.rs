//! Plan to machine, one step after the other. A step that fails drops what came before it.

use std::sync::Arc;
use std::thread;

use boot::{Loaded, Payload};
use config::{Plan, plan};
use device::{AddressSpaces, Doorbells, Events, NoDoorbells};
use hv::cpuid::{self, Leaf, Model};
use hv::{Hypervisor, Mapping, MappingKind, Vcpu, VcpuIo, Vm};
use memory::layout::{self, DeviceArea};
use memory::{Backing, GuestRam, Pages, Zone};
use pci::ConfigPorts;
use sandbox::Kind;

use crate::catalogue::{self, CATALOGUE, Order};
use crate::functions::{self, Functions, Surroundings};
use crate::io::MachineIo;
use crate::vcpus::Vcpus;
use crate::{BuildError, Consoles, Descriptors, Machine, board};

/// Builds the machine that `plan` describes, its CPUs held at the payload's entry. `descriptors` stay open for the next one.
///
/// # Errors
/// [`BuildError`] names the part that failed; nothing is left behind.
pub fn build(
    plan: &Plan,
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
    let ram = GuestRam::allocate(&plan.memory.zones.iter().map(zone).collect::<Vec<_>>())?;
    thread::scope(|scope| {
        // The payload is read while devices are built: both take their time.
        let load = || load(&ram, &plan.payload);
        let loading = sandbox::spawn_scoped(scope, Kind::PayloadLoader, "payload_loader", load)
            .map_err(BuildError::Threads)?;
        let parts = assemble(plan, hypervisor, consoles, descriptors, events, &ram)?;
        let loaded = loading
            .join()
            .map_err(|_| BuildError::Threads(std::io::Error::other("the payload loader died")))?;
        parts.finish(plan, &loaded?, events)
    })
}

/// A machine without its firmware tables and its CPUs' threads.
struct Parts {
    ram: GuestRam,
    vm: Arc<dyn Vm>,
    area: DeviceArea,
    vcpus: Vec<Box<dyn Vcpu>>,
    board: board::Board,
    functions: Functions,
    spaces: Arc<AddressSpaces>,
    consoles: Consoles,
}

fn assemble(
    plan: &Plan,
    hypervisor: &dyn Hypervisor,
    consoles: Consoles,
    descriptors: &Descriptors,
    events: &Events,
    ram: &GuestRam,
) -> Result<Parts, BuildError> {
    let supported = hypervisor.supported_cpuid()?;
    let phys_bits = cpuid::phys_bits(&supported).min(plan.cpus.max_phys_bits);
    let area = layout::device_area(ram.total(), phys_bits)
        .ok_or(BuildError::AddressSpace { ram: ram.total(), phys_bits })?;
    let vm = hypervisor.create_vm()?;
    for (start, memory) in ram.host_memory() {
        vm.map(Mapping { guest: start.0, memory, kind: MappingKind::Ram })?;
    }
    let vcpus = create_vcpus(&plan.cpus, vm.as_ref(), &supported, phys_bits)?;
    let doorbells = vm.doorbells().unwrap_or_else(|| Arc::new(NoDoorbells) as Arc<dyn Doorbells>);
    let spaces = Arc::new(AddressSpaces::new(doorbells));
    let irqchip = vm.irqchip();
    let board =
        board::attach(&spaces, irqchip.clone(), consoles.serial.clone(), ram.total(), ged_address(&area))?;
    let around = Surroundings {
        spaces: spaces.clone(),
        irqchip,
        segments: functions::segments(&area),
        ram: ram.clone(),
        events: events.clone(),
    };
    let mut functions = Functions::new(around, catalogue::places(plan))?;
    let order = Order { plan, descriptors, console: consoles.console.clone() };
    for (_, attach) in CATALOGUE {
        attach(&mut functions, &order)?;
    }
    Ok(Parts { ram: ram.clone(), vm, area, vcpus, board, functions, spaces, consoles })
}

impl Parts {
    /// Writes what firmware would leave behind and puts the CPUs on their threads.
    fn finish(mut self, plan: &Plan, loaded: &Loaded, events: &Events) -> Result<Machine, BuildError> {
        self.write_tables(plan)?;
        if let Some(first) = self.vcpus.first_mut() {
            let (registers, system) =
                boot::enter(&self.ram, loaded, &first.system_registers()?).map_err(unwritable)?;
            first.set_boot_registers(&registers, &system)?;
        }
        let io: Arc<dyn VcpuIo + Send + Sync> = Arc::new(MachineIo {
            spaces: self.spaces,
            config_ports: ConfigPorts::default(),
            pins: self.board.pins,
            events: events.clone(),
        });
        let mut vcpus = Vcpus::new(io, events.clone());
        for (number, vcpu) in (0u32..).zip(self.vcpus) {
            let hosts = plan.cpus.affinity.iter().find(|(vcpu, _)| *vcpu == number);
            vcpus.add(vcpu, hosts.map(|(_, hosts)| hosts.as_slice())).map_err(BuildError::Threads)?;
        }
        let serial = self.consoles.serial.as_ref().map(|_| "__serial");
        Ok(Machine {
            vcpus,
            functions: self.functions,
            board: std::iter::once("__ioapic").chain(serial).collect(),
            notifier: self.board.notifier,
            consoles: self.consoles,
            _vm: self.vm,
            paused: false,
            ram: self.ram,
        })
    }

    fn write_tables(&self, plan: &Plan) -> Result<(), BuildError> {
        let topology = topology(&plan.cpus);
        let cpu = |vcpu| boot::acpi::Cpu { apic_id: topology.apic_id(vcpu), enabled: true };
        let tables = boot::acpi::Tables {
            cpus: (0..plan.cpus.boot).map(cpu).collect(),
            segments: vec![boot::acpi::PciSegment {
                number: 0,
                window32: layout::HOLE as u32..=(layout::HOLE + layout::PCI32_SIZE - 1) as u32,
                window64: self.area.pci64_start..=self.area.pci64_end,
            }],
            serial: self.consoles.serial.is_some(),
            ged: ged_address(&self.area),
        };
        boot::acpi::write(&self.ram, &tables).map_err(unwritable)?;
        Ok(boot::smbios::write(&self.ram, &identity(&plan.smbios))?)
    }
}

fn unwritable(error: impl std::error::Error + Send + Sync + 'static) -> BuildError {
    BuildError::Tables(Box::new(error))
}

/// The generic event device's register: on the last page of the platform area.
fn ged_address(area: &DeviceArea) -> u64 {
    const PAGE: u64 = 4096;
    area.platform + layout::PLATFORM_SIZE - PAGE
}

fn zone(zone: &plan::Zone) -> Zone {
    let backing = match (&zone.file, zone.shared) {
        (Some(path), shared) => Backing::File { path: path.clone(), shared },
        (None, true) => Backing::Shared,
        (None, false) => Backing::Anonymous,
    };
    let pages = match zone.pages {
        plan::Pages::Normal { thp } => Pages::Normal { transparent_huge: thp },
        plan::Pages::Huge { size } => Pages::Huge { size },
    };
    let &plan::Zone { size, mergeable, prefault, reserve, .. } = zone;
    Zone { id: zone.id.clone(), size, backing, pages, mergeable, prefault, reserve }
}

fn topology(cpus: &plan::Cpus) -> cpuid::Topology {
    let plan::Topology { threads_per_core, cores_per_die, dies_per_package, packages } = cpus.topology;
    cpuid::Topology { threads_per_core, cores_per_die, dies_per_package, packages }
}

fn create_vcpus(
    cpus: &plan::Cpus,
    vm: &dyn Vm,
    supported: &[Leaf],
    phys_bits: u8,
) -> Result<Vec<Box<dyn Vcpu>>, BuildError> {
    let topology = topology(cpus);
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

fn load(ram: &GuestRam, payload: &plan::Payload) -> Result<Loaded, boot::LoadError> {
    let payload = match payload {
        plan::Payload::Kernel { kernel, cmdline, initramfs } => Payload {
            kernel,
            cmdline: cmdline.as_deref().unwrap_or_default(),
            initramfs: initramfs.as_deref(),
        },
        plan::Payload::Firmware { firmware } => Payload { kernel: firmware, cmdline: "", initramfs: None },
    };
    boot::load(ram, &payload)
}

fn identity(plan: &plan::Smbios) -> boot::smbios::Identity {
    let plan = plan.clone();
    boot::smbios::Identity {
        manufacturer: plan.manufacturer,
        product: plan.product_name,
        version: plan.version,
        serial: plan.serial_number,
        uuid: plan.uuid,
        family: plan.family,
        sku: plan.sku_number,
        chassis_asset_tag: plan.chassis_asset_tag,
        oem_strings: plan.oem_strings,
    }
}

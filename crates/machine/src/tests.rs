//! A machine on a fake hypervisor: everything but the running of a CPU is real.

use std::io::Write;
use std::sync::Arc;

use config::{Plan, VmConfig};
use device::{Events, NoSink};
use hv::fake::FakeHypervisor;
use memory::{GuestAddress, GuestRam};
use virtio_devices::blk::Disk;

use super::*;

mod cpus;
mod debug;
mod generation;
mod golden;
mod growth;

/// A kernel in a file.
fn kernel() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&boot::fake::kernel()).unwrap();
    file
}

pub(crate) struct Rig {
    hypervisor: FakeHypervisor,
    events: Events,
    kernel: tempfile::NamedTempFile,
    image: tempfile::NamedTempFile,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(1 << 20).unwrap();
        let events = Events::new(Arc::new(NoSink)).unwrap();
        Self { hypervisor: FakeHypervisor::default(), events, kernel: kernel(), image }
    }

    /// A plan with a disk on the image, a watchdog and pvpanic, and more.
    pub(crate) fn plan(&self, more: &str) -> Plan {
        let text = format!(
            r#"{{"payload":{{"kernel":{:?}}},"memory":{{"size":134217728}},"console":{{"mode":"Null"}},
            "serial":{{"mode":"Null"}},"watchdog":true,"pvpanic":true,
            "disks":[{{"path":{:?},"image_type":"Raw","id":"d"}}]{more}}}"#,
            self.kernel.path(),
            self.image.path()
        );
        config::check(VmConfig::from_json(text.as_bytes()).unwrap().0).unwrap()
    }

    fn build(&self, plan: &Plan, start: Start<'_>) -> Result<Machine, BuildError> {
        let consoles = Consoles::open(plan).unwrap();
        build(plan, start, &self.hypervisor, consoles, &Descriptors::new(), &self.events)
    }

    pub(crate) fn boot(&self, plan: &Plan) -> Machine {
        self.build(plan, Start::Boot { generation: None }).unwrap()
    }
}

/// Where a machine's PCI devices sit.
fn slots(machine: &Machine) -> Vec<(String, u8)> {
    machine.slots().map(|(id, slot)| (id.to_owned(), slot)).collect()
}

fn slot(id: &str, slot: u8) -> (String, u8) {
    (id.to_owned(), slot)
}

#[test]
fn devices_get_slots_in_order_and_keep_them_when_the_machine_is_built_again() {
    let rig = Rig::new();
    let mut plan = rig.plan("");
    let machine = rig.boot(&plan);
    let first = slots(&machine);
    let expected =
        [slot("__console", 1), slot("d", 2), slot("__rng", 3), slot("__watchdog", 4), slot("__pvpanic", 5)];
    assert_eq!(first, expected);
    machine.slots().for_each(|(id, slot)| plan.settle(id, slot));
    drop(machine);
    // A disk that comes before the others in the configuration does not push them from their slots.
    let second = tempfile::NamedTempFile::new().unwrap();
    second.as_file().set_len(1 << 20).unwrap();
    let disk = format!(r#"{{"path":{:?},"image_type":"Raw","id":"e"}}"#, second.path());
    let extra = config::Extra::Disk(config::from_json(disk.as_bytes()).unwrap().0);
    let (more, _) = plan.check_more(extra).unwrap();
    let machine = rig.boot(&more);
    assert!(expected.iter().all(|device| slots(&machine).contains(device)), "{:?}", slots(&machine));
    assert!(slots(&machine).contains(&slot("e", 6)));
}

/// Lets the event device's pin interrupt at `vector`: not masked, edge-triggered.
fn unmask_event_device(machine: &Machine, vector: u32) {
    let ioapic = |register: u64, value: u32| {
        let at = memory::layout::IOAPIC + register;
        let _ = machine.nodes.spaces().write(device::Space::Mmio, at, &value.to_le_bytes());
    };
    ioapic(0, 0x10 + 2 * u32::from(chipset::acpi::Ged::PIN));
    ioapic(0x10, vector);
}

/// Takes a device away as if the guest had let go of it.
fn detach(machine: &mut Machine, id: &str) -> bool {
    machine.nodes.address(id).and_then(|address| machine.nodes.detach_at(address)).is_some()
}

#[test]
fn a_device_that_is_detached_leaves_nothing_behind() {
    let rig = Rig::new();
    let plan = rig.plan("");
    let mut machine = rig.boot(&plan);
    machine.start();
    assert_eq!(machine.handles::<Arc<Disk>>().map(|(id, _)| id).collect::<Vec<_>>(), ["d"]);
    assert!(detach(&mut machine, "d"));
    assert!(!detach(&mut machine, "d"));
    assert!(machine.device_tree().keys().all(|id| !id.contains("d0") && id != "d"));
    assert_eq!(machine.handles::<Arc<Disk>>().count(), 0);
    // Slot and image are free: the same device can come back, to a machine that runs.
    let disk = plan.devices.iter().find(|device| device.id == "d").unwrap();
    assert_eq!(machine.add(disk, &[]).unwrap().bdf, "0000:00:02.0");
    assert!(matches!(machine.add(disk, &[]), Err(DeviceError::Exists { .. })), "it is there");
    machine.pause().unwrap();
    assert!(machine.save().unwrap().nodes.contains_key("d"));
}

/// A device that a vCPU does not leave.
struct Stuck(std::sync::mpsc::Receiver<()>);

impl device::Stateless for Stuck {
    const KIND: &'static str = "stuck";
}

impl device::Device for Stuck {
    fn regions(&self) -> Vec<device::Region> {
        vec![device::Region::new(device::Space::Pio, 0x100, 1, 0)]
    }

    fn read(&mut self, _: device::Access, _: &mut [u8]) {
        let _ = self.0.recv();
    }

    fn write(&mut self, _: device::Access, _: &[u8]) -> device::Effect {
        device::Effect::None
    }

    fn reset(&mut self) {}
}

#[test]
fn a_vcpu_stuck_in_a_device_holds_nobody_up() {
    let rig = Rig::new();
    let mut machine = rig.boot(&rig.plan(""));
    machine.nodes.set_patience(std::time::Duration::from_millis(1));
    let (go_on, wait) = std::sync::mpsc::channel();
    let slot: device::Slot = Arc::new(std::sync::Mutex::new(Stuck(wait)));
    machine.nodes.attach_board("__stuck", slot).unwrap();
    let spaces = machine.nodes.spaces().clone();
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| spaces.read(device::Space::Pio, 0x100, &mut [0]));
        while !machine.nodes.is_busy("__stuck") {
            std::thread::yield_now();
        }
        let error = machine.pause().unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("'__stuck'"), "{error}");
        assert!(!machine.is_paused());
        assert!(matches!(machine.save(), Err(StateError::Busy(id)) if id == "__stuck"));
        drop(machine);
        go_on.send(()).unwrap();
        inside.join().unwrap();
    });
}

#[test]
fn a_disk_gets_another_size_and_goes_on_as_it_was() {
    let rig = Rig::new();
    let mut machine = rig.boot(&rig.plan(""));
    let size = || rig.image.as_file().metadata().unwrap().len();
    machine.start();
    machine.resize_disk("d", 4 << 20).unwrap();
    assert_eq!(size(), 4 << 20);
    machine.pause().unwrap();
    machine.resize_disk("d", 512).unwrap();
    assert_eq!((size(), machine.is_paused()), (512, true));
    for id in ["e", "__console", ""] {
        let error = machine.resize_disk(id, 1024).unwrap_err();
        assert!(matches!(&error, ResizeDiskError::NoDisk(named) if named == id), "{error}");
    }
    assert!(matches!(machine.resize_disk("d", 1000), Err(ResizeDiskError::Image(_))));
    machine.resume();
    assert!(machine.resize_disk("d", u64::MAX - 511).is_err());
    assert_eq!(size(), 512);
}

#[test]
fn a_disk_that_does_not_hold_still_keeps_its_size() {
    let rig = Rig::new();
    let mut machine = rig.boot(&rig.plan(""));
    machine.nodes.set_patience(std::time::Duration::from_millis(1));
    let slot = machine.nodes.slot("d").unwrap().clone();
    let inside = slot.lock().unwrap();
    let error = machine.resize_disk("d", 4 << 20).unwrap_err();
    assert!(matches!(&error, ResizeDiskError::Late(late) if late.id == "d"), "{error}");
    assert_eq!(rig.image.as_file().metadata().unwrap().len(), 1 << 20);
    drop(inside);
    machine.resize_disk("d", 4 << 20).unwrap();
}

/// A device that notes what it is asked, and holds still or not.
struct Noting {
    asked: Arc<std::sync::Mutex<Vec<&'static str>>>,
    holds_still: bool,
}

impl Noting {
    fn note(&self, what: &'static str) {
        self.asked.lock().unwrap().push(what);
    }
}

impl device::Stateless for Noting {
    const KIND: &'static str = "noting";
}

impl device::Device for Noting {
    fn regions(&self) -> Vec<device::Region> {
        Vec::new()
    }

    fn read(&mut self, _: device::Access, _: &mut [u8]) {}

    fn write(&mut self, _: device::Access, _: &[u8]) -> device::Effect {
        device::Effect::None
    }

    fn reset(&mut self) {}

    fn pause(&mut self) {
        self.note("pause");
    }

    fn is_paused(&mut self, _: std::time::Instant) -> bool {
        self.note("is it paused?");
        self.holds_still
    }

    fn resume(&mut self) {
        self.note("resume");
    }
}

#[test]
fn what_is_done_to_a_device_is_done_while_it_holds_still() {
    let rig = Rig::new();
    let mut machine = rig.boot(&rig.plan(""));
    for (id, holds_still, resume, expected) in [
        ("__a", true, true, &["pause", "is it paused?", "done", "resume"][..]),
        ("__b", true, false, &["pause", "is it paused?", "done"]),
        ("__c", false, true, &["pause", "is it paused?", "resume"]),
    ] {
        let asked: Arc<std::sync::Mutex<Vec<_>>> = Arc::default();
        let noting = Noting { asked: asked.clone(), holds_still };
        machine.nodes.attach_board(id, Arc::new(std::sync::Mutex::new(noting))).unwrap();
        let done = machine.nodes.hold(id, resume, || asked.lock().unwrap().push("done"));
        assert_eq!((done.is_ok(), asked.lock().unwrap().as_slice()), (holds_still, expected));
    }
}

#[test]
fn a_failed_attach_leaves_nothing_behind() {
    let rig = Rig::new();
    let plan = rig.plan("");
    let machine = rig.boot(&plan);
    // The image is locked by the machine that has it.
    let error = rig.build(&plan, Start::Boot { generation: None }).err().unwrap();
    assert!(matches!(&error, BuildError::Device(DeviceError::Build { id, .. }) if id == "d"), "{error}");
    drop(machine);
    drop(rig.boot(&plan));
}

#[test]
fn a_state_goes_round_with_everything_in_it() {
    let rig = Rig::new();
    let plan = rig.plan("");
    let mut machine = rig.boot(&plan);
    machine.start();
    machine.pause().unwrap();
    let tree = machine.save().unwrap();
    for id in [
        "__cmos",
        "__config_ports",
        "__ged",
        "__generation",
        "__memory_hotplug",
        "__host_bridge",
        "__i8042",
        "__ioapic",
        "__pm_timer",
    ] {
        assert!(tree.nodes.contains_key(id), "{id}");
    }
    assert!(
        ["d", "__console", "__rng", "__watchdog", "__pvpanic"].iter().all(|id| tree.nodes.contains_key(*id))
    );
    drop(machine);
    // Through the form it has in a file.
    let tree: Tree = serde_json::from_str(&serde_json::to_string(&tree).unwrap()).unwrap();
    let (ram, _) = GuestRam::restore(&plan.memory.zones, &tree.ram, &memory::NoFiles).unwrap();
    let mut restored = rig
        .build(&plan, Start::Restore { tree: &tree, ram: ram.clone(), generation: Generation::Same })
        .unwrap();
    assert!(restored.is_paused());
    let mut again = restored.save().unwrap();
    // This clock goes on.
    again.nodes.insert("__pm_timer".into(), tree.nodes["__pm_timer"].clone());
    assert_eq!(again, tree);
    restored.resume();
    assert!(!restored.is_paused());
    drop(restored);
    let (mut lacking, mut strange, mut broken) = (tree.clone(), tree.clone(), tree.clone());
    lacking.nodes.remove("d");
    strange.nodes.insert("ghost".into(), tree.nodes["d"].clone());
    broken.nodes.insert("__cmos".into(), tree.nodes["d"].clone());
    let refuse = |tree: &Tree| {
        let refused =
            rig.build(&plan, Start::Restore { tree, ram: ram.clone(), generation: Generation::Same });
        refused.err().map(|error| std::error::Error::source(&error).unwrap().to_string()).unwrap()
    };
    assert!(refuse(&lacking).contains("'d'") && refuse(&strange).contains("'ghost'"));
    assert!(refuse(&broken).contains("'__cmos'"));
    let no_vcpu = Tree { vcpus: Default::default(), ..tree };
    assert!(refuse(&no_vcpu).contains("0 vCPUs"));
}

#[test]
fn ram_comes_and_goes_for_guest_and_devices_together() {
    const BASE: GuestAddress = GuestAddress(1 << 32);
    let rig = Rig::new();
    let mut machine = rig.boot(&rig.plan(""));
    let zone = config::plan::Zone::new("more", 64 << 20);
    machine.ram.plug(&zone, BASE).unwrap();
    assert_eq!((machine.ram_size(), rig.hypervisor.memory.mapped()), (192 << 20, vec![0, BASE.0]));
    rig.hypervisor.memory.refuse(true);
    machine.ram.unplug(BASE).unwrap_err();
    assert_eq!(machine.ram_size(), 192 << 20, "what the guest has still, devices have still");
    machine.ram.plug(&zone, GuestAddress(2 << 32)).unwrap_err();
    assert_eq!(machine.ram_size(), 192 << 20, "what the guest does not get, devices do not get");
    rig.hypervisor.memory.refuse(false);
    machine.ram.unplug(BASE).unwrap();
    assert!(matches!(machine.ram.unplug(BASE), Err(PlugError::NoRam(_))));
    assert_eq!((machine.ram_size(), rig.hypervisor.memory.mapped()), (128 << 20, vec![0]));
}

#[test]
fn what_the_guest_has_given_to_its_balloon_is_not_its_own() {
    let rig = Rig::new();
    let machine = rig.boot(&rig.plan(""));
    assert!(!machine.set_balloon(1 << 20));
    drop(machine);
    let machine = rig.boot(&rig.plan(r#","balloon":{"size":16777216}"#));
    let readings = machine.readings();
    assert_eq!(readings.ram_size(), 128 << 20, "it was asked for and is not given yet");
    let bar = match &machine.device_tree()["_virtio-pci-__balloon"].resources[..] {
        [api::Resource::PciBar(bar)] => bar.base,
        other => panic!("{other:?}"),
    };
    let register = |offset: u64| {
        let mut value = [0; 4];
        machine.nodes.spaces().read(device::Space::Mmio, bar + 0x4000 + offset, &mut value);
        u32::from_le_bytes(value)
    };
    let give = |pages: u32| {
        let _ = machine.nodes.spaces().write(device::Space::Mmio, bar + 0x4004, &pages.to_le_bytes());
    };
    assert_eq!(register(0), 4096);
    give(4096);
    assert_eq!((readings.ram_size(), machine.ram_size()), (112 << 20, 112 << 20));
    give(u32::MAX);
    assert_eq!(readings.ram_size(), 0, "no guest gives more than it has");
    assert!(machine.set_balloon(8 << 20));
    assert_eq!(register(0), 2048);
}

#[test]
fn memory_that_is_not_plugged_is_not_the_guest_s() {
    let rig = Rig::new();
    let memory = r#"{"size":134217728,"hotplug_method":"VirtioMem","hotplug_size":1073741824}"#;
    let mut config = rig.plan("").config().clone();
    config.memory = config::from_json(memory.as_bytes()).unwrap().0;
    let plan = config::check(config).unwrap();
    let machine = rig.boot(&plan);
    assert_eq!(machine.ram_size(), 128 << 20);
    assert_eq!(rig.hypervisor.memory.mapped(), [0, 1 << 32], "the room is there from the start");
    let bar = match &machine.device_tree()["_virtio-pci-mem0"].resources[..] {
        [api::Resource::PciBar(bar)] => bar.base,
        other => panic!("{other:?}"),
    };
    assert!(bar >= (1 << 32) + (1 << 30), "windows lie behind the room: {bar:#x}");
    let requested = || {
        let mut size = [0; 8];
        machine.nodes.spaces().read(device::Space::Mmio, bar + 0x4000 + 48, &mut size[..4]);
        u64::from_le_bytes(size)
    };
    let wanted = config::VmResize { desired_ram: Some(192 << 20), ..config::VmResize::default() };
    assert_eq!(requested(), 0);
    machine.request_ram(&plan.check_resized_running(&wanted).unwrap());
    assert_eq!(requested(), 64 << 20);
    assert_eq!(machine.ram_size(), 128 << 20, "it is for the guest to plug it");
}

#[test]
fn clients_see_what_devices_have_found_out() {
    let rig = Rig::new();
    let mut config = rig.plan("").config().clone();
    config.disks.as_mut().unwrap()[0].image_type = config::ImageType::Unknown;
    let machine = rig.boot(&config::check(config.clone()).unwrap());
    machine.amend(&mut config);
    assert_eq!(config.disks.unwrap()[0].image_type, config::ImageType::Raw);
}

#[test]
fn an_interrupt_that_a_restored_device_sends_arrives() {
    const VECTOR: u32 = 0x41;
    let rig = Rig::new();
    let plan = rig.plan("");
    let mut machine = rig.boot(&plan);
    machine.pause().unwrap();
    unmask_event_device(&machine, VECTOR);
    machine.press_power_button();
    let tree = machine.save().unwrap();
    drop(machine);
    let ram = memory::test_ram(&[(0, 128 << 20)]);
    let _restored =
        rig.build(&plan, Start::Restore { tree: &tree, ram, generation: Generation::Same }).unwrap();
    let waiting = rig.hypervisor.interrupts.lock().unwrap();
    assert!(waiting.iter().any(|msi| msi.data & 0xff == VECTOR), "{waiting:?}");
}

/// Memory that is not the plan's is what a restore brings.
#[test]
fn a_restored_machine_uses_the_ram_it_is_given() {
    let rig = Rig::new();
    let plan = rig.plan("");
    let mut machine = rig.boot(&plan);
    machine.pause().unwrap();
    let tree = machine.save().unwrap();
    drop(machine);
    let ram: GuestRam = memory::test_ram(&[(0, 64 << 20)]);
    let restored =
        rig.build(&plan, Start::Restore { tree: &tree, ram, generation: Generation::Same }).unwrap();
    assert_eq!(restored.ram_size(), 64 << 20);
}

mod own_memory;

//! The sections whose devices sit in PCI slots: the one list of them, and what the check does to all of them alike.
//!
//! A section's own file implements [`Section`]; a line in [`SHELVES`] puts it into its place.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::check::Scope;
use crate::pci::{PciCommon, Placed};
use crate::plan::{Device, DeviceKind, Grant, Place, Pvpanic, Watchdog};
use crate::vm::VmConfig;

/// A device's own part of its section.
pub(crate) trait Section {
    /// What the device is called.
    fn name(&self) -> Name;

    /// What is to be built; `None` if there is nothing to build, or nothing can build it yet.
    fn kind(&self) -> Option<DeviceKind> {
        None
    }

    /// The files it uses.
    fn grants(&self) -> Vec<Grant> {
        Vec::new()
    }

    /// The fields that hold paths at which something is opened or bound; those of UNIX sockets are called so.
    fn paths(&self) -> Vec<(&'static str, &Path)> {
        Vec::new()
    }

    /// The rules of a section that the reference does not have, with those of id and place ([`Scope::place`]). The rules of its sections
    /// stand in its order in `check/mod.rs`.
    fn check(&self, _pci: &PciCommon, _at: &mut Scope<'_, '_>) {}
}

/// How a device comes by its id (`spec/devices.md` §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    /// There is one such device, and its id is this.
    Fixed(&'static str),
    /// The user names it, or it gets this and a number.
    Prefix(&'static str),
}

/// Where one kind of section stands in the configuration.
enum Shelf {
    /// In a field of this name.
    Field {
        name: &'static str,
        read: fn(&VmConfig) -> &dyn Stock,
        change: fn(&mut VmConfig) -> &mut dyn Stock,
    },
    /// In a field that says only whether the device is there. It has no settings, not even a place.
    Switch { name: &'static str, is_on: fn(&VmConfig) -> bool, device: Switch },
    /// The devices that plug RAM stand here in the order of slots. Their settings are those of the memory.
    Memory,
}

macro_rules! field {
    ($name:ident) => {
        Shelf::Field { name: stringify!($name), read: |vm| &vm.$name, change: |vm| &mut vm.$name }
    };
}

/// All of them, in the order in which slots and numbers are given out (`spec/devices.md` §6).
const SHELVES: &[Shelf] = &[
    field!(console),
    field!(disks),
    field!(net),
    field!(rng),
    field!(generic_vhost_user),
    field!(fs),
    field!(pmem),
    field!(vsock),
    Shelf::Memory,
    field!(balloon),
    Shelf::Switch {
        name: "watchdog",
        is_on: |vm| vm.watchdog,
        device: Switch { id: "__watchdog", kind: DeviceKind::Watchdog(Watchdog) },
    },
    field!(vdpa),
    field!(rtc),
    field!(devices),
    field!(user_devices),
    Shelf::Switch {
        name: "pvpanic",
        is_on: |vm| vm.pvpanic,
        device: Switch { id: "__pvpanic", kind: DeviceKind::Pvpanic(Pvpanic) },
    },
    field!(ivshmem),
    #[cfg(feature = "test-devices")]
    field!(echo),
];

/// What a shelf holds: one device, one or none, or any number.
trait Stock {
    /// All of it.
    fn items(&self) -> Vec<(&PciCommon, &dyn Section)>;

    /// The same, for a change of place.
    fn items_mut(&mut self) -> Vec<(&mut PciCommon, &dyn Section)>;

    /// Takes the device `id` out; false if there is none, or it belongs to the machine for good.
    fn remove(&mut self, id: &str) -> bool;

    /// Whether clients write a list.
    fn is_list(&self) -> bool {
        false
    }
}

impl<T: Section> Stock for Placed<T> {
    fn items(&self) -> Vec<(&PciCommon, &dyn Section)> {
        vec![(&self.pci, &self.device)]
    }

    fn items_mut(&mut self) -> Vec<(&mut PciCommon, &dyn Section)> {
        vec![(&mut self.pci, &self.device)]
    }

    fn remove(&mut self, _: &str) -> bool {
        false
    }
}

impl<T: Section> Stock for Option<Placed<T>> {
    fn items(&self) -> Vec<(&PciCommon, &dyn Section)> {
        self.as_ref().map(Stock::items).unwrap_or_default()
    }

    fn items_mut(&mut self) -> Vec<(&mut PciCommon, &dyn Section)> {
        self.as_mut().map(Stock::items_mut).unwrap_or_default()
    }

    fn remove(&mut self, id: &str) -> bool {
        self.take_if(|placed| is_removable(placed, id)).is_some()
    }
}

impl<T: Section> Stock for Option<Vec<Placed<T>>> {
    fn items(&self) -> Vec<(&PciCommon, &dyn Section)> {
        self.iter().flatten().flat_map(Stock::items).collect()
    }

    fn items_mut(&mut self) -> Vec<(&mut PciCommon, &dyn Section)> {
        self.iter_mut().flatten().flat_map(Stock::items_mut).collect()
    }

    fn remove(&mut self, id: &str) -> bool {
        let Some(list) = self else { return false };
        let before = list.len();
        list.retain(|placed| !is_removable(placed, id));
        list.len() < before
    }

    fn is_list(&self) -> bool {
        true
    }
}

fn is_removable<T: Section>(placed: &Placed<T>, id: &str) -> bool {
    matches!(placed.device.name(), Name::Prefix(_)) && placed.pci.id.as_deref() == Some(id)
}

/// A device without settings.
struct Switch {
    id: &'static str,
    kind: DeviceKind,
}

impl Section for Switch {
    fn name(&self) -> Name {
        Name::Fixed(self.id)
    }

    fn kind(&self) -> Option<DeviceKind> {
        Some(self.kind.clone())
    }
}

/// The place of a device that the user cannot place.
static ANY_PLACE: PciCommon = PciCommon { id: None, iommu: false, pci_segment: 0, pci_device_id: None };

/// A device, and where clients have written it.
struct Item<'c> {
    section: &'static str,
    index: Option<usize>,
    pci: &'c PciCommon,
    device: &'c dyn Section,
}

impl Item<'_> {
    /// Its path in the configuration, such as `disks[1]`.
    fn path(&self) -> String {
        let Self { section, index, .. } = self;
        index.map_or_else(|| (*section).to_owned(), |index| format!("{section}[{index}]"))
    }
}

fn items(vm: &VmConfig) -> impl Iterator<Item = Item<'_>> {
    SHELVES.iter().flat_map(|shelf| items_of(shelf, vm))
}

fn items_of<'c>(shelf: &'static Shelf, vm: &'c VmConfig) -> Vec<Item<'c>> {
    match shelf {
        Shelf::Field { name, read, .. } => {
            let stock = read(vm);
            let items = stock.items().into_iter().enumerate().map(|(i, (pci, device))| Item {
                section: name,
                index: stock.is_list().then_some(i),
                pci,
                device,
            });
            items.collect::<Vec<_>>()
        }
        Shelf::Switch { name, is_on, device } if is_on(vm) => {
            vec![Item { section: name, index: None, pci: &ANY_PLACE, device }]
        }
        Shelf::Switch { .. } | Shelf::Memory => Vec::new(),
    }
}

/// Shows every device that the user can place, for a change.
fn change(vm: &mut VmConfig, mut visit: impl FnMut(&mut PciCommon, &dyn Section)) {
    for shelf in SHELVES {
        if let Shelf::Field { change, .. } = shelf {
            change(vm).items_mut().into_iter().for_each(|(pci, section)| visit(pci, section));
        }
    }
}

/// The ids that users or the check have given.
pub(crate) fn ids(vm: &VmConfig) -> HashSet<String> {
    items(vm).filter_map(|item| item.pci.id.clone()).collect()
}

/// Whether a device wants to sit behind the IOMMU.
pub(crate) fn want_iommu(vm: &VmConfig) -> bool {
    items(vm).any(|item| item.pci.iommu)
}

/// Applies the rules of sections that the reference does not have.
pub(crate) fn check(at: &mut Scope<'_, '_>) {
    for item in items(at.vm) {
        item.device.check(item.pci, &mut at.within(item.path()));
    }
}

/// Slots of a segment. The first one's host bridge has one.
const SLOTS: usize = 32;

/// Whether every device that will be built has a slot of its own in its segment; in the first one, `others` need one besides.
pub(crate) fn check_slots(others: usize, at: &mut Scope<'_, '_>) {
    let mut taken = HashMap::new();
    let mut counts = HashMap::from([(0, 1 + others)]);
    for item in items(at.vm).filter(|item| item.device.kind().is_some()) {
        let (path, segment) = (item.path(), item.pci.pci_segment);
        if let Some(slot) = item.pci.pci_device_id
            && let Some(other) = taken.insert((segment, slot), path.clone())
        {
            let text = format!("Slot {slot} is that of {other}, too");
            at.within(path.clone()).invalid("pci_device_id", text, "choose another, or leave it out");
        }
        let count = counts.entry(segment).or_insert(0);
        *count += 1;
        if *count == SLOTS + 1 {
            let room = if segment == 0 { SLOTS - 1 } else { SLOTS };
            let text = format!("PCI segment {segment} has room for {room} devices");
            let hint =
                "leave devices out, or place some in another pci_segment: this is the first without a slot";
            at.within(path).invalid("", text, hint);
        }
    }
}

/// Every path of a device that something is opened or bound at, with its field, such as `disks[1].path`.
pub(crate) fn paths(vm: &VmConfig) -> impl Iterator<Item = (String, &Path)> {
    items(vm).flat_map(|item| {
        let section = item.path();
        item.device.paths().into_iter().map(move |(field, path)| (format!("{section}.{field}"), path))
    })
}

/// Gives an id to every device that the user did not name. One counter serves all prefixes; the next number comes out.
pub(crate) fn name(vm: &mut VmConfig, mut next: u32) -> u32 {
    let zones = vm.memory.zones.iter().flatten().map(|zone| zone.id.clone());
    let mut taken: HashSet<String> = zones.collect();
    taken.extend(ids(vm));
    change(vm, |pci, section| {
        let Name::Prefix(prefix) = section.name() else { return };
        while pci.id.is_none() {
            let id = format!("{prefix}{next}");
            next = next.wrapping_add(1);
            if taken.insert(id.clone()) {
                pci.id = Some(id);
            }
        }
    });
    next
}

/// What is to be built, once all have their ids, with the devices for `memory` in their place.
pub(crate) fn plan(vm: &VmConfig, mut memory: Vec<Device>) -> Vec<Device> {
    let planned = |item: Item<'_>| {
        let kind = item.device.kind()?;
        let id = match item.device.name() {
            Name::Fixed(id) => id.to_owned(),
            Name::Prefix(_) => item.pci.id.clone().unwrap_or_default(),
        };
        Some(Device { id, place: Place::of(item.pci), kind })
    };
    let mut devices = Vec::new();
    for shelf in SHELVES {
        match shelf {
            Shelf::Memory => devices.append(&mut memory),
            _ => devices.extend(items_of(shelf, vm).into_iter().filter_map(planned)),
        }
    }
    devices
}

/// The files that devices use.
pub(crate) fn grants(vm: &VmConfig) -> Vec<Grant> {
    items(vm).flat_map(|item| item.device.grants()).collect()
}

/// Takes the device `id` out; false if there is none that can be removed.
pub(crate) fn remove(vm: &mut VmConfig, id: &str) -> bool {
    SHELVES.iter().any(|shelf| match shelf {
        Shelf::Field { change, .. } => change(vm).remove(id),
        Shelf::Switch { .. } | Shelf::Memory => false,
    })
}

/// The fields of devices that the user can place, and whether they hold lists.
#[cfg(test)]
pub(crate) fn fields_of_devices() -> Vec<(&'static str, bool)> {
    let field = |shelf: &Shelf| match shelf {
        Shelf::Field { name, read, .. } => Some((*name, read(&VmConfig::default()).is_list())),
        Shelf::Switch { .. } | Shelf::Memory => None,
    };
    SHELVES.iter().filter_map(field).collect()
}

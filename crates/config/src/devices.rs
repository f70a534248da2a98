//! The sections whose devices sit in PCI slots: the one list of them, and what the check does to all of them alike.
//!
//! A section's own file implements [`Section`]; a line in [`shelves`] puts it into its place.

use std::collections::HashSet;

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
pub(crate) trait Shelf {
    /// Shows every device of it.
    fn each(&mut self, visit: &mut dyn FnMut(&mut PciCommon, &dyn Section));

    /// Takes the device `id` out; false if there is none, or it belongs to the machine for good.
    fn remove(&mut self, id: &str) -> bool;
}

/// All of them, in the order in which slots and numbers are given out (`spec/devices.md` §6).
pub(crate) fn shelves(vm: &mut VmConfig) -> Vec<Box<dyn Shelf + '_>> {
    vec![
        Box::new(&mut vm.console),
        Box::new(&mut vm.disks),
        Box::new(&mut vm.net),
        Box::new(&mut vm.rng),
        Box::new(&mut vm.generic_vhost_user),
        Box::new(&mut vm.fs),
        Box::new(&mut vm.pmem),
        Box::new(&mut vm.vsock),
        Box::new(&mut vm.balloon),
        Box::new(Switch { on: vm.watchdog, id: "__watchdog", kind: DeviceKind::Watchdog(Watchdog) }),
        Box::new(&mut vm.vdpa),
        Box::new(&mut vm.rtc),
        Box::new(&mut vm.devices),
        Box::new(&mut vm.user_devices),
        Box::new(Switch { on: vm.pvpanic, id: "__pvpanic", kind: DeviceKind::Pvpanic(Pvpanic) }),
        Box::new(&mut vm.ivshmem),
    ]
}

impl<T: Section> Shelf for &mut Placed<T> {
    fn each(&mut self, visit: &mut dyn FnMut(&mut PciCommon, &dyn Section)) {
        visit(&mut self.pci, &self.device);
    }

    fn remove(&mut self, _: &str) -> bool {
        false
    }
}

impl<T: Section> Shelf for &mut Option<Placed<T>> {
    fn each(&mut self, visit: &mut dyn FnMut(&mut PciCommon, &dyn Section)) {
        if let Some(placed) = self.as_mut() {
            visit(&mut placed.pci, &placed.device);
        }
    }

    fn remove(&mut self, id: &str) -> bool {
        self.take_if(|placed| is_removable(placed, id)).is_some()
    }
}

impl<T: Section> Shelf for &mut Option<Vec<Placed<T>>> {
    fn each(&mut self, visit: &mut dyn FnMut(&mut PciCommon, &dyn Section)) {
        for placed in self.iter_mut().flatten() {
            visit(&mut placed.pci, &placed.device);
        }
    }

    fn remove(&mut self, id: &str) -> bool {
        let Some(list) = self else { return false };
        let before = list.len();
        list.retain(|placed| !is_removable(placed, id));
        list.len() < before
    }
}

fn is_removable<T: Section>(placed: &Placed<T>, id: &str) -> bool {
    matches!(placed.device.name(), Name::Prefix(_)) && placed.pci.id.as_deref() == Some(id)
}

/// A device that is there or not and has no settings, not even a place.
struct Switch {
    on: bool,
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

impl Shelf for Switch {
    fn each(&mut self, visit: &mut dyn FnMut(&mut PciCommon, &dyn Section)) {
        if self.on {
            visit(&mut PciCommon::default(), self);
        }
    }

    fn remove(&mut self, _: &str) -> bool {
        false
    }
}

fn each(vm: &mut VmConfig, mut visit: impl FnMut(&mut PciCommon, &dyn Section)) {
    shelves(vm).iter_mut().for_each(|shelf| shelf.each(&mut visit));
}

/// The ids that users or the check have given.
pub(crate) fn ids(vm: &mut VmConfig) -> HashSet<String> {
    let mut ids = HashSet::new();
    each(vm, |pci, _| ids.extend(pci.id.clone()));
    ids
}

/// Whether a device wants to sit behind the IOMMU.
pub(crate) fn want_iommu(vm: &mut VmConfig) -> bool {
    let mut wanted = false;
    each(vm, |pci, _| wanted |= pci.iommu);
    wanted
}

/// Gives an id to every device that the user did not name. One counter serves all prefixes; the next number comes out.
pub(crate) fn name(vm: &mut VmConfig, mut next: u32) -> u32 {
    let zones = vm.memory.zones.iter().flatten().map(|zone| zone.id.clone());
    let mut taken: HashSet<String> = zones.collect();
    taken.extend(ids(vm));
    each(vm, |pci, section| {
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

/// What is to be built, once all have their ids.
pub(crate) fn plan(vm: &mut VmConfig) -> Vec<Device> {
    let mut devices = Vec::new();
    each(vm, |pci, section| {
        let Some(kind) = section.kind() else { return };
        let id = match section.name() {
            Name::Fixed(id) => id.to_owned(),
            Name::Prefix(_) => pci.id.clone().unwrap_or_default(),
        };
        devices.push(Device { id, place: Place::of(pci), kind });
    });
    devices
}

/// The files that devices use.
pub(crate) fn grants(vm: &mut VmConfig) -> Vec<Grant> {
    let mut grants = Vec::new();
    each(vm, |_, section| grants.extend(section.grants()));
    grants
}

/// Takes the device `id` out; false if there is none that can be removed.
pub(crate) fn remove(vm: &mut VmConfig, id: &str) -> bool {
    shelves(vm).iter_mut().any(|shelf| shelf.remove(id))
}

//! The PCI functions of a machine: where they sit, what they are, and how they stop and go on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::DeviceNode;
use config::plan::Place;
use device::{AddressSpaces, Device, Events, Slot};
use memory::{GuestRam, layout};
use pci::{Address, BarKind, BarLease, Segment, SlotLease};
use serde_json::json;
use virtio::{BAR_SIZE, CounterSet, VirtioDevice, VirtioPci};
use virtio_devices::console::Resizer;

use crate::{DeviceError, Found};

/// BARs of virtio functions start at multiples of this.
const BAR_ALIGN: u64 = 8 << 20;

/// What every function is built with.
pub(crate) struct Surroundings {
    pub(crate) spaces: Arc<AddressSpaces>,
    pub(crate) irqchip: Arc<dyn hv::IrqChip>,
    pub(crate) segment: Segment,
    pub(crate) ram: GuestRam,
    pub(crate) events: Events,
}

/// One function with everything it leases.
struct Function {
    id: String,
    address: Address,
    bar: (BarLease, u64),
    slot: Slot,
    /// The same device, if it is a virtio one.
    virtio: Option<Arc<Mutex<VirtioPci>>>,
    _lease: SlotLease,
}

/// All functions, in slot order of their building.
pub(crate) struct Functions {
    around: Surroundings,
    /// Slots the user chose, leased before anybody gets the first free one.
    reserved: BTreeMap<String, SlotLease>,
    functions: Vec<Function>,
    /// Tells the console that its terminal has another size.
    pub(crate) resizer: Option<Resizer>,
    /// For `vm.info`.
    pub(crate) found: Found,
}

impl Functions {
    /// No functions yet. `wanted` names the devices whose slot the user chose.
    pub(crate) fn new<'a>(
        around: Surroundings,
        wanted: impl Iterator<Item = (&'a str, &'a Place)>,
    ) -> Result<Self, DeviceError> {
        let mut reserved = BTreeMap::new();
        for (id, place) in wanted.filter(|(_, place)| place.device.is_some()) {
            let lease = around.segment.lease_slot(place.device);
            reserved.insert(id.into(), lease.map_err(|source| DeviceError::Place { id: id.into(), source })?);
        }
        Ok(Self { around, reserved, functions: Vec::new(), resizer: None, found: Found::default() })
    }

    /// Guest RAM and events, for devices under construction.
    pub(crate) fn events(&self) -> &Events {
        &self.around.events
    }

    /// Gives a virtio device a slot and attaches it.
    pub(crate) fn attach_virtio(
        &mut self,
        device: Box<dyn VirtioDevice>,
        bar_kind: BarKind,
    ) -> Result<(), DeviceError> {
        let id = device.info().id.clone();
        let (lease, bar) = self.lease(&id, bar_kind, BAR_SIZE, BAR_ALIGN)?;
        let place = virtio::Place {
            address: lease.address(),
            bar: (bar.base(), bar.kind()),
            msi: self.around.irqchip.as_ref(),
            ram: &self.around.ram,
            events: &self.around.events,
        };
        let function = VirtioPci::new(device, &place).map_err(|e| DeviceError::build(&id, e))?;
        let function = Arc::new(Mutex::new(function));
        self.attach(id, lease, (bar, BAR_SIZE), function.clone(), Some(function))
    }

    /// Gives another function a slot and a 32-bit BAR 0 of `size` bytes, builds and attaches it.
    pub(crate) fn attach_plain<D: Device + 'static>(
        &mut self,
        id: &str,
        size: u64,
        build: impl FnOnce(Address, u64) -> D,
    ) -> Result<(), DeviceError> {
        const PAGE: u64 = 4096;
        let (lease, bar) = self.lease(id, BarKind::Memory32, size, PAGE)?;
        let function = Arc::new(Mutex::new(build(lease.address(), bar.base())));
        self.attach(id.into(), lease, (bar, size), function, None)
    }

    fn lease(
        &mut self,
        id: &str,
        kind: BarKind,
        size: u64,
        align: u64,
    ) -> Result<(SlotLease, BarLease), DeviceError> {
        let misplaced = |source| DeviceError::Place { id: id.into(), source };
        let segment = &self.around.segment;
        let slot = match self.reserved.remove(id) {
            Some(lease) => lease,
            None => segment.lease_slot(None).map_err(misplaced)?,
        };
        Ok((slot, segment.lease_bar(kind, size, align).map_err(misplaced)?))
    }

    fn attach(
        &mut self,
        id: String,
        lease: SlotLease,
        bar: (BarLease, u64),
        slot: Slot,
        virtio: Option<Arc<Mutex<VirtioPci>>>,
    ) -> Result<(), DeviceError> {
        let attached = self.around.spaces.attach(&slot);
        attached.map_err(|source| DeviceError::Attach { id: id.clone(), source })?;
        self.functions.push(Function { id, address: lease.address(), bar, slot, virtio, _lease: lease });
        Ok(())
    }

    fn virtio(&self) -> impl Iterator<Item = MutexGuard<'_, VirtioPci>> {
        self.functions
            .iter()
            .filter_map(|f| f.virtio.as_ref())
            .map(|f| f.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Stops all workers, keeping their queues. The vCPUs are held.
    pub(crate) fn pause(&self) {
        self.virtio().for_each(|mut function| function.pause());
    }

    /// Lets all workers go on.
    pub(crate) fn resume(&self) {
        self.virtio().for_each(|mut function| function.resume());
    }

    /// The functions' part of `vm.info`'s device tree.
    pub(crate) fn describe(&self, tree: &mut BTreeMap<String, DeviceNode>) {
        for function in &self.functions {
            let (bar, size) = &function.bar;
            let kind = if bar.kind() == BarKind::Memory64 { "Mmio64" } else { "Mmio32" };
            let resource = json!({ "PciBar": {
                "index": 0, "base": bar.base(), "size": size, "type_": kind, "prefetchable": false,
            }});
            let mut node = DeviceNode {
                id: function.id.clone(),
                resources: vec![resource],
                pci_bdf: Some(function.address.to_string()),
                ..DeviceNode::default()
            };
            if function.virtio.is_some() {
                // A virtio device sits behind its transport, which is a node of its own.
                let transport = format!("_virtio-pci-{}", function.id);
                let device = DeviceNode {
                    id: function.id.clone(),
                    parent: Some(transport.clone()),
                    ..DeviceNode::default()
                };
                tree.insert(device.id.clone(), device);
                node.id = transport;
                node.children = vec![function.id.clone()];
            }
            tree.insert(node.id.clone(), node);
        }
    }

    /// What devices count, by id.
    pub(crate) fn counters(&self) -> Vec<(String, Arc<dyn CounterSet>)> {
        self.virtio()
            .filter_map(|function| Some((function.device().info().id.clone(), function.device().counters()?)))
            .collect()
    }
}

impl Drop for Functions {
    fn drop(&mut self) {
        for function in &self.functions {
            self.around.spaces.detach(&function.slot);
        }
    }
}

/// Windows of the machine's one segment: 32-bit below the ECAM, 64-bit after RAM.
pub(crate) fn segment(area: &layout::DeviceArea) -> Segment {
    let window32 = (layout::HOLE, layout::HOLE + layout::PCI32_SIZE - 1);
    Segment::new(0, window32, (area.pci64_start, area.pci64_end))
}

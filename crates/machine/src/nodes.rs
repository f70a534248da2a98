//! Everything the guest can see, by name: the board's devices and the PCI functions. Save, restore, pause and `vm.info` walk it.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::DeviceNode;
use config::VmConfig;
use config::plan::Place;
use device::{AddressSpaces, Device, Slot};
use meter::CounterSet;
use pci::{BarKind, BarLease, BarNeed, Built, Handle, Learned, Segments, SlotLease};
use serde_json::json;

use crate::tree::{NodeStates, StateError};
use crate::{DeviceError, LateDevice};

/// How long the devices together may take to hold still: what is under way on the host's storage and network ends first.
const PATIENCE: Duration = Duration::from_secs(30);

/// One thing the guest can see.
struct Node {
    id: String,
    slot: Slot,
    /// If it is a PCI function.
    function: Option<FunctionPart>,
}

/// What a PCI function has besides.
struct FunctionPart {
    lease: SlotLease,
    bars: Vec<(BarNeed, BarLease)>,
    is_virtio: bool,
    counters: Option<Arc<dyn CounterSet>>,
    handle: Option<Handle>,
    learned: Option<Learned>,
}

/// All of them, in the order in which they came.
pub(crate) struct Nodes {
    spaces: Arc<AddressSpaces>,
    segments: Segments,
    msi: Arc<dyn hv::IrqChip>,
    nodes: Vec<Node>,
    /// Slots that devices on their way have been promised, by id.
    promised: BTreeMap<String, SlotLease>,
    patience: Duration,
}

impl Nodes {
    /// None yet.
    pub(crate) fn new(spaces: Arc<AddressSpaces>, segments: Segments, msi: Arc<dyn hv::IrqChip>) -> Self {
        let promised = BTreeMap::new();
        Self { spaces, segments, msi, nodes: Vec::new(), promised, patience: PATIENCE }
    }

    /// Puts a device of the board at its fixed addresses.
    pub(crate) fn attach_board(&mut self, id: &str, slot: Slot) -> Result<(), DeviceError> {
        self.insert(id, slot, None)
    }

    /// Sees to it that the device `id` will get the slot that `place` asks for, whoever comes before it.
    pub(crate) fn promise(&mut self, id: &str, place: &Place) -> Result<(), DeviceError> {
        let misplaced = |source| DeviceError::Place { id: id.into(), source };
        if place.device.is_some() {
            let segment = self.segments.get(place.segment).map_err(misplaced)?;
            self.promised.insert(id.into(), segment.lease_slot(place.device).map_err(misplaced)?);
        }
        Ok(())
    }

    /// Gives a device its slot and addresses. The slot comes out. A failure leaves nothing behind.
    pub(crate) fn attach(&mut self, id: &str, place: &Place, built: Built) -> Result<u8, DeviceError> {
        let misplaced = |source| DeviceError::Place { id: id.into(), source };
        self.follow_bars();
        let segment = self.segments.get(place.segment).map_err(misplaced)?;
        let lease = match self.promised.remove(id) {
            Some(lease) => lease,
            None => segment.lease_slot(place.device).map_err(misplaced)?,
        };
        let lease_bar = |need: BarNeed| Ok((need, segment.lease_bar(need.kind, need.size, need.align)?));
        let bars = built.function.bars().into_iter().map(lease_bar).collect::<Result<Vec<_>, _>>();
        let bars = bars.map_err(misplaced)?;
        let bases: Vec<u64> = bars.iter().map(|(_, lease)| lease.base()).collect();
        let settled = pci::Place { address: lease.address(), bars: &bases, msi: self.msi.as_ref() };
        let Built { function, is_virtio, counters, handle, learned } = built;
        let slot = function.settle(&settled).map_err(|e| DeviceError::build(id, e))?;
        let number = lease.address().slot;
        self.insert(id, slot, Some(FunctionPart { lease, bars, is_virtio, counters, handle, learned }))?;
        Ok(number)
    }

    fn insert(&mut self, id: &str, slot: Slot, function: Option<FunctionPart>) -> Result<(), DeviceError> {
        let attached = self.spaces.attach(&slot);
        attached.map_err(|source| DeviceError::Attach { id: id.into(), source })?;
        self.nodes.push(Node { id: id.into(), slot, function });
        Ok(())
    }

    /// Takes a device away: it stops, its addresses and its slot are free, its threads have ended. False if there is none.
    pub(crate) fn detach(&mut self, id: &str) -> bool {
        let Some(at) = self.nodes.iter().position(|node| node.id == id) else { return false };
        let Node { slot, function, .. } = self.nodes.remove(at);
        lock(&slot).pause();
        self.spaces.detach(slot, self.patience);
        drop(function);
        true
    }

    /// Lets leases of addresses follow BARs that the guest has moved.
    fn follow_bars(&mut self) {
        let functions = self.nodes.iter_mut().filter_map(|node| Some((&node.slot, node.function.as_mut()?)));
        let moved = functions.flat_map(|(slot, function)| {
            let regions = lock(slot).regions();
            function.bars.iter_mut().filter_map(move |(need, lease)| {
                let region = regions.iter().find(|region| region.index == need.index as u32)?;
                Some((lease, region.base))
            })
        });
        self.segments.follow(moved);
    }

    /// Asks all devices to hold still, then waits for all. The vCPUs are held.
    pub(crate) fn pause(&self) -> Result<(), LateDevice> {
        self.each(|device| device.pause());
        let deadline = Instant::now() + self.patience;
        match self.nodes.iter().find(|node| !lock(&node.slot).is_paused(deadline)) {
            None => Ok(()),
            Some(late) => Err(LateDevice { id: late.id.clone(), limit: self.patience }),
        }
    }

    /// Lets all devices go on.
    pub(crate) fn resume(&self) {
        self.each(Device::resume);
    }

    /// Looks after devices that were late to hold still.
    pub(crate) fn look_after(&self) {
        let now = Instant::now();
        self.each(|device| {
            device.is_paused(now);
        });
    }

    fn each(&self, mut act: impl FnMut(&mut (dyn Device + 'static))) {
        self.nodes.iter().for_each(|node| act(&mut *lock(&node.slot)));
    }

    /// The state of everything. The machine is paused.
    pub(crate) fn save(&self) -> Result<NodeStates, StateError> {
        let saved = self.nodes.iter().map(|node| {
            let saved = lock(&node.slot).to_saved();
            let saved = saved.map_err(|source| StateError::Save { id: node.id.clone(), source })?;
            Ok((node.id.clone(), saved))
        });
        saved.collect()
    }

    /// Puts a saved state into everything, and everything where the guest had moved it. All that is here must be in `states`, and the
    /// other way round.
    pub(crate) fn restore(&self, states: &NodeStates) -> Result<(), StateError> {
        if let Some(id) = states.keys().find(|id| !self.nodes.iter().any(|node| node.id == **id)) {
            return Err(StateError::Stranger(id.clone()));
        }
        for Node { id, slot, .. } in &self.nodes {
            let saved = states.get(id).ok_or_else(|| StateError::Missing(id.clone()))?;
            let restored = lock(slot).restore_saved(saved);
            restored.map_err(|source| StateError::Restore { id: id.clone(), source })?;
        }
        // BARs may have changed places: all go before any comes.
        self.nodes.iter().for_each(|node| self.spaces.withdraw(&node.slot));
        for Node { id, slot, .. } in &self.nodes {
            let attached = self.spaces.attach(slot);
            attached.map_err(|source| StateError::Place { id: id.clone(), source })?;
        }
        Ok(())
    }

    /// What devices tell the guest's ACPI code.
    pub(crate) fn aml(&self) -> Vec<u8> {
        self.nodes.iter().flat_map(|node| lock(&node.slot).aml()).collect()
    }

    /// What devices of a kind have handed out for later, with the devices' ids.
    pub(crate) fn handles<H: Any>(&self) -> impl Iterator<Item = (&str, &H)> {
        self.nodes.iter().filter_map(|node| {
            let handle = node.function.as_ref()?.handle.as_ref()?;
            Some((node.id.as_str(), (**handle).downcast_ref()?))
        })
    }

    /// Which slot each PCI function has got.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (&str, u8)> {
        self.nodes
            .iter()
            .filter_map(|node| Some((node.id.as_str(), node.function.as_ref()?.lease.address().slot)))
    }

    /// Writes what devices have found out into the configuration that clients see.
    pub(crate) fn amend(&self, config: &mut VmConfig) {
        let learned = self.nodes.iter().filter_map(|node| node.function.as_ref()?.learned.as_ref());
        learned.for_each(|learned| learned(config));
    }

    /// What devices count, by id.
    pub(crate) fn counters(&self) -> Vec<(String, Arc<dyn CounterSet>)> {
        let counters = |node: &Node| Some((node.id.clone(), node.function.as_ref()?.counters.clone()?));
        self.nodes.iter().filter_map(counters).collect()
    }

    /// `vm.info`'s device tree.
    pub(crate) fn describe(&self) -> BTreeMap<String, DeviceNode> {
        let nodes = self.nodes.iter().flat_map(describe);
        nodes.map(|node| (node.id.clone(), node)).collect()
    }
}

impl Drop for Nodes {
    /// All stop at once; then each goes.
    fn drop(&mut self) {
        self.each(|device| device.pause());
        for Node { slot, .. } in self.nodes.drain(..) {
            self.spaces.detach(slot, self.patience);
        }
    }
}

fn describe(node: &Node) -> Vec<DeviceNode> {
    let mut shown = DeviceNode { id: node.id.clone(), ..DeviceNode::default() };
    let Some(function) = &node.function else { return vec![shown] };
    let bar = |(need, lease): &(BarNeed, BarLease)| {
        let kind = if need.kind == BarKind::Memory64 { "Mmio64" } else { "Mmio32" };
        json!({ "PciBar": {
            "index": need.index, "base": lease.base(), "size": need.size, "type_": kind, "prefetchable": false,
        }})
    };
    shown.resources = function.bars.iter().map(bar).collect();
    shown.pci_bdf = Some(function.lease.address().to_string());
    if !function.is_virtio {
        return vec![shown];
    }
    // A virtio device sits behind its transport, which is a node of its own.
    shown.id = format!("_virtio-pci-{}", node.id);
    shown.children = vec![node.id.clone()];
    let parent = Some(shown.id.clone());
    vec![DeviceNode { id: node.id.clone(), parent, ..DeviceNode::default() }, shown]
}

fn lock(slot: &Slot) -> MutexGuard<'_, dyn Device + 'static> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Everything the guest can see, by name: the board's devices and the PCI functions. Save, restore, pause and `vm.info` walk it.

mod describe;

use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, MutexGuard, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use api::DeviceNode;
use config::plan::{self, Place};
use config::{Plan, VmConfig};
use device::{AddressSpaces, Device, Events, Slot};
use memory::{DmaRam, HostMemory};
use meter::CounterSet;
use pci::{
    Address, BarKind, BarLease, BarNeed, BuildContext, Built, Handle, Learned, MemoryLease, OwnMemory,
    Segment, Segments, SlotLease,
};
use stream::Stream;

use crate::hotplug::Removal;
use crate::own_memory::{MappedMemory, MemoryPlaces};
use crate::tree::{NodeStates, StateError};
use crate::{DeviceError, LateDevice, catalogue};

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
    memory: Option<MappedMemory>,
    is_virtio: bool,
    counters: Option<Arc<dyn CounterSet>>,
    handle: Option<Handle>,
    learned: Option<Learned>,
    /// If the guest was asked to let go of it.
    removal: Option<Removal>,
}

/// What somebody has opened for a device.
#[derive(Clone, Copy, Default)]
pub(crate) struct Given<'a> {
    /// Descriptors that a client handed over.
    pub(crate) descriptors: &'a [OwnedFd],
    /// The other end of the console.
    pub(crate) stream: Option<&'a Stream>,
}

/// All of them, in the order in which they came.
pub(crate) struct Nodes {
    spaces: Arc<AddressSpaces>,
    segments: Segments,
    vm: Arc<dyn hv::Vm>,
    msi: Arc<dyn hv::IrqChip>,
    ram: DmaRam,
    events: Events,
    nodes: Vec<Node>,
    /// Slots that devices on their way have been promised, by id.
    promised: BTreeMap<String, SlotLease>,
    /// The same of addresses for their own memory.
    promised_memory: BTreeMap<String, MemoryLease>,
    patience: Duration,
}

impl Nodes {
    /// None yet. They will be `vm`'s guest's, reach its RAM through `ram` and report to `events`.
    pub(crate) fn new(
        spaces: Arc<AddressSpaces>,
        segments: Segments,
        vm: Arc<dyn hv::Vm>,
        ram: DmaRam,
        events: Events,
    ) -> Self {
        let msi = vm.irqchip();
        let (nodes, promised, promised_memory) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Self { spaces, segments, vm, msi, ram, events, nodes, promised, promised_memory, patience: PATIENCE }
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

    /// Sees to it that the devices of `plan` will have their own memory at these places again, whatever comes before them.
    pub(crate) fn promise_memory(&mut self, plan: &Plan, places: &MemoryPlaces) -> Result<(), DeviceError> {
        for plan::Device { id, place, .. } in &plan.devices {
            let Some(wanted) = places.get(id) else { continue };
            let segment = self.segments.get(place.segment);
            let lease = segment.and_then(|segment| segment.lease_memory_at(wanted.base, wanted.size));
            let lease = lease.map_err(|source| DeviceError::Place { id: id.clone(), source })?;
            self.promised_memory.insert(id.clone(), lease);
        }
        Ok(())
    }

    /// What was promised and nobody came for is free again.
    pub(crate) fn forget_promises(&mut self) {
        self.promised.clear();
        self.promised_memory.clear();
    }

    /// Builds a device and gives it a slot, which comes out, and addresses. A failure leaves nothing behind.
    pub(crate) fn attach(&mut self, device: &plan::Device, given: Given<'_>) -> Result<Address, DeviceError> {
        let Given { descriptors, stream } = given;
        self.follow_bars();
        let (id, ram, events, boot_bar) = (&device.id, &self.ram, &self.events, self.boot_bar(&device.place));
        let context = BuildContext { id, ram, events, descriptors, stream, boot_bar };
        let built = catalogue::build(device, &context)?;
        self.settle(&device.id, &device.place, built)
    }

    /// [`BuildContext::boot_bar`] of a device at this place.
    fn boot_bar(&self, place: &Place) -> BarKind {
        let first = self.segments.get(0).ok().filter(|_| place.segment == 0);
        let has_room = |segment: &Segment| {
            segment.lease_bar(BarKind::Memory32, virtio::BAR_SIZE, virtio::BAR_ALIGN).is_ok()
        };
        if first.is_some_and(has_room) { BarKind::Memory32 } else { BarKind::Memory64 }
    }

    fn settle(&mut self, id: &str, place: &Place, built: Built) -> Result<Address, DeviceError> {
        let misplaced = |source| DeviceError::Place { id: id.into(), source };
        let segment = self.segments.get(place.segment).map_err(misplaced)?;
        let lease = match self.promised.remove(id) {
            Some(lease) => lease,
            None => segment.lease_slot(place.device).map_err(misplaced)?,
        };
        let lease_bar = |need: BarNeed| Ok((need, segment.lease_bar(need.kind, need.size, need.align)?));
        let bars = built.function.bars().into_iter().map(lease_bar).collect::<Result<Vec<_>, _>>();
        let bars = bars.map_err(misplaced)?;
        let bases: Vec<u64> = bars.iter().map(|(_, lease)| lease.base()).collect();
        let segment = segment.clone();
        let Built { function, is_virtio, counters, handle, learned } = built;
        let memory = function.memory().map(|memory| self.map(id, &segment, memory)).transpose()?;
        let settled = pci::Place {
            address: lease.address(),
            bars: &bases,
            memory: memory.as_ref().map(|memory| memory.place().base),
            msi: self.msi.as_ref(),
        };
        let slot = function.settle(&settled).map_err(|e| DeviceError::build(id, e))?;
        let (address, removal) = (lease.address(), None);
        let function = FunctionPart { lease, bars, memory, is_virtio, counters, handle, learned, removal };
        self.insert(id, slot, Some(function))?;
        Ok(address)
    }

    /// Gives the guest memory that the device `id` brings: where it was promised, or anywhere in the segment's window.
    fn map(&mut self, id: &str, segment: &Segment, brought: OwnMemory) -> Result<MappedMemory, DeviceError> {
        let OwnMemory { memory, align } = brought;
        let size = memory.size() as u64;
        // Another size than that of the promise is the device's to notice, when it gets its state.
        let fits = |lease: &MemoryLease| lease.size() == size && lease.base().is_multiple_of(align);
        let lease = match self.promised_memory.remove(id).filter(fits) {
            Some(lease) => Ok(lease),
            None => segment.lease_memory(size, align),
        };
        let lease = lease.map_err(|source| DeviceError::Place { id: id.into(), source })?;
        let mapped = MappedMemory::new(self.vm.clone(), memory, lease);
        mapped.map_err(|source| DeviceError::Memory { id: id.into(), source })
    }

    fn insert(&mut self, id: &str, slot: Slot, function: Option<FunctionPart>) -> Result<(), DeviceError> {
        let attached = self.spaces.attach(&slot);
        attached.map_err(|source| DeviceError::Attach { id: id.into(), source })?;
        self.nodes.push(Node { id: id.into(), slot, function });
        Ok(())
    }

    /// Takes the device in this slot away: it stops, its addresses and its slot are free, its threads have ended. Its id comes out.
    pub(crate) fn detach_at(&mut self, address: Address) -> Option<String> {
        let is_there = |node: &Node| node.function.as_ref().is_some_and(|f| f.lease.address() == address);
        let node = self.nodes.remove(self.nodes.iter().position(is_there)?);
        let deadline = Instant::now() + self.patience;
        if let Some(mut device) = enter(&node, deadline) {
            device.pause();
        }
        self.spaces.detach(node.slot, deadline);
        Some(node.id)
    }

    /// Where a PCI function is.
    pub(crate) fn address(&self, id: &str) -> Option<Address> {
        let node = self.nodes.iter().find(|node| node.id == id)?;
        Some(node.function.as_ref()?.lease.address())
    }

    /// Whether the guest was asked to let go of a PCI function, for a change. `None` if there is no such function.
    pub(crate) fn removal_mut(&mut self, id: &str) -> Option<&mut Option<Removal>> {
        let node = self.nodes.iter_mut().find(|node| node.id == id)?;
        Some(&mut node.function.as_mut()?.removal)
    }

    /// The functions that the guest was asked to let go of.
    pub(crate) fn removals(&self) -> impl Iterator<Item = (&str, Address, Removal)> {
        self.nodes.iter().filter_map(|node| {
            let function = node.function.as_ref()?;
            Some((node.id.as_str(), function.lease.address(), function.removal?))
        })
    }

    /// Lets leases of addresses follow BARs that the guest has moved.
    fn follow_bars(&mut self) {
        let deadline = Instant::now() + self.patience;
        let moved = self.nodes.iter_mut().flat_map(|node| {
            let regions = enter(node, deadline).map_or_else(Vec::new, |device| device.regions());
            let bars = node.function.iter_mut().flat_map(|function| &mut function.bars);
            bars.map(move |(need, lease)| {
                let region = regions.iter().find(|region| region.index == need.index as u32);
                (lease, region.map(|region| region.base))
            })
        });
        self.segments.follow(moved);
    }

    /// Asks all devices to hold still, then waits for all. The vCPUs are held.
    pub(crate) fn pause(&self) -> Result<(), LateDevice> {
        let deadline = Instant::now() + self.patience;
        self.each(deadline, |device| device.pause());
        let is_paused =
            |node: &Node| enter(node, deadline).is_some_and(|mut device| device.is_paused(deadline));
        match self.nodes.iter().find(|node| !is_paused(node)) {
            None => Ok(()),
            Some(late) => Err(LateDevice { id: late.id.clone(), limit: self.patience }),
        }
    }

    /// Lets all devices go on.
    pub(crate) fn resume(&self) {
        self.each(Instant::now() + self.patience, Device::resume);
    }

    /// Does something while the device `id` holds still. Then it goes on, if `resume`: not while the whole machine is paused.
    pub(crate) fn hold<T>(&self, id: &str, resume: bool, act: impl FnOnce() -> T) -> Result<T, LateDevice> {
        let deadline = Instant::now() + self.patience;
        let late = || LateDevice { id: id.into(), limit: self.patience };
        let node = self.nodes.iter().find(|node| node.id == id);
        let mut device = node.and_then(|node| enter(node, deadline)).ok_or_else(late)?;
        device.pause();
        let done = device.is_paused(deadline).then(act);
        if resume {
            device.resume();
        }
        done.ok_or_else(late)
    }

    /// Looks after devices that were late to hold still.
    pub(crate) fn look_after(&self) {
        let now = Instant::now();
        self.each(now + self.patience, |device| {
            device.is_paused(now);
        });
    }

    fn each(&self, deadline: Instant, mut act: impl FnMut(&mut (dyn Device + 'static))) {
        for node in &self.nodes {
            if let Some(mut device) = enter(node, deadline) {
                act(&mut *device);
            }
        }
    }

    /// The state of everything. The machine is paused.
    pub(crate) fn save(&self) -> Result<NodeStates, StateError> {
        let deadline = Instant::now() + self.patience;
        let saved = self.nodes.iter().map(|node| {
            let id = || node.id.clone();
            let device = enter(node, deadline).ok_or_else(|| StateError::Busy(id()))?;
            let saved = device.to_saved().map_err(|source| StateError::Save { id: id(), source })?;
            Ok((id(), saved))
        });
        saved.collect()
    }

    /// Puts a saved state into everything, and everything where the guest had moved it. All that is here must be in `states`, and the
    /// other way round.
    pub(crate) fn restore(&mut self, states: &NodeStates) -> Result<(), StateError> {
        if let Some(id) = states.keys().find(|id| !self.nodes.iter().any(|node| node.id == **id)) {
            return Err(StateError::Stranger(id.clone()));
        }
        let deadline = Instant::now() + self.patience;
        for node in &self.nodes {
            let id = || node.id.clone();
            let saved = states.get(&node.id).ok_or_else(|| StateError::Missing(id()))?;
            let mut device = enter(node, deadline).ok_or_else(|| StateError::Busy(id()))?;
            device.restore_saved(saved).map_err(|source| StateError::Restore { id: id(), source })?;
        }
        // BARs may have changed places: all go before any comes.
        self.nodes.iter().for_each(|node| self.spaces.withdraw(&node.slot));
        for Node { id, slot, .. } in &self.nodes {
            let attached = self.spaces.attach(slot);
            attached.map_err(|source| StateError::Place { id: id.clone(), source })?;
        }
        self.follow_bars();
        Ok(())
    }

    /// What devices tell the guest's ACPI code. No vCPU runs yet that could be inside one.
    pub(crate) fn aml(&self) -> Vec<u8> {
        let mut aml = Vec::new();
        self.each(Instant::now() + self.patience, |device| aml.extend(device.aml()));
        aml
    }

    /// What devices of a kind have handed out for later, with the devices' ids.
    pub(crate) fn handles<H: Any>(&self) -> impl Iterator<Item = (&str, &H)> {
        self.nodes.iter().filter_map(|node| {
            let handle = node.function.as_ref()?.handle.as_ref()?;
            Some((node.id.as_str(), (**handle).downcast_ref()?))
        })
    }

    /// Where devices' own memory lies, by the device's id.
    pub(crate) fn memory_places(&self) -> MemoryPlaces {
        let place = |node: &Node| Some((node.id.clone(), node.function.as_ref()?.memory.as_ref()?.place()));
        self.nodes.iter().filter_map(place).collect()
    }

    /// Devices' own memory.
    pub(crate) fn own_memory(&self) -> impl Iterator<Item = &Arc<dyn HostMemory>> {
        self.nodes.iter().filter_map(|node| Some(node.function.as_ref()?.memory.as_ref()?.memory()))
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
        let nodes = self.nodes.iter().flat_map(describe::describe);
        nodes.map(|node| (node.id.clone(), node)).collect()
    }
}

#[cfg(test)]
impl Nodes {
    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    pub(crate) fn spaces(&self) -> &Arc<AddressSpaces> {
        &self.spaces
    }

    pub(crate) fn slot(&self, id: &str) -> Option<&Slot> {
        self.nodes.iter().find(|node| node.id == id).map(|node| &node.slot)
    }

    /// Where a device's registers are.
    pub(crate) fn regions(&self, id: &str) -> Vec<device::Region> {
        self.slot(id).unwrap().lock().unwrap().regions()
    }

    pub(crate) fn is_busy(&self, id: &str) -> bool {
        self.slot(id).is_some_and(|slot| matches!(slot.try_lock(), Err(TryLockError::WouldBlock)))
    }
}

impl Drop for Nodes {
    /// All stop at once; then each goes.
    fn drop(&mut self) {
        let deadline = Instant::now() + self.patience;
        self.each(deadline, |device| device.pause());
        for Node { slot, .. } in self.nodes.drain(..) {
            self.spaces.detach(slot, deadline);
        }
    }
}

/// The device, once no vCPU is inside; waits for that until `deadline`. A vCPU that does not leave is stuck in what the device does for it,
/// and then control goes on without this device.
fn enter(node: &Node, deadline: Instant) -> Option<MutexGuard<'_, dyn Device + 'static>> {
    loop {
        match node.slot.try_lock() {
            Ok(device) => return Some(device),
            Err(TryLockError::Poisoned(device)) => return Some(device.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                tracing::error!("A vCPU does not leave device '{}'", node.id);
                return None;
            }
            Err(TryLockError::WouldBlock) => thread::yield_now(),
        }
    }
}

//! What `vm.info` shows of a device.

use api::{DeviceNode, MmioAddressRange, PciBarResource, PciBarWidth, Resource};
use pci::{BarKind, BarLease, BarNeed};

use super::Node;
use crate::hotplug::Removal;
use crate::own_memory::{MappedMemory, MemoryPlace};

/// The device, and the transport it sits behind if it has one.
pub(super) fn describe(node: &Node) -> Vec<DeviceNode> {
    let mut device = DeviceNode { id: node.id.clone(), ..DeviceNode::default() };
    let Some(function) = &node.function else { return vec![device] };
    let range = |memory: &MappedMemory| {
        let MemoryPlace { base, size } = memory.place();
        Resource::MmioAddressRange(MmioAddressRange { base, size })
    };
    device.resources = function.memory.iter().map(range).collect();
    let bar = |(need, lease): &(BarNeed, BarLease)| {
        let width = if need.kind == BarKind::Memory64 { PciBarWidth::Mmio64 } else { PciBarWidth::Mmio32 };
        let BarNeed { index, size, .. } = *need;
        Resource::PciBar(PciBarResource { base: lease.base(), index, prefetchable: false, size, width })
    };
    let bars = function.bars.iter().map(bar);
    let bdf = Some(function.lease.address().to_string());
    let removal = function.removal.map(Removal::shown);
    if !function.is_virtio {
        device.resources.extend(bars);
        return vec![DeviceNode { pci_bdf: bdf, removal, ..device }];
    }
    // A virtio device sits behind its transport, which is a node of its own.
    let transport = DeviceNode {
        id: [DeviceNode::TRANSPORT, &node.id].concat(),
        resources: bars.collect(),
        children: vec![node.id.clone()],
        pci_bdf: bdf,
        removal,
        ..DeviceNode::default()
    };
    device.parent = Some(transport.id.clone());
    vec![device, transport]
}

//! A virtio device on its way into a slot.

use std::io;
use std::sync::{Arc, Mutex};

use device::{Events, Slot};
use memory::DmaRam;
use pci::{BarKind, BarNeed, BuildContext, Built, Function, OwnMemory, Place};

use crate::{VirtioDevice, VirtioPci, transport};

/// BARs of virtio functions start at multiples of this.
pub const BAR_ALIGN: u64 = 8 << 20;

/// A device that waits for its slot.
struct Unplaced {
    device: Box<dyn VirtioDevice>,
    bar: BarKind,
    ram: DmaRam,
    events: Events,
}

/// Puts `device` behind the transport, with a BAR of this kind.
pub fn built(device: impl VirtioDevice + 'static, bar: BarKind, context: &BuildContext<'_>) -> Built {
    let counters = device.counters();
    let device = Box::new(device);
    let unplaced = Unplaced { device, bar, ram: context.ram.clone(), events: context.events.clone() };
    Built { is_virtio: true, counters, ..Built::new(unplaced) }
}

impl Function for Unplaced {
    fn bars(&self) -> Vec<BarNeed> {
        vec![BarNeed { index: 0, kind: self.bar, size: transport::BAR_SIZE, align: BAR_ALIGN }]
    }

    fn memory(&self) -> Option<OwnMemory> {
        self.device.memory()
    }

    fn settle(self: Box<Self>, place: &Place<'_>) -> io::Result<Slot> {
        let Self { mut device, bar, ram, events } = *self;
        if let Some(base) = place.memory {
            device.put_memory(base);
        }
        Ok(Arc::new(Mutex::new(VirtioPci::new(device, bar, place, ram, events)?)))
    }
}

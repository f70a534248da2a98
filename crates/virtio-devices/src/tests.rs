//! Holds a device behind the transport to the contract of all devices, fresh and with a driver that has come up. Each device's tests call it.

use std::sync::Arc;

use device::{Access, Device, Events, NoSink};
use memory::test_ram;
use pci::{Address, BarKind, FakeSource, Place};
use virtio::{VirtioDevice, VirtioPci, feature};

/// Panics if `front` breaks the contract.
pub(crate) fn holds(front: impl VirtioDevice + 'static) {
    let ram = test_ram(&[(0, 0x10_0000)]);
    let queues = front.info().queue_sizes.len() as u64;
    let (msi, events) = (FakeSource::default(), Events::new(Arc::new(NoSink)).unwrap());
    let place =
        Place { address: Address { segment: 0, slot: 2 }, bars: &[0xc000_0000], memory: None, msi: &msi };
    let function = VirtioPci::new(Box::new(front), BarKind::Memory32, &place, ram.dma(), events);
    device::contract::check_after(&mut function.unwrap(), |function| come_up(function, queues));
}

/// What a driver does that accepts nothing but the version.
fn come_up(function: &mut dyn Device, queues: u64) {
    let mut write = |offset, data: &[u8]| {
        let _ = function.write(Access { region: 0, offset }, data);
    };
    write(0x14, &[3]);
    write(0x08, &1u32.to_le_bytes());
    write(0x0c, &((feature::VERSION_1 >> 32) as u32).to_le_bytes());
    write(0x14, &[0xb]);
    for queue in 0..queues {
        let base = 0x1_0000 + queue * 0x4000;
        write(0x16, &(queue as u16).to_le_bytes());
        write(0x18, &8u16.to_le_bytes());
        for (register, offset) in [(0x20, 0), (0x28, 0x1000), (0x30, 0x2000)] {
            write(register, &(base + offset).to_le_bytes());
        }
        write(0x1c, &[1, 0]);
    }
    write(0x14, &[0xf]);
}

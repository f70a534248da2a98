//! Every device behind the transport is held to the contract of all devices, fresh and with a driver that has come up.

use std::sync::Arc;

use config::{ImageType, MacAddr, plan};
use device::{Access, Device, Events, NoSink};
use memory::test_ram;
use pci::{Address, BarKind, FakeSource, Place};
use stream::Stream;
use virtio::{VirtioDevice, VirtioPci, feature};

use crate::{blk, console, net, rng, watchdog};

fn holds(front: impl VirtioDevice + 'static) {
    let ram = test_ram(&[(0, 0x10_0000)]);
    let queues = front.info().queue_sizes.len() as u64;
    let (msi, events) = (FakeSource::default(), Events::new(Arc::new(NoSink)).unwrap());
    let place = Place { address: Address { segment: 0, slot: 2 }, bars: &[0xc000_0000], msi: &msi };
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

#[test]
fn a_disk() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let disk = plan::Disk { image_type: ImageType::Raw, queue_size: 16, ..plan::Disk::new(file.path()) };
    holds(blk::open(&disk, "d", None).unwrap());
}

#[test]
fn a_network_card() {
    let plan = plan::Net { queue_size: 16, ..plan::Net::new(MacAddr([2, 0, 0, 0, 0, 1])) };
    holds(net::tests::unconnected(&plan));
}

#[test]
fn a_console() {
    holds(console::Front::new("__console", Stream::open(&plan::Stream::Null).unwrap().unwrap()).unwrap());
}

#[test]
fn an_entropy_source() {
    holds(rng::front(&plan::Rng { src: "/dev/zero".into() }, "__rng").unwrap());
}

#[test]
fn a_watchdog() {
    let events = Events::new(Arc::new(NoSink)).unwrap();
    holds(watchdog::quiet(&events));
}

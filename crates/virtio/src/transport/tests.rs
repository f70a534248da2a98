use std::sync::{Arc, Mutex};

use device::{Access, Device, Effect, Events, NoSink, Persist};
use memory::GuestRam;
use pci::{Address, BarKind, FakeSource, REGION_CONFIG};

use super::{Phase, Place, VirtioPci};
use crate::fake::{FakeQueue, WRITE};
use crate::{ActiveQueue, Fault, Handler, Info, VirtioDevice, Worker, Workers, feature};

struct Nothing;

impl Handler for Nothing {
    fn queue(&mut self, position: usize, queues: &mut [ActiveQueue], ram: &GuestRam) -> Result<(), Fault> {
        queues[position].serve(ram.map(), |_| Ok(Some(0)))
    }
}

struct Device0 {
    info: Info,
    workers: Workers,
    config: Arc<Mutex<[u8; 8]>>,
}

impl VirtioDevice for Device0 {
    fn info(&self) -> &Info {
        &self.info
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.copy_from_slice(&self.config.lock().unwrap()[offset as usize..][..data.len()]);
    }

    fn workers(&mut self) -> &mut Workers {
        &mut self.workers
    }
}

fn function(ram: &GuestRam) -> VirtioPci {
    let info =
        Info { id: "d".into(), device_type: 2, queue_sizes: vec![16, 16], features: 1 << 9, config_len: 8 };
    let workers =
        Workers::new(vec![(Worker::spawn(sandbox::Kind::Block, "d", Nothing).unwrap(), vec![0, 1])]);
    let device = Device0 { info, workers, config: Arc::new(Mutex::new([1, 2, 3, 4, 5, 6, 7, 8])) };
    let place = Place {
        address: Address { segment: 0, slot: 2 },
        bar: (0xc000_0000, BarKind::Memory32),
        msi: &FakeSource::default(),
        ram,
        events: &Events::new(Arc::new(NoSink)).unwrap(),
    };
    VirtioPci::new(Box::new(device), &place).unwrap()
}

fn read<const N: usize>(function: &mut VirtioPci, offset: u64) -> [u8; N] {
    let mut data = [0xff; N];
    function.read(Access { region: 0, offset }, &mut data);
    data
}

fn write(function: &mut VirtioPci, offset: u64, data: &[u8]) {
    assert_eq!(function.write(Access { region: 0, offset }, data), Effect::None);
}

/// Does what a driver does up to `status`, with queue 0 as laid out by `queue`.
fn negotiate(function: &mut VirtioPci, queue_base: u64, status: u8) {
    write(function, 0x14, &[0]);
    write(function, 0x14, &[3]);
    write(function, 0x08, &1u32.to_le_bytes());
    write(function, 0x0c, &((feature::VERSION_1 >> 32) as u32).to_le_bytes());
    write(function, 0x14, &[0xb]);
    write(function, 0x16, &[0, 0]);
    write(function, 0x20, &queue_base.to_le_bytes());
    write(function, 0x28, &(queue_base as u32 + 0x1000).to_le_bytes());
    write(function, 0x30, &(queue_base + 0x2000).to_le_bytes());
    write(function, 0x1c, &[1, 0]);
    write(function, 0x14, &[status]);
}

fn wait_for_reset(function: &mut VirtioPci) {
    while read::<1>(function, 0x14) != [0] {
        std::thread::yield_now();
    }
}

#[test]
fn a_driver_brings_the_device_up_and_down_again() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    let mut function = function(&ram);
    let mut queue = FakeQueue::new(&ram, 0, 16);
    negotiate(&mut function, 0, 0xf);
    assert_eq!((read(&mut function, 0x14), function.phase), ([0xf], Phase::Running));
    queue.add(&[(0x1_0000, 4, WRITE)]);
    write(&mut function, 0x6000, &[0, 0]);
    while queue.used().is_empty() {
        std::thread::yield_now();
    }
    write(&mut function, 0x14, &[0]);
    wait_for_reset(&mut function);
    assert_eq!(function.phase, Phase::Idle);
    assert_eq!(read(&mut function, 0x1c), [0, 0]);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    let mut function = function(&ram);
    write(&mut function, 0x08, &0u32.to_le_bytes());
    write(&mut function, 0x0c, &1u32.to_le_bytes());
    write(&mut function, 0x14, &[0xb]);
    assert_eq!(read(&mut function, 0x14), [3]);
}

#[test]
fn queues_outside_ram_break_the_device_and_a_reset_mends_it() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    let mut function = function(&ram);
    negotiate(&mut function, 0x1_f000, 0xf);
    assert_eq!(read(&mut function, 0x14), [0x4f]);
    assert_eq!(read(&mut function, 0x2000), [2]);
    assert_eq!(read(&mut function, 0x2000), [0]);
    negotiate(&mut function, 0, 0xf);
    assert_eq!(read(&mut function, 0x14), [0xf]);
}

#[test]
fn a_pause_keeps_the_progress_of_queues() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    let mut function = function(&ram);
    let mut queue = FakeQueue::new(&ram, 0, 16);
    negotiate(&mut function, 0, 0xf);
    for round in 1..4 {
        queue.add(&[(0x1_0000, 4, WRITE)]);
        write(&mut function, 0x6000, &[0, 0]);
        while queue.used().len() < round {
            std::thread::yield_now();
        }
        function.pause();
        assert_eq!(function.phase, Phase::Paused);
        let saved = Device::save(&function).unwrap();
        Device::restore(&mut function, &saved).unwrap();
        function.resume();
        assert_eq!(function.phase, Phase::Running);
    }
}

#[test]
fn the_window_in_configuration_space_reaches_the_bar() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    let mut function = function(&ram);
    let at = function.window as u64;
    let mut config = |offset, data: &[u8]| {
        assert_eq!(function.write(Access { region: REGION_CONFIG, offset }, data), Effect::None);
        let mut value = [0; 4];
        function.read(Access { region: REGION_CONFIG, offset: at + 16 }, &mut value);
        u32::from_le_bytes(value)
    };
    config(at + 8, &0x4004u32.to_le_bytes());
    assert_eq!(config(at + 12, &4u32.to_le_bytes()), 0x0807_0605);
    config(at + 8, &0u32.to_le_bytes());
    assert_eq!(config(at + 16, &1u32.to_le_bytes()), 1);
    config(at + 8, &u32::MAX.to_le_bytes());
    config(at + 16, &[1; 4]);
}

#[test]
fn device_configuration_is_bounded() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    let mut function = function(&ram);
    assert_eq!(read(&mut function, 0x4006), [7, 8]);
    assert_eq!(read(&mut function, 0x4006), [0xff; 4]);
    assert_eq!(read(&mut function, 0x5fff), [0xff]);
}

#[test]
fn the_device_contract_holds() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    device::contract::check(&mut function(&ram));
}

#[test]
fn a_state_with_other_queues_is_refused() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    let mut function = function(&ram);
    let mut state = Persist::save(&function);
    state.common = super::Common::new(&Info { queue_sizes: vec![16], ..function.device.info().clone() });
    assert!(Persist::restore(&mut function, state).is_err());
}

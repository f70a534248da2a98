use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use device::{Access, Device, Effect, Events, NoSink, Persist, Stateful, Stateless};
use memory::GuestRam;
use pci::{Address, BarKind, FakeSource, Place, REGION_CONFIG};

use super::{MAX_QUEUES, Phase, Then, VirtioPci};
use crate::fake::{FakeQueue, WRITE};
use crate::{Context, Fault, Handler, Info, QueueServer, VirtioDevice, Worker, Workers, feature};

/// A chain with so many writable bytes breaks the device.
const BREAKS: u32 = 99;

static PROFILE: sandbox::Profile = sandbox::Profile::new("nothing", &[sandbox::groups::EPOLL]);

struct Nothing;

impl Handler for Nothing {
    fn queue(&mut self, position: usize, context: &mut Context<'_>) -> Result<(), Fault> {
        context.queues[position].serve(context.ram, |chain| match chain.writable().map(|d| d.len()).sum() {
            BREAKS => Err(Fault::Protocol("a buffer of this length")),
            _ => Ok(Some(0)),
        })
    }
}

struct Device0 {
    info: Info,
    workers: Workers,
    config: Arc<Mutex<[u8; 8]>>,
}

impl Stateless for Device0 {
    const KIND: &'static str = "test";
}

impl VirtioDevice for Device0 {
    fn info(&self) -> &Info {
        &self.info
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.copy_from_slice(&self.config.lock().unwrap()[offset as usize..][..data.len()]);
    }

    fn server(&mut self) -> &mut dyn QueueServer {
        &mut self.workers
    }
}

fn function(ram: &GuestRam) -> VirtioPci {
    function_with(ram, &FakeSource::default(), Nothing, 2).unwrap()
}

fn function_with(
    ram: &GuestRam,
    msi: &FakeSource,
    handler: impl Handler,
    queues: usize,
) -> std::io::Result<VirtioPci> {
    let queue_sizes = vec![16; queues];
    let info = Info { id: "d".into(), device_type: 2, queue_sizes, features: 1 << 9, config_len: 8 };
    let workers = Workers::new(vec![(Worker::spawn(&PROFILE, "d", handler).unwrap(), vec![0, 1])]);
    let device = Device0 { info, workers, config: Arc::new(Mutex::new([1, 2, 3, 4, 5, 6, 7, 8])) };
    let place = Place { address: Address { segment: 0, slot: 2 }, bars: &[0xc000_0000], memory: None, msi };
    let events = Events::new(Arc::new(NoSink)).unwrap();
    VirtioPci::new(Box::new(device), BarKind::Memory32, &place, ram.dma(), events)
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
    negotiate_by(|offset, data| write(function, offset, data), queue_base, status);
}

fn negotiate_by(mut write: impl FnMut(u64, &[u8]), queue_base: u64, status: u8) {
    write(0x14, &[0]);
    write(0x14, &[3]);
    write(0x08, &1u32.to_le_bytes());
    write(0x0c, &((feature::VERSION_1 >> 32) as u32).to_le_bytes());
    write(0x14, &[0xb]);
    write(0x16, &[0, 0]);
    write(0x20, &queue_base.to_le_bytes());
    write(0x28, &(queue_base as u32 + 0x1000).to_le_bytes());
    write(0x30, &(queue_base + 0x2000).to_le_bytes());
    write(0x1c, &[1, 0]);
    write(0x14, &[status]);
}

fn wait_for_reset(function: &mut VirtioPci) {
    while read::<1>(function, 0x14) != [0] {
        std::thread::yield_now();
    }
}

fn pause(function: &mut VirtioPci) {
    function.pause();
    assert!(function.is_paused(Instant::now() + Duration::from_secs(30)));
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
fn misaligned_queues_break_the_device() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    for (register, address) in [(0x20, 0x4008u64), (0x28, 0x5001), (0x30, 0x6002)] {
        let mut function = function(&ram);
        negotiate_by(
            |offset, data| {
                let misaligned = address.to_le_bytes();
                write(&mut function, offset, if offset == register { &misaligned } else { data });
            },
            0x4000,
            0xf,
        );
        assert_eq!(read(&mut function, 0x14), [0x4f], "{address:#x}");
    }
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
        pause(&mut function);
        assert_eq!(function.phase, Phase::Paused);
        let saved = function.to_saved().unwrap();
        function.restore_saved(&saved).unwrap();
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
    device::contract::check_after(&mut function(&ram), |function| {
        fn put(function: &mut dyn Device, offset: u64, data: &[u8]) {
            assert_eq!(function.write(Access { region: 0, offset }, data), Effect::None);
        }
        negotiate_by(|offset, data| put(function, offset, data), 0, 0xf);
    });
}

#[test]
fn a_state_with_other_queues_is_refused() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    let mut function = function(&ram);
    let mut state = Persist::save(&function);
    state.common = super::Common::new(&Info { queue_sizes: vec![16], ..function.device.info().clone() });
    assert!(Persist::restore(&mut function, state).is_err());
}

#[test]
fn only_a_reset_clears_status_bits() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    let mut function = function(&ram);
    negotiate(&mut function, 0, 0xf);
    write(&mut function, 0x14, &[3]);
    assert_eq!(read(&mut function, 0x14), [0xf]);
    // Features and queues are settled still.
    write(&mut function, 0x08, &0u32.to_le_bytes());
    write(&mut function, 0x0c, &u32::MAX.to_le_bytes());
    write(&mut function, 0x18, &[4, 0]);
    assert_eq!(read(&mut function, 0x0c), [0; 4]);
    assert_eq!(read(&mut function, 0x18), [16, 0]);
    pause(&mut function);
    function.resume();
    assert_eq!(read(&mut function, 0x14), [0xf]);
}

#[test]
fn a_driver_that_skips_the_features_is_not_ready() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    let mut function = function(&ram);
    write(&mut function, 0x14, &[7]);
    assert_eq!((read(&mut function, 0x14), function.phase), ([3], Phase::Idle));
}

#[test]
fn features_written_and_not_settled_are_part_of_a_state() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    let mut function = function(&ram);
    write(&mut function, 0x0c, &u32::MAX.to_le_bytes());
    let saved = function.to_saved().unwrap();
    function.reset();
    function.restore_saved(&saved).unwrap();
    assert_eq!(read(&mut function, 0x0c), [0xff; 4]);
    write(&mut function, 0x14, &[0xb]);
    assert_eq!(read(&mut function, 0x14), [3]);
}

#[test]
fn pause_and_resume_do_not_revive_a_broken_device_but_a_reset_does() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    let mut function = function(&ram);
    let mut queue = FakeQueue::new(&ram, 0, 16);
    negotiate(&mut function, 0, 0xf);
    queue.add(&[(0x1_0000, BREAKS, WRITE)]);
    write(&mut function, 0x6000, &[0, 0]);
    while read::<1>(&mut function, 0x14) != [0x4f] {
        std::thread::yield_now();
    }
    pause(&mut function);
    let saved = function.to_saved().unwrap();
    function.resume();
    assert_eq!((read(&mut function, 0x14), read(&mut function, 0x2000)), ([0x4f], [2]));
    // What is made available now waits for ever.
    queue.add(&[(0x1_0000, 4, WRITE)]);
    write(&mut function, 0x6000, &[0, 0]);
    pause(&mut function);
    assert!(queue.used().is_empty());
    // As for a device that is restored: it is as broken as the one that was saved.
    function.reset();
    function.restore_saved(&saved).unwrap();
    function.resume();
    assert_eq!((read(&mut function, 0x14), read(&mut function, 0x2000)), ([0x4f], [2]));
    write(&mut function, 0x14, &[0]);
    wait_for_reset(&mut function);
    let mut queue = FakeQueue::new(&ram, 0x4000, 16);
    negotiate(&mut function, 0x4000, 0xf);
    queue.add(&[(0x1_0000, 4, WRITE)]);
    write(&mut function, 0x6000, &[0, 0]);
    while queue.used().is_empty() {
        std::thread::yield_now();
    }
}

#[test]
fn a_vector_written_to_a_running_queue_counts() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    let source = FakeSource::default();
    let mut function = function_with(&ram, &source, Nothing, 2).unwrap();
    let mut queue = FakeQueue::new(&ram, 0, 16);
    negotiate(&mut function, 0, 0xf);
    write(&mut function, 0x8010, &0xfee0_0000u64.to_le_bytes());
    write(&mut function, 0x8018, &7u64.to_le_bytes());
    let enable = [0xff, 0x80];
    let at = Access { region: REGION_CONFIG, offset: function.msix_at as u64 + 2 };
    assert_eq!(function.write(at, &enable), Effect::None);
    write(&mut function, 0x1a, &[1, 0]);
    assert_eq!(read(&mut function, 0x1a), [1, 0]);
    queue.add(&[(0x1_0000, 4, WRITE)]);
    write(&mut function, 0x6000, &[0, 0]);
    while source.fired().is_empty() {
        std::thread::yield_now();
    }
    assert_eq!(source.fired()[0].data, 7);
}

/// Serves nothing until it is told to go on, not even a stop.
struct Stuck(mpsc::Receiver<()>);

impl Handler for Stuck {
    fn queue(&mut self, _: usize, _: &mut Context<'_>) -> Result<(), Fault> {
        Ok(())
    }

    fn stop(&mut self, _: &mut Context<'_>) {
        let _ = self.0.recv();
    }
}

#[test]
fn a_device_that_is_late_to_hold_still_goes_on_as_soon_as_it_does() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    let (go_on, wait) = mpsc::channel();
    let mut function = function_with(&ram, &FakeSource::default(), Stuck(wait), 2).unwrap();
    negotiate(&mut function, 0, 0xf);
    function.pause();
    assert!(!function.is_paused(Instant::now()));
    function.resume();
    assert_eq!(function.phase, Phase::Stopping(Then::Resume));
    go_on.send(()).unwrap();
    // What control does when it hears the news.
    while !function.events.take().has(device::Event::News) {
        std::thread::yield_now();
    }
    assert!(function.is_paused(Instant::now() + Duration::from_secs(30)));
    assert_eq!(function.phase, Phase::Running);
    go_on.send(()).unwrap();
}

#[test]
fn a_reset_forgets_nothing_before_the_queues_are_back() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    let (go_on, wait) = mpsc::channel();
    let mut function = function_with(&ram, &FakeSource::default(), Stuck(wait), 2).unwrap();
    negotiate(&mut function, 0, 0xf);
    function.reset();
    assert_eq!((read(&mut function, 0x14), function.phase), ([0xf], Phase::Stopping(Then::Reset)));
    // Until then no driver can bring the device up a second time.
    write(&mut function, 0x14, &[0]);
    negotiate(&mut function, 0, 0xf);
    assert_eq!(function.phase, Phase::Stopping(Then::Reset));
    go_on.send(()).unwrap();
    wait_for_reset(&mut function);
    assert_eq!(function.phase, Phase::Idle);
}

#[test]
fn no_more_queues_than_bells() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    let source = FakeSource::default();
    assert!(function_with(&ram, &source, Nothing, MAX_QUEUES).is_ok());
    assert!(function_with(&ram, &source, Nothing, MAX_QUEUES + 1).is_err());
}

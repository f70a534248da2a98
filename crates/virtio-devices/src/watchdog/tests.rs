use super::*;

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use device::{Event, NoSink, Persist, Stateful};
use host::{ControlOperation, Epoll, EpollEvent, EventSet};
use memory::{Bytes, GuestAddress, GuestRam};
use virtio::VirtioDevice;
use virtio::fake::{self, FakeInterrupt, FakeQueue, WRITE};

const BUFFER: u64 = 0x1_0000;
const OUTSIDE: u64 = 0x10_0000;

struct Rig {
    ram: GuestRam,
    queue: FakeQueue,
    front: Front,
    events: Events,
    now_s: Arc<AtomicU64>,
}

/// A watchdog that looks every millisecond at a clock the test moves.
fn rig() -> Rig {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    let queue = FakeQueue::new(&ram, 0, 8);
    let events = Events::new(Arc::new(NoSink)).unwrap();
    let now_s = Arc::new(AtomicU64::new(1000));
    let read = now_s.clone();
    let clock = Box::new(move || Duration::from_secs(read.load(Ordering::SeqCst)));
    let front = front("__watchdog", &events, Timing { clock, interval: Duration::from_millis(1) }).unwrap();
    Rig { ram, queue, front, events, now_s }
}

impl Rig {
    fn start(&mut self) -> Arc<FakeInterrupt> {
        let (activation, config) = fake::activation(&self.ram, 0, &[&self.queue]);
        self.front.start(activation);
        config
    }

    fn stop(&mut self) {
        self.front.stop();
        assert_eq!(self.front.stopped(Instant::now() + Duration::from_secs(30)).unwrap().len(), 1);
    }

    fn ping(&mut self) {
        self.queue.add(&[(BUFFER, 1, WRITE)]);
        self.queue.ring();
        assert_eq!(self.queue.wait_used().1, 1);
    }

    fn wait_for_reset(&self) {
        let epoll = Epoll::new().unwrap();
        let event = EpollEvent::new(EventSet::IN, 0);
        epoll.ctl(ControlOperation::Add, self.events.wake_fd().as_raw_fd(), event).unwrap();
        assert_eq!(epoll.wait(20_000, &mut [EpollEvent::default()]).unwrap(), 1);
        assert!(self.events.take().has(Event::Reset));
    }
}

#[test]
fn a_ping_is_answered_and_arms() {
    let mut rig = rig();
    rig.start();
    rig.ping();
    assert_eq!(rig.ram.map().read_obj::<u8>(GuestAddress(BUFFER)).unwrap(), 1);
    rig.stop();
    assert_eq!(Persist::save(&rig.front), State { armed: true });
    rig.front.reset();
    assert_eq!(Persist::save(&rig.front), State { armed: false });
}

#[test]
fn silence_resets_the_guest_after_the_first_ping_only() {
    let mut rig = rig();
    rig.start();
    rig.now_s.store(2000, Ordering::SeqCst);
    rig.ping();
    rig.now_s.store(2020, Ordering::SeqCst);
    rig.ping();
    rig.now_s.store(2040, Ordering::SeqCst);
    rig.ping();
    assert!(!rig.events.take().has(Event::Reset));
    rig.now_s.store(2061, Ordering::SeqCst);
    rig.wait_for_reset();
}

#[test]
fn a_paused_guest_has_its_time_again() {
    let mut rig = rig();
    rig.start();
    rig.ping();
    rig.stop();
    rig.now_s.store(9000, Ordering::SeqCst);
    let saved = rig.front.to_saved().unwrap();
    assert!(!rig.events.take().has(Event::Reset));

    let mut restored = self::rig();
    restored.front.restore_saved(&saved).unwrap();
    restored.now_s.store(5000, Ordering::SeqCst);
    restored.start();
    // Stopping waits for the thread, so the timer was armed at 5000 before the clock moves.
    restored.stop();
    restored.now_s.store(5015, Ordering::SeqCst);
    restored.start();
    restored.stop();
    assert!(!restored.events.take().has(Event::Reset));
    restored.start();
    restored.now_s.store(99_000, Ordering::SeqCst);
    // The thread may have begun before or after the clock moved: only the next move is certain to be seen.
    restored.ping();
    restored.now_s.store(199_000, Ordering::SeqCst);
    restored.wait_for_reset();
}

#[test]
fn hostile_pings_break_only_the_device() {
    for descriptor in
        [(BUFFER, 1, 0, 0), (BUFFER, 0, WRITE, 0), (OUTSIDE, 1, WRITE, 0), (u64::MAX, 1, WRITE, 0)]
    {
        let mut rig = rig();
        let config = rig.start();
        rig.queue.write_descriptor(0, descriptor);
        rig.queue.offer(0);
        rig.queue.ring();
        config.wait(1);
        rig.stop();
        assert_eq!(Persist::save(&rig.front), State { armed: false });
    }
}

#[test]
fn what_it_is() {
    let events = Events::new(Arc::new(NoSink)).unwrap();
    let start = Instant::now();
    let timing = Timing { clock: Box::new(move || start.elapsed()), interval: INTERVAL };
    let front = front("__watchdog", &events, timing).unwrap();
    let info = front.info();
    assert_eq!((info.device_type, info.features, info.config_len), (35, 0, 0));
    assert_eq!(info.queue_sizes, [8]);
}

#[test]
fn the_contract_holds() {
    let timing = Timing { clock: Box::new(|| Duration::ZERO), interval: INTERVAL };
    let events = Events::new(Arc::new(NoSink)).unwrap();
    crate::tests::holds(front("__watchdog", &events, timing).unwrap());
}

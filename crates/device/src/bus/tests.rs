use super::*;

use std::sync::mpsc;
use std::time::Duration;

/// One byte-wide register per address, at a base the guest can move by writing to offset 0.
struct Movable {
    base: u64,
    former: u64,
    last_write: u8,
}

impl Device for Movable {
    fn regions(&self) -> Vec<Region> {
        vec![Region::new(Space::Mmio, self.base, 0x10, 7)]
    }

    fn read(&mut self, at: Access, data: &mut [u8]) {
        assert_eq!(at.region, 7);
        data[0] = at.offset as u8;
    }

    fn write(&mut self, at: Access, data: &[u8]) -> Effect {
        self.last_write = data[0];
        if at.offset != 0 {
            return Effect::None;
        }
        self.former = self.base;
        self.base = u64::from(data[0]) * 0x10;
        Effect::Remap
    }

    fn reset(&mut self) {}

    fn undo_remap(&mut self) {
        self.base = self.former;
    }
}

impl crate::Stateless for Movable {
    const KIND: &'static str = "movable";
}

fn movable(base: u64) -> Arc<Mutex<Movable>> {
    Arc::new(Mutex::new(Movable { base, former: base, last_write: 0 }))
}

fn read(spaces: &AddressSpaces, address: u64) -> u8 {
    let mut data = [0];
    spaces.read(Space::Mmio, address, &mut data);
    data[0]
}

#[test]
fn the_last_of_all_addresses_is_one_like_others() {
    let spaces = AddressSpaces::new(Arc::new(NoDoorbells));
    let slot: Slot = movable(u64::MAX - 0xf);
    spaces.attach(&slot).unwrap();
    assert_eq!(read(&spaces, u64::MAX), 0xf);
    let mut beyond = [0; 2];
    spaces.read(Space::Mmio, u64::MAX, &mut beyond);
    assert_eq!(beyond, [0xff; 2]);
}

#[test]
fn only_addresses_inside_a_region_reach_the_device() {
    let spaces = AddressSpaces::new(Arc::new(NoDoorbells));
    let slot: Slot = movable(0x100);
    spaces.attach(&slot).unwrap();
    assert_eq!(
        [read(&spaces, 0xff), read(&spaces, 0x100), read(&spaces, 0x10f), read(&spaces, 0x110)],
        [0xff, 0, 0xf, 0xff]
    );
    let mut across_the_end = [0; 4];
    spaces.read(Space::Mmio, 0x10e, &mut across_the_end);
    assert_eq!(across_the_end, [0xff; 4]);
    let mut other_space = [0];
    spaces.read(Space::Pio, 0x100, &mut other_space);
    assert_eq!(other_space, [0xff]);
    spaces.read(Space::Mmio, u64::MAX, &mut across_the_end);
    assert_eq!(across_the_end, [0xff; 4]);
    spaces.detach(slot, Instant::now());
    assert_eq!(read(&spaces, 0x101), 0xff);
}

#[test]
fn overlapping_devices_are_refused() {
    let spaces = AddressSpaces::new(Arc::new(NoDoorbells));
    spaces.attach(&(movable(0x100) as Slot)).unwrap();
    for base in [0xf1, 0x100, 0x10f] {
        let error = spaces.attach(&(movable(base) as Slot)).unwrap_err();
        assert_eq!(error, Collision { space: Space::Mmio, base, end: base + 0xf });
    }
    spaces.attach(&(movable(0x110) as Slot)).unwrap();
}

#[test]
fn a_device_moves_and_a_colliding_move_is_taken_back() {
    let spaces = AddressSpaces::new(Arc::new(NoDoorbells));
    let device = movable(0x100);
    spaces.attach(&(device.clone() as Slot)).unwrap();
    spaces.attach(&(movable(0x200) as Slot)).unwrap();
    assert_eq!(spaces.write(Space::Mmio, 0x100, &[0x30]), Effect::None);
    assert_eq!((read(&spaces, 0x100), read(&spaces, 0x301)), (0xff, 1));
    assert_eq!(spaces.write(Space::Mmio, 0x300, &[0x20]), Effect::None);
    assert_eq!(read(&spaces, 0x301), 1);
    assert_eq!(device.lock().unwrap().base, 0x300);
}

/// Lets a test meet a vCPU inside of a device, and tells on which thread the device ends.
struct Rendezvous {
    inside: mpsc::Sender<()>,
    go_on: mpsc::Receiver<Effect>,
    ended: mpsc::Sender<thread::ThreadId>,
}

impl Device for Rendezvous {
    fn regions(&self) -> Vec<Region> {
        vec![Region::new(Space::Mmio, 0x100, 0x10, 0)]
    }

    fn read(&mut self, _: Access, _: &mut [u8]) {}

    fn write(&mut self, _: Access, _: &[u8]) -> Effect {
        self.inside.send(()).unwrap();
        self.go_on.recv().unwrap()
    }

    fn reset(&mut self) {}
}

impl crate::Stateless for Rendezvous {
    const KIND: &'static str = "rendezvous";
}

impl Drop for Rendezvous {
    fn drop(&mut self) {
        self.ended.send(thread::current().id()).unwrap();
    }
}

#[test]
fn a_device_removed_while_the_guest_moves_it_stays_away_and_ends_on_the_remover_s_thread() {
    let spaces = AddressSpaces::new(Arc::new(NoDoorbells));
    let ((inside, is_inside), (go, go_on), (ended, has_ended)) =
        (mpsc::channel(), mpsc::channel(), mpsc::channel());
    let slot: Slot = Arc::new(Mutex::new(Rendezvous { inside, go_on, ended }));
    spaces.attach(&slot).unwrap();
    thread::scope(|scope| {
        let vcpu = scope.spawn(|| spaces.write(Space::Mmio, 0x100, &[0]));
        is_inside.recv().unwrap();
        let remover = scope.spawn(|| {
            spaces.detach(slot, Instant::now() + Duration::from_secs(60));
            thread::current().id()
        });
        // The addresses go first; only then may the guest's write come to its end.
        while spaces.answers(Space::Mmio, 0x100) {
            thread::yield_now();
        }
        go.send(Effect::Remap).unwrap();
        assert_eq!(vcpu.join().unwrap(), Effect::None);
        assert_eq!(remover.join().unwrap(), has_ended.recv().unwrap());
    });
    assert!(!spaces.answers(Space::Mmio, 0x100));
}

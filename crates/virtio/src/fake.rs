//! A driver for tests: lays out queues in test RAM by hand, so that it can also lay them out wrongly.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use device::{Events, Interrupt, NoSink};
use host::EventFd;
use memory::{Bytes, GuestAddress, GuestRam};
use virtio_queue::{Queue, QueueT};

use crate::{Activation, ActiveQueue, Signals};

/// Descriptor flag: the chain goes on at `next`.
pub const NEXT: u16 = 1;
/// Descriptor flag: the device writes here.
pub const WRITE: u16 = 2;
/// Descriptor flag: the buffer is a table of descriptors.
pub const INDIRECT: u16 = 4;

/// Counts interrupts and lets a test wait for them.
#[derive(Debug, Default)]
pub struct FakeInterrupt {
    count: Mutex<usize>,
    fired: Condvar,
}

impl FakeInterrupt {
    /// Interrupts so far.
    pub fn count(&self) -> usize {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there were at least `count` interrupts.
    ///
    /// # Panics
    /// After ten seconds without.
    pub fn wait(&self, count: usize) {
        let guard = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let enough = self.fired.wait_timeout_while(guard, Duration::from_secs(10), |n| *n < count);
        let (guard, timeout) = enough.unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "{} interrupts instead of {count}", *guard);
    }
}

impl Interrupt for FakeInterrupt {
    fn fire(&self) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.fired.notify_all();
    }
}

/// One descriptor: address, length, flags, next.
pub type Descriptor = (u64, u32, u16, u16);

/// The driver's side of one queue. Its rings take 0x3000 bytes from `base`: descriptors, available, used.
pub struct FakeQueue {
    ram: GuestRam,
    base: u64,
    size: u16,
    next_descriptor: u16,
    avail_index: u16,
    used_seen: AtomicUsize,
    /// The bell of this queue.
    pub kick: Arc<EventFd>,
    /// What the device answers with.
    pub interrupt: Arc<FakeInterrupt>,
}

impl FakeQueue {
    /// Rings of `size` (at most 256) at `base` in `ram`.
    ///
    /// # Panics
    /// If there is no descriptor left for the bell.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn new(ram: &GuestRam, base: u64, size: u16) -> Self {
        let kick = Arc::new(host::event_fd().expect("eventfd"));
        let (ram, interrupt) = (ram.clone(), Arc::default());
        Self {
            ram,
            base,
            size,
            next_descriptor: 0,
            avail_index: 0,
            used_seen: AtomicUsize::new(0),
            kick,
            interrupt,
        }
    }

    /// The device's side of the queue.
    ///
    /// # Panics
    /// If `size` is no queue size.
    #[allow(clippy::expect_used)]
    pub fn active(&self, index: u16) -> ActiveQueue {
        let mut queue = Queue::new(self.size).expect("queue size");
        queue.set_desc_table_address(Some(self.base as u32), Some((self.base >> 32) as u32));
        queue.set_avail_ring_address(Some(self.base as u32 + 0x1000), Some((self.base >> 32) as u32));
        queue.set_used_ring_address(Some(self.base as u32 + 0x2000), Some((self.base >> 32) as u32));
        queue.set_ready(true);
        ActiveQueue::new(index, queue, self.kick.clone(), self.interrupt.clone())
    }

    /// Writes a descriptor as it is, however wrong.
    ///
    /// # Panics
    /// If the queue does not lie in RAM.
    pub fn write_descriptor(&self, index: u16, (address, len, flags, next): Descriptor) {
        let at = self.base + u64::from(index) * 16;
        self.put(at, &address.to_le_bytes());
        self.put(at + 8, &len.to_le_bytes());
        self.put(at + 12, &flags.to_le_bytes());
        self.put(at + 14, &next.to_le_bytes());
    }

    /// Makes a chain of `(address, length, WRITE or 0)` available and returns its head.
    ///
    /// # Panics
    /// If the queue does not lie in RAM.
    pub fn add(&mut self, buffers: &[(u64, u32, u16)]) -> u16 {
        let head = self.next_descriptor;
        for (i, (address, len, flags)) in buffers.iter().enumerate() {
            let index = self.next_descriptor;
            self.next_descriptor = (index + 1) % self.size;
            let more = if i + 1 < buffers.len() { NEXT } else { 0 };
            self.write_descriptor(index, (*address, *len, flags | more, self.next_descriptor));
        }
        self.offer(head);
        head
    }

    /// The head that the next chain will have.
    pub fn next_head(&self) -> u16 {
        self.next_descriptor
    }

    /// Makes `head` available as it is.
    ///
    /// # Panics
    /// If the queue does not lie in RAM.
    pub fn offer(&mut self, head: u16) {
        let slot = u64::from(self.avail_index % self.size);
        self.put(self.base + 0x1000 + 4 + slot * 2, &head.to_le_bytes());
        self.set_avail_index(self.avail_index.wrapping_add(1));
    }

    /// Sets the available index as it is.
    ///
    /// # Panics
    /// If the queue does not lie in RAM.
    pub fn set_avail_index(&mut self, index: u16) {
        self.avail_index = index;
        self.put(self.base + 0x1000 + 2, &index.to_le_bytes());
    }

    /// Rings the bell.
    ///
    /// # Panics
    /// If the bell is broken.
    #[allow(clippy::expect_used)]
    pub fn ring(&self) {
        self.kick.write(1).expect("bell");
    }

    /// Answers so far: head and bytes written.
    ///
    /// # Panics
    /// If the queue does not lie in RAM.
    pub fn used(&self) -> Vec<(u32, u32)> {
        let count = self.get::<u16>(self.base + 0x2000 + 2);
        (0..count)
            .map(|i| {
                let at = self.base + 0x2000 + 4 + u64::from(i % self.size) * 8;
                (self.get(at), self.get(at + 4))
            })
            .collect()
    }

    /// Waits for the next answer that no `wait_used` has returned yet.
    ///
    /// # Panics
    /// After ten seconds without an answer.
    pub fn wait_used(&self) -> (u32, u32) {
        let wanted = self.used_seen.fetch_add(1, Ordering::SeqCst);
        let mut interrupts = 0;
        loop {
            if let Some(answer) = self.used().get(wanted) {
                return *answer;
            }
            interrupts = self.interrupt.count().max(interrupts) + 1;
            if self.used().len() <= wanted {
                self.interrupt.wait(interrupts);
            }
        }
    }

    #[allow(clippy::expect_used)]
    fn put(&self, at: u64, bytes: &[u8]) {
        self.ram.map().write_slice(bytes, GuestAddress(at)).expect("queue in RAM");
    }

    #[allow(clippy::expect_used)]
    fn get<T: memory::ByteValued>(&self, at: u64) -> T {
        self.ram.map().read_obj(GuestAddress(at)).expect("queue in RAM")
    }
}

/// Everything a device wants at DRIVER_OK, with the given queues by rising index, and the configuration interrupt.
///
/// # Panics
/// If there is no descriptor left.
#[allow(clippy::expect_used)]
pub fn activation(ram: &GuestRam, features: u64, queues: &[&FakeQueue]) -> (Activation, Arc<FakeInterrupt>) {
    let config = Arc::new(FakeInterrupt::default());
    let events = Events::new(Arc::new(NoSink)).expect("eventfd");
    let signals = Arc::new(Signals::new(config.clone(), events));
    let queues = (0u16..).zip(queues).map(|(index, q)| q.active(index)).collect();
    (Activation { ram: ram.dma(), features, queues, signals }, config)
}

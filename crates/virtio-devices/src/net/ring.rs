//! What both directions of the data path share: a chain becomes a frame, and a batch decides when the driver hears of it.

use ::net::{Frame, HEADER_LEN};
use memory::{DmaView, GuestMemory, Permissions};
use virtio::{ActiveQueue, Chain, Fault};

use super::shared::Traffic;

/// Frames handled before other descriptors of the thread have their turn.
const TURN: u64 = 256;
/// Chains, and bytes, after which the driver hears of them though more are waiting: it can work on them meanwhile. With EVENT_IDX this
/// costs an interrupt only if the driver sleeps.
const NOTIFY_CHAINS: u64 = 32;
const NOTIFY_BYTES: u64 = 32 << 10;

/// The chain is no frame: a buffer lies outside RAM or has the wrong direction, there are too many, or the header does not fit.
pub(super) struct Malformed;

/// Appends the chain's buffers to `frame`, all of which the device is to write, or none.
pub(super) fn gather<'ram>(
    frame: &mut Frame<'_, 'ram>,
    chain: Chain<'ram>,
    ram: &'ram DmaView,
    writable: bool,
) -> Result<(), Malformed> {
    for descriptor in chain {
        if descriptor.is_write_only() != writable {
            return Err(Malformed);
        }
        let (address, len) = (descriptor.addr(), descriptor.len() as usize);
        let access = if writable { Permissions::Write } else { Permissions::Read };
        // It may cross from one region into the next.
        for slice in ram.get_slices(address, len, access).map_err(|_| Malformed)? {
            frame.push(&slice.map_err(|_| Malformed)?).map_err(|_| Malformed)?;
        }
    }
    if frame.len() < HEADER_LEN { Err(Malformed) } else { Ok(()) }
}

/// The chains handled since the thread last came by.
#[derive(Default)]
pub(super) struct Batch {
    /// Chains looked at, whatever became of them.
    turns: u64,
    frames: u64,
    bytes: u64,
    /// Chains given back, and bytes in them, that the driver has not heard of.
    silent_chains: u64,
    silent_bytes: u64,
}

impl Batch {
    /// Whether others should have their turn. Counts it.
    pub(super) fn is_over(&mut self) -> bool {
        self.turns += 1;
        self.turns > TURN
    }

    /// Gives a chain back whose frame of `len` bytes, header included, was moved.
    pub(super) fn moved(
        &mut self,
        queue: &mut ActiveQueue,
        ram: &DmaView,
        chain: (u16, u32),
        len: usize,
    ) -> Result<(), Fault> {
        let len = len.saturating_sub(HEADER_LEN) as u64;
        self.frames += 1;
        self.bytes = self.bytes.saturating_add(len);
        self.silent_bytes = self.silent_bytes.saturating_add(len);
        self.give_back(queue, ram, chain)
    }

    /// Gives a chain back: its head, and how many bytes were written to it.
    pub(super) fn give_back(
        &mut self,
        queue: &mut ActiveQueue,
        ram: &DmaView,
        (head, written): (u16, u32),
    ) -> Result<(), Fault> {
        queue.push(ram, head, written)?;
        self.silent_chains += 1;
        if self.silent_chains >= NOTIFY_CHAINS || self.silent_bytes >= NOTIFY_BYTES {
            self.notify(queue, ram)?;
        }
        Ok(())
    }

    /// Tells the driver the rest.
    pub(super) fn finish(
        mut self,
        queue: &mut ActiveQueue,
        ram: &DmaView,
        traffic: &Traffic,
    ) -> Result<(), Fault> {
        traffic.add(self.frames, self.bytes);
        if self.silent_chains > 0 { self.notify(queue, ram) } else { Ok(()) }
    }

    fn notify(&mut self, queue: &mut ActiveQueue, ram: &DmaView) -> Result<(), Fault> {
        (self.silent_chains, self.silent_bytes) = (0, 0);
        queue.notify(ram)
    }
}

//! The balloon's queues, on its thread.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use memory::{Bytes, DmaView, GuestAddress};
use virtio::{Chain, Context, Fault, Handler};

use super::PAGE;
use super::parts::Parts;

pub(super) const INFLATE: u16 = 0;
pub(super) const DEFLATE: u16 = 1;
pub(super) const REPORTING: u16 = 2;

/// Bytes of page numbers in a buffer; a longer one is not looked at.
const BUFFER_LIMIT: usize = 1024;
/// Page numbers in a buffer: 4 bytes each.
const NUMBERS: usize = BUFFER_LIMIT / 4;
/// Buffers of a chain that are looked at, so that a chain is done soon. Drivers send one.
const BUFFERS: usize = 16;
/// Ranges of a chain of reports that are looked at: as many as the queue has entries.
const REPORTS: usize = 32;

/// Takes what the guest gives.
pub(super) struct Taker {
    parts: Parts,
    /// Set by a reset, which ends all that was given.
    was_reset: Arc<AtomicBool>,
}

impl Taker {
    pub(super) fn new(was_reset: Arc<AtomicBool>) -> Self {
        Self { parts: Parts::default(), was_reset }
    }

    fn inflate(&mut self, chain: Chain<'_>, ram: &DmaView) -> Result<u32, Fault> {
        each_run(chain, ram, |start, len, page| match page {
            Some(PAGE) => discard(ram, start, len),
            Some(page) => {
                let complete = pages(start, len).filter_map(|address| self.parts.give(address, page));
                complete.for_each(|base| discard(ram, base, page));
            }
            None => refuse(start, len),
        })
    }

    fn deflate(&mut self, chain: Chain<'_>, ram: &DmaView) -> Result<u32, Fault> {
        if self.parts.is_empty() {
            return Ok(0);
        }
        each_run(chain, ram, |start, len, page| {
            if let Some(page) = page {
                pages(start, len).for_each(|address| self.parts.take(address, page));
            }
        })
    }
}

/// Takes the ranges that a driver calls free. The answer's length is theirs, taken or not: it tells the driver that we are done.
fn report(chain: Chain<'_>, ram: &DmaView) -> u32 {
    let mut reported = 0u32;
    for range in chain.writable().take(REPORTS) {
        discard(ram, range.addr().0, range.len().into());
        reported = reported.saturating_add(range.len());
    }
    reported
}

/// Reads page numbers and calls `act` for each run of neighbours, however often named, on host pages of one size: with the first address,
/// the length, and that size, which is `None` where there is no RAM.
fn each_run(
    chain: Chain<'_>,
    ram: &DmaView,
    mut act: impl FnMut(u64, u64, Option<u64>),
) -> Result<u32, Fault> {
    for buffer in chain.take(BUFFERS) {
        let len = usize::try_from(buffer.len()).unwrap_or(usize::MAX);
        if buffer.is_write_only() || len > BUFFER_LIMIT || !len.is_multiple_of(4) {
            continue;
        }
        let (mut bytes, mut numbers) = ([0; BUFFER_LIMIT], [0; NUMBERS]);
        let bytes = bytes.get_mut(..len).unwrap_or_default();
        ram.read_slice(bytes, buffer.addr()).map_err(|_| Fault::Protocol("a list of pages is not in RAM"))?;
        let (read, _) = bytes.as_chunks();
        numbers.iter_mut().zip(read).for_each(|(number, bytes)| *number = u32::from_le_bytes(*bytes));
        let numbers = numbers.get_mut(..len / 4).unwrap_or_default();
        numbers.sort_unstable();
        let host_page = |number: u32| ram.host_page(GuestAddress(u64::from(number) * PAGE));
        for run in numbers.chunk_by(|a, b| b - a <= 1 && host_page(*a) == host_page(*b)) {
            let [first, ..] = *run else { continue };
            let count = u64::from(run.last().map_or(0, |last| last - first)) + 1;
            act(u64::from(first) * PAGE, count * PAGE, host_page(first));
        }
    }
    Ok(0)
}

fn pages(start: u64, len: u64) -> impl Iterator<Item = u64> {
    (0..len / PAGE).map(move |page| start + page * PAGE)
}

/// What cannot be given back stays where it is: the guest does without it all the same.
fn discard(ram: &DmaView, start: u64, len: u64) {
    if let Err(error) = ram.discard(GuestAddress(start), len) {
        let why = error.source().map(|why| format!(": {why}")).unwrap_or_default();
        tracing::warn!(target: "guest", "The guest gives memory that stays: {error}{why}");
    }
}

fn refuse(start: u64, len: u64) {
    tracing::warn!(target: "guest", "The guest gives {len} bytes at {start:#x}, where it has no RAM");
}

impl Handler for Taker {
    fn start(&mut self, _: &mut Context<'_>, _: u64) -> Result<(), Fault> {
        if self.was_reset.swap(false, Ordering::SeqCst) {
            self.parts.clear();
        }
        Ok(())
    }

    fn queue(&mut self, position: usize, context: &mut Context<'_>) -> Result<(), Fault> {
        let ram = context.ram;
        let Some(queue) = context.queues.get_mut(position) else { return Ok(()) };
        match queue.index {
            INFLATE => queue.serve(ram, |chain| self.inflate(chain, ram).map(Some)),
            DEFLATE => queue.serve(ram, |chain| self.deflate(chain, ram).map(Some)),
            _ => queue.serve(ram, |chain| Ok(Some(report(chain, ram)))),
        }
    }
}

//! The region of a device: what is wanted of it, what is plugged, and the answers to requests.

use std::error::Error;
use std::ops::Range as Blockwise;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use memory::layout::Range;
use memory::{DmaView, GuestAddress};

use super::BLOCK;
use super::blocks::Blocks;
use super::request::{BlockState, Request, Response, Span};

/// A region, shared by front, worker and handles: a leaf.
pub(super) struct Region {
    pub(super) base: u64,
    pub(super) size: u64,
    requested: AtomicU64,
    /// Bytes; the same as `blocks` say, for whoever asks on the way.
    plugged: AtomicU64,
    blocks: Mutex<Blocks>,
}

impl Region {
    /// Nothing is plugged.
    pub(super) fn new((base, size): Range, requested: u64) -> Self {
        let blocks = Mutex::new(Blocks::new(usize::try_from(size / BLOCK).unwrap_or(0)));
        Self { base, size, requested: requested.into(), plugged: 0.into(), blocks }
    }

    /// Bytes that the guest is to have plugged.
    pub(super) fn requested(&self) -> u64 {
        self.requested.load(Ordering::SeqCst)
    }

    pub(super) fn request(&self, size: u64) {
        self.requested.store(size, Ordering::SeqCst);
    }

    /// Bytes that are plugged.
    pub(super) fn plugged(&self) -> u64 {
        self.plugged.load(Ordering::SeqCst)
    }

    fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plugged blocks, as runs.
    pub(super) fn runs(&self) -> Vec<(usize, usize)> {
        self.blocks().runs()
    }

    /// Takes what [`Region::runs`] has told. False, and nothing is changed, if there are no such blocks.
    pub(super) fn take_runs(&self, runs: &[(usize, usize)]) -> bool {
        let mut blocks = self.blocks();
        let count = blocks.count();
        let mut new = Blocks::new(count);
        for (first, len) in runs {
            let Some(end) = first.checked_add(*len).filter(|end| *end <= count) else { return false };
            new.set(*first..end, true);
        }
        *blocks = new;
        self.count_plugged(&blocks);
        true
    }

    fn count_plugged(&self, blocks: &Blocks) {
        self.plugged.store(blocks.plugged(0..blocks.count()) as u64 * BLOCK, Ordering::SeqCst);
    }

    /// Does what a driver asks for, if it may.
    pub(super) fn answer(&self, request: Request, ram: &DmaView) -> Response {
        match request {
            Request::Plug(span) => self.plug(span, ram),
            Request::Unplug(span) => self.unplug(span, ram),
            Request::UnplugAll => self.unplug_all(ram),
            Request::State(span) => self.state(span),
            Request::Unknown(kind) => {
                tracing::warn!(target: "guest", "The guest makes a memory request of unknown type {kind}");
                Response::Error
            }
        }
    }

    /// The blocks of a span, unless some do not exist.
    fn range(&self, span: Span) -> Option<Blockwise<usize>> {
        let offset = span.address.checked_sub(self.base)?;
        let end = offset.checked_add(u64::from(span.blocks) * BLOCK)?;
        if !offset.is_multiple_of(BLOCK) || span.blocks == 0 || end > self.size {
            return None;
        }
        Some(usize::try_from(offset / BLOCK).ok()?..usize::try_from(end / BLOCK).ok()?)
    }

    fn plug(&self, span: Span, ram: &DmaView) -> Response {
        let mut blocks = self.blocks();
        let len = u64::from(span.blocks) * BLOCK;
        if self.plugged().saturating_add(len) > self.requested() {
            return Response::Nack;
        }
        let Some(range) = self.range(span).filter(|range| blocks.plugged(range.clone()) == 0) else {
            return Response::Error;
        };
        if let Err(error) = ram.claim(GuestAddress(span.address), len) {
            let why = error.source().map(|why| format!(": {why}")).unwrap_or_default();
            tracing::warn!(target: "guest", "The guest cannot have {len} bytes of memory now: {error}{why}");
            return Response::Busy;
        }
        blocks.set(range, true);
        self.count_plugged(&blocks);
        Response::Ack
    }

    fn unplug(&self, span: Span, ram: &DmaView) -> Response {
        let mut blocks = self.blocks();
        let whole = |range: &Blockwise<usize>| blocks.plugged(range.clone()) == range.len();
        let Some(range) = self.range(span).filter(whole) else { return Response::Error };
        give_back(ram, span.address, u64::from(span.blocks) * BLOCK);
        blocks.set(range, false);
        self.count_plugged(&blocks);
        Response::Ack
    }

    fn unplug_all(&self, ram: &DmaView) -> Response {
        let mut blocks = self.blocks();
        give_back(ram, self.base, self.size);
        let all = 0..blocks.count();
        blocks.set(all, false);
        self.count_plugged(&blocks);
        Response::Ack
    }

    fn state(&self, span: Span) -> Response {
        let Some(range) = self.range(span) else { return Response::Error };
        let plugged = self.blocks().plugged(range.clone());
        Response::State(match plugged {
            0 => BlockState::Unplugged,
            all if all == range.len() => BlockState::Plugged,
            _ => BlockState::Mixed,
        })
    }
}

/// Memory that the host does not take is unplugged all the same: the guest does without it.
fn give_back(ram: &DmaView, start: u64, len: u64) {
    if let Err(error) = ram.discard(GuestAddress(start), len) {
        let why = error.source().map(|why| format!(": {why}")).unwrap_or_default();
        tracing::warn!(target: "guest", "The guest unplugs memory that stays: {error}{why}");
    }
}

//! Huge pages of the host of which the guest has given parts: such a page goes back once the guest has given all of it.

use std::collections::HashMap;

use super::PAGE;

/// Which parts of which huge pages the guest has given. Grows with the guest's RAM at most: a bit for each 4 KiB of it.
#[derive(Default)]
pub(super) struct Parts(HashMap<u64, Given>);

/// One huge page.
struct Given {
    /// One bit per part.
    bits: Box<[u64]>,
    count: u64,
}

impl Parts {
    /// Notes that the guest has given the 4 KiB at `address`, a part of a host page of `size` bytes. If the host page is complete now,
    /// its address comes out.
    pub(super) fn give(&mut self, address: u64, size: u64) -> Option<u64> {
        let parts = size / PAGE;
        let base = address / size * size;
        let empty = || Given { bits: vec![0; parts.div_ceil(64) as usize].into(), count: 0 };
        let given = self.0.entry(base).or_insert_with(empty);
        let (word, mask) = place(address - base);
        let word = given.bits.get_mut(word)?;
        if *word & mask != 0 {
            return None;
        }
        *word |= mask;
        given.count += 1;
        (given.count == parts).then_some(base)
    }

    /// Notes that the guest has taken the 4 KiB at `address` back.
    pub(super) fn take(&mut self, address: u64, size: u64) {
        let base = address / size * size;
        let Some(given) = self.0.get_mut(&base) else { return };
        let (word, mask) = place(address - base);
        let Some(word) = given.bits.get_mut(word).filter(|word| **word & mask != 0) else { return };
        *word &= !mask;
        given.count -= 1;
        if given.count == 0 {
            self.0.remove(&base);
        }
    }

    /// Whether nothing is noted.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// The word and the bit of the part at `offset`.
fn place(offset: u64) -> (usize, u64) {
    let part = offset / PAGE;
    ((part / 64) as usize, 1 << (part % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUGE: u64 = 2 << 20;

    #[test]
    fn a_huge_page_is_complete_once_and_again() {
        let mut parts = Parts::default();
        let last = 3 * HUGE - PAGE;
        for address in (2 * HUGE..last).step_by(PAGE as usize) {
            assert_eq!(parts.give(address, HUGE), None);
            assert_eq!(parts.give(address, HUGE), None);
        }
        assert_eq!(parts.give(last, HUGE), Some(2 * HUGE));
        assert_eq!(parts.give(last, HUGE), None);
        parts.take(2 * HUGE + PAGE, HUGE);
        parts.take(2 * HUGE + PAGE, HUGE);
        parts.take(5 * HUGE, HUGE);
        assert_eq!(parts.give(2 * HUGE + PAGE, HUGE), Some(2 * HUGE));
    }

    #[test]
    fn what_is_taken_back_is_forgotten() {
        let mut parts = Parts::default();
        for address in [0, PAGE, HUGE] {
            assert_eq!(parts.give(address, HUGE), None);
        }
        for address in [0, PAGE, HUGE] {
            assert!(!parts.is_empty());
            parts.take(address, HUGE);
        }
        assert!(parts.is_empty());
        assert_eq!(parts.give(0, PAGE), Some(0));
        parts.clear();
        assert!(parts.is_empty());
    }
}

//! A set of pages: a bit for each, which many threads may change at once.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Pages in a word.
const WORD: usize = 64;

/// A set of the pages of one region, by their number in it.
#[derive(Debug)]
pub(crate) struct PageBits(Box<[AtomicU64]>);

impl PageBits {
    /// None of `pages`.
    pub(crate) fn new(pages: usize) -> Self {
        Self((0..pages.div_ceil(WORD)).map(|_| AtomicU64::new(0)).collect())
    }

    /// Adds `pages`; those beyond the region are left out.
    pub(crate) fn set(&self, pages: Range<usize>) {
        self.each_word(pages, |word, mask| word.fetch_or(mask, Ordering::AcqRel));
    }

    /// Takes `pages` out.
    pub(crate) fn clear(&self, pages: Range<usize>) {
        self.each_word(pages, |word, mask| word.fetch_and(!mask, Ordering::AcqRel));
    }

    /// How many pages are in the set.
    pub(crate) fn count(&self) -> usize {
        self.0.iter().map(|word| word.load(Ordering::Acquire).count_ones() as usize).sum()
    }

    /// Whether `page` is in the set.
    pub(crate) fn has(&self, page: usize) -> bool {
        let word = self.0.get(page / WORD);
        word.is_some_and(|word| word.load(Ordering::Acquire) & (1 << (page % WORD)) != 0)
    }

    /// Empties the set and says what was in it: one bit per page, least significant first.
    pub(crate) fn take(&self) -> Vec<u64> {
        self.0.iter().map(|word| word.swap(0, Ordering::AcqRel)).collect()
    }

    /// The first page of `within` that is in the set (`wanted`) or is not.
    pub(crate) fn find(&self, within: Range<usize>, wanted: bool) -> Option<usize> {
        let mut at = within.start;
        while at < within.end {
            let word = self.0.get(at / WORD)?.load(Ordering::Acquire);
            let rest = (if wanted { word } else { !word }) >> (at % WORD);
            if rest != 0 {
                return Some(at + rest.trailing_zeros() as usize).filter(|page| *page < within.end);
            }
            at = (at / WORD + 1) * WORD;
        }
        None
    }

    /// The stretches of `within` that are in the set or are not, as a whole: the first one that is `wanted`.
    pub(crate) fn run(&self, within: Range<usize>, wanted: bool) -> Option<Range<usize>> {
        let start = self.find(within.clone(), wanted)?;
        let end = self.find(start..within.end, !wanted).unwrap_or(within.end);
        Some(start..end)
    }

    /// Calls `act` with each word that has some of `pages`, and the bits that these are.
    fn each_word(&self, pages: Range<usize>, act: impl Fn(&AtomicU64, u64) -> u64) {
        let mut at = pages.start;
        while at < pages.end {
            let Some(word) = self.0.get(at / WORD) else { return };
            let end = pages.end.min((at / WORD + 1) * WORD);
            act(word, (u64::MAX >> (WORD - (end - at))) << (at % WORD));
            at = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_across_words_come_and_go() {
        let bits = PageBits::new(200);
        bits.set(60..130);
        bits.clear(64..65);
        assert_eq!(bits.count(), 69);
        assert_eq!((bits.run(0..200, true), bits.run(64..200, true)), (Some(60..64), Some(65..130)));
        assert_eq!((bits.run(60..200, false), bits.run(130..200, false)), (Some(64..65), Some(130..200)));
        assert_eq!(
            (bits.run(0..60, true), bits.run(70..80, false), bits.find(5..5, true)),
            (None, None, None)
        );
        assert!(bits.has(63) && !bits.has(64) && !bits.has(1 << 20));
        assert_eq!(bits.take(), [0xf << 60, u64::MAX - 1, 0b11, 0]);
        assert_eq!(bits.run(0..200, true), None);
    }

    #[test]
    fn what_lies_beyond_is_left_out() {
        let bits = PageBits::new(64);
        bits.set(63..1 << 20);
        assert_eq!((bits.find(0..1 << 20, true), bits.find(64..1 << 20, true)), (Some(63), None));
    }
}

//! Which blocks of a region are plugged.

use std::ops::Range;

/// One flag per block.
pub(super) struct Blocks(Vec<bool>);

impl Blocks {
    /// `count` blocks, none plugged.
    pub(super) fn new(count: usize) -> Self {
        Self(vec![false; count])
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// How many of `range` are plugged. What lies outside is not.
    pub(super) fn plugged(&self, range: Range<usize>) -> usize {
        self.0.get(range).unwrap_or_default().iter().filter(|plugged| **plugged).count()
    }

    /// Changes all of `range`, as far as there are blocks.
    pub(super) fn set(&mut self, range: Range<usize>, plugged: bool) {
        self.0.get_mut(range).unwrap_or_default().fill(plugged);
    }

    /// The plugged blocks as runs, each with its first block and its length.
    pub(super) fn runs(&self) -> Vec<(usize, usize)> {
        let mut first = 0;
        let mut runs = Vec::new();
        for run in self.0.chunk_by(|a, b| a == b) {
            if run.first() == Some(&true) {
                runs.push((first, run.len()));
            }
            first += run.len();
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_what_was_set() {
        let mut blocks = Blocks::new(8);
        assert_eq!(blocks.runs(), []);
        blocks.set(1..3, true);
        blocks.set(5..8, true);
        blocks.set(6..7, false);
        blocks.set(7..9, false);
        assert_eq!(blocks.runs(), [(1, 2), (5, 1), (7, 1)]);
        assert_eq!((blocks.plugged(0..8), blocks.plugged(2..6), blocks.plugged(6..9)), (4, 2, 0));
    }
}

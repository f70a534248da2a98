//! Output that nobody has taken yet.

use std::collections::VecDeque;

/// Bytes kept.
pub(crate) const LIMIT: usize = 1 << 20;

/// The last [`LIMIT`] bytes that were put in and not taken out. Takes no memory before its first use.
#[derive(Default)]
pub(crate) struct Ring(VecDeque<u8>);

impl Ring {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `len` more bytes push older ones out.
    pub(crate) fn overflows(&self, len: usize) -> bool {
        self.0.len().saturating_add(len) > LIMIT
    }

    /// Puts bytes in and answers how many are lost for it.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> u64 {
        let lost = (self.0.len() + bytes.len()).saturating_sub(LIMIT);
        let bytes = bytes.get(bytes.len().saturating_sub(LIMIT)..).unwrap_or(bytes);
        let excess = (self.0.len() + bytes.len()).saturating_sub(LIMIT);
        self.0.drain(..excess);
        self.0.extend(bytes);
        lost as u64
    }

    /// Forgets everything and answers how many bytes that was.
    pub(crate) fn clear(&mut self) -> u64 {
        std::mem::take(&mut self.0).len() as u64
    }

    /// The oldest bytes, not necessarily all.
    pub(crate) fn front(&self) -> &[u8] {
        self.0.as_slices().0
    }

    /// Takes the oldest `len` bytes out.
    pub(crate) fn consume(&mut self, len: usize) {
        self.0.drain(..len.min(self.0.len()));
        if self.0.is_empty() {
            // A burst is over: a MiB per console is too much to hold for the next one.
            self.0 = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_bytes_go_first() {
        let mut ring = Ring::default();
        assert_eq!(ring.push(&[1; 10]), 0);
        assert!(!ring.overflows(LIMIT - 10) && ring.overflows(LIMIT - 9));
        assert_eq!(ring.push(&vec![2; LIMIT - 5]), 5);
        assert_eq!(ring.0.len(), LIMIT);
        assert_eq!(ring.0.iter().filter(|b| **b == 1).count(), 5);
        assert_eq!(ring.push(&vec![3; LIMIT + 7]), LIMIT as u64 + 7);
        assert!(ring.0.iter().all(|b| *b == 3) && ring.0.len() == LIMIT);
        ring.consume(LIMIT - 1);
        assert_eq!(ring.front(), [3]);
        assert_eq!(ring.clear(), 1);
        assert!(ring.is_empty() && !ring.overflows(usize::MAX >> 44));
    }
}

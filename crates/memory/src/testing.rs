//! Guest RAM for the tests of other crates.

use std::collections::BTreeMap;

use crate::{GuestAddress, GuestRam, Ram, RamMap};

/// RAM for tests of other crates: anonymous, at the given ranges.
///
/// # Panics
/// If the ranges overlap or cannot be mapped: a test cannot go on then.
#[must_use]
#[allow(clippy::expect_used)]
pub fn test_ram(ranges: &[(u64, usize)]) -> GuestRam {
    let ranges: Vec<_> = ranges.iter().map(|&(base, len)| (GuestAddress(base), len)).collect();
    GuestRam::publish(Ram { map: RamMap::from_ranges(&ranges).expect("test RAM"), mappings: BTreeMap::new() })
}

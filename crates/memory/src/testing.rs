//! Guest RAM for the tests of other crates.

use std::collections::BTreeMap;

use crate::layout::Range;
use crate::{GuestAddress, GuestRam, Ram, RamMap};

/// RAM for tests of other crates: anonymous, at the given ranges.
///
/// # Panics
/// If the ranges overlap or cannot be mapped: a test cannot go on then.
#[must_use]
pub fn test_ram(ranges: &[(u64, usize)]) -> GuestRam {
    ram(ranges, BTreeMap::new())
}

/// The same, with room for more in the zone `id`.
///
/// # Panics
/// If the ranges overlap or cannot be mapped: a test cannot go on then.
#[must_use]
pub fn test_ram_with_room(ranges: &[(u64, usize)], id: &str, room: Range) -> GuestRam {
    let mut all = ranges.to_vec();
    all.push((room.0, room.1 as usize));
    ram(&all, BTreeMap::from([(id.to_owned(), room)]))
}

#[allow(clippy::expect_used)]
fn ram(ranges: &[(u64, usize)], rooms: BTreeMap<String, Range>) -> GuestRam {
    let ranges: Vec<_> = ranges.iter().map(|&(base, len)| (GuestAddress(base), len)).collect();
    let map = RamMap::from_ranges(&ranges).expect("test RAM");
    GuestRam::publish(Ram { map, mappings: BTreeMap::new(), rooms })
}

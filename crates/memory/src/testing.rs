//! Guest RAM for the tests of other crates.

use std::collections::BTreeMap;

use config::plan::{Pages, Zone};

use crate::layout::Range;
use crate::part::Backing;
use crate::{GuestRam, SavedRange, backing};

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
    ram(ranges, BTreeMap::from([(id.to_owned(), room)]))
}

#[allow(clippy::expect_used)]
fn ram(ranges: &[(u64, usize)], rooms: BTreeMap<String, Range>) -> GuestRam {
    let pages = Pages::Normal { thp: false };
    let range = |&(base, len): &(u64, usize)| (base, len as u64, "test".to_owned(), false);
    let room = |(id, (base, len)): (&String, &Range)| (*base, *len, id.clone(), true);
    let regions = ranges.iter().map(range).chain(rooms.iter().map(room)).map(|(base, len, zone, is_room)| {
        let range = SavedRange { base, len, zone, offset: 0, is_room, in_users_file: false };
        backing::map(
            &Zone { pages, ..Zone::new(&range.zone, len) },
            range,
            Backing::Zeroes { file: None, offset: 0 },
        )
    });
    let regions = regions.collect::<Result<_, _>>().expect("test RAM");
    GuestRam::of(regions, rooms).expect("test RAM")
}

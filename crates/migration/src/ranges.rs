//! Lists of ranges of guest-physical addresses.

/// First address and length in bytes.
pub type Range = (u64, u64);

/// Bytes of a page; what is tracked and compared.
pub const PAGE_LEN: u64 = 4096;

/// Bytes in all of `ranges`.
pub(crate) fn total(ranges: &[Range]) -> u64 {
    ranges.iter().fold(0, |sum, (_, len)| sum.saturating_add(*len))
}

/// In ascending order, with what overlaps or touches made one. Empty ranges and those beyond the address space are left out.
pub(crate) fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.retain(|(base, len)| *len != 0 && base.checked_add(*len).is_some());
    ranges.sort_unstable();
    let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
    for (base, len) in ranges {
        match merged.last_mut() {
            Some((last, last_len)) if *last + *last_len >= base => {
                *last_len = (*last_len).max(base + len - *last);
            }
            _ => merged.push((base, len)),
        }
    }
    merged
}

/// Whether all bytes of `range` lie in `ranges`, which are [`merged`].
pub(crate) fn contain(ranges: &[Range], (base, len): Range) -> bool {
    let Some(end) = base.checked_add(len) else { return false };
    let after = ranges.partition_point(|(start, _)| *start <= base);
    after.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|(start, held)| end <= start + held)
}

/// Cuts `ranges` into lists of at most `limit` bytes and `entries` entries each.
pub(crate) fn pieces(ranges: &[Range], limit: u64, entries: usize) -> Vec<Vec<Range>> {
    let mut pieces = Vec::new();
    let mut piece = Vec::new();
    let mut room = limit;
    for &(mut base, mut len) in ranges {
        while len != 0 {
            if room == 0 || piece.len() == entries {
                pieces.push(std::mem::take(&mut piece));
                room = limit;
            }
            let part = len.min(room);
            piece.push((base, part));
            (base, len, room) = (base + part, len - part, room - part);
        }
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_become_one() {
        let mixed = vec![(30, 10), (0, 10), (10, 5), (12, 1), (40, 0), (u64::MAX, 2), (35, 20)];
        assert_eq!(merged(mixed), [(0, 15), (30, 25)]);
        assert_eq!(total(&[(0, 15), (30, 25)]), 40);
        assert_eq!(total(&[(0, u64::MAX), (0, 2)]), u64::MAX);
    }

    #[test]
    fn only_what_lies_inside_is_contained() {
        let held = [(0x1000, 0x1000), (0x4000, 0x2000)];
        for inside in [(0x1000, 0x1000), (0x5fff, 1), (0x4000, 0)] {
            assert!(contain(&held, inside), "{inside:x?}");
        }
        for outside in [(0, 1), (0xfff, 2), (0x1fff, 2), (0x3000, 1), (0x4000, 0x2001), (u64::MAX, 2)] {
            assert!(!contain(&held, outside), "{outside:x?}");
        }
        assert!(!contain(&[], (0, 1)));
    }

    #[test]
    fn pieces_are_whole_and_bounded() {
        let ranges = [(0, 10), (100, 1), (200, 25)];
        assert_eq!(
            pieces(&ranges, 8, 9),
            [vec![(0, 8)], vec![(8, 2), (100, 1), (200, 5)], vec![(205, 8)], vec![(213, 8)], vec![(221, 4)]]
        );
        assert_eq!(pieces(&ranges, 100, 2), [vec![(0, 10), (100, 1)], vec![(200, 25)]]);
        assert!(pieces(&[], 8, 1).is_empty());
    }
}

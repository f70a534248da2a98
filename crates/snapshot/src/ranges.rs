//! Where in a file the bytes of a guest-physical address lie: ranges of RAM stand one behind the other, without gaps.

use serde::{Deserialize, Serialize};

use crate::error::Damage;
use crate::{MAX_MEMORY, MAX_RANGES, PAGE};

/// A range as `state.json` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    base: u64,
    len: u64,
}

/// RAM in ascending, disjoint ranges of whole pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// (guest-physical address, bytes)
    list: Vec<(u64, u64)>,
    /// Where each begins in the file.
    offsets: Vec<u64>,
    total: u64,
}

/// What is at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Bytes at `offset` of the file; `left` of them, at least one, are in the same range.
    Stored { offset: u64, left: u64 },
    /// No RAM for this many bytes.
    Gap(u64),
}

impl Ranges {
    /// Checks a list.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn new(list: &[(u64, u64)]) -> Result<Self, Damage> {
        if list.len() > MAX_RANGES {
            return Err(Damage::RangeCount);
        }
        let (mut offsets, mut total, mut end) = (Vec::with_capacity(list.len()), 0_u64, 0);
        for (index, &(base, len)) in list.iter().enumerate() {
            if len == 0 || !len.is_multiple_of(PAGE) || !base.is_multiple_of(PAGE) {
                return Err(Damage::RangeAlignment(index));
            }
            if base < end {
                return Err(Damage::RangeOrder(index));
            }
            offsets.push(total);
            let sum = total.checked_add(len).filter(|sum| *sum <= MAX_MEMORY);
            (total, end) = sum.zip(base.checked_add(len)).ok_or(Damage::RangeTotal(index))?;
        }
        Ok(Self { list: list.to_vec(), offsets, total })
    }

    /// The list.
    pub(crate) fn list(&self) -> &[(u64, u64)] {
        &self.list
    }

    /// Bytes of all together, also the length of the file.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// What is at `gpa`.
    pub(crate) fn find(&self, gpa: u64) -> Place {
        let next = self.list.partition_point(|&(base, _)| base <= gpa);
        let before = next.checked_sub(1).and_then(|index| self.list.get(index).zip(self.offsets.get(index)));
        if let Some((&(base, len), &offset)) = before {
            let into = gpa.saturating_sub(base);
            if into < len {
                return Place::Stored { offset: offset.saturating_add(into), left: len - into };
            }
        }
        Place::Gap(self.list.get(next).map_or(u64::MAX, |&(base, _)| base) - gpa)
    }

    /// Whether `len` bytes at `gpa` are RAM, in one range or in several without gaps.
    pub(crate) fn cover(&self, gpa: u64, len: u64) -> bool {
        let (mut gpa, mut len) = (gpa, len);
        while len > 0 {
            let Place::Stored { left, .. } = self.find(gpa) else { return false };
            let step = left.min(len);
            (gpa, len) = (gpa.saturating_add(step), len - step);
        }
        true
    }
}

impl Serialize for Ranges {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.list.iter().map(|&(base, len)| Range { base, len }))
    }
}

impl<'de> Deserialize<'de> for Ranges {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let list: Vec<Range> = Vec::deserialize(deserializer)?;
        let list: Vec<_> = list.into_iter().map(|range| (range.base, range.len)).collect();
        Self::new(&list).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn ranges_lie_behind_each_other_in_the_file() {
        let ranges = Ranges::new(&[(0, MIB), (4 * MIB, MIB), (5 * MIB, 2 * MIB)]).unwrap();
        assert_eq!(ranges.total(), 4 * MIB);
        assert_eq!(ranges.find(0), Place::Stored { offset: 0, left: MIB });
        assert_eq!(ranges.find(MIB - 1), Place::Stored { offset: MIB - 1, left: 1 });
        assert_eq!(ranges.find(MIB), Place::Gap(3 * MIB));
        assert_eq!(ranges.find(5 * MIB + 7), Place::Stored { offset: 2 * MIB + 7, left: 2 * MIB - 7 });
        assert_eq!(ranges.find(7 * MIB), Place::Gap(u64::MAX - 7 * MIB));
        assert!(ranges.cover(4 * MIB + 9, 3 * MIB - 9), "two without a gap between");
        assert!(!ranges.cover(0, MIB + 1) && !ranges.cover(7 * MIB - 1, 2) && !ranges.cover(0, u64::MAX));
        assert!(ranges.cover(2 * MIB, 0), "nothing is everywhere");
        assert_eq!(Ranges::new(&[]).unwrap().find(3), Place::Gap(u64::MAX - 3));
    }

    #[test]
    fn a_list_that_cannot_be_is_refused_by_its_entry() {
        let refused = |list: &[(u64, u64)]| Ranges::new(list).unwrap_err().to_string();
        assert_eq!(refused(&[(0, PAGE), (1, PAGE)]), "memory.ranges[1] is empty or not made of whole pages");
        assert_eq!(refused(&[(0, 0)]), "memory.ranges[0] is empty or not made of whole pages");
        let order = "memory.ranges[1] begins before the end of the one in front of it";
        assert_eq!(refused(&[(PAGE, PAGE), (0, PAGE)]), order);
        assert_eq!(refused(&[(0, 2 * PAGE), (PAGE, PAGE)]), order);
        let most = u64::MAX - PAGE + 1;
        for (list, index) in [(&[(0, MAX_MEMORY + PAGE)][..], 0), (&[(0, PAGE), (most, PAGE)], 1)] {
            assert!(matches!(Ranges::new(list), Err(Damage::RangeTotal(i)) if i == index), "{list:?}");
        }
        let many: Vec<_> = (0..=MAX_RANGES as u64).map(|i| (i * PAGE, PAGE)).collect();
        assert!(matches!(Ranges::new(&many), Err(Damage::RangeCount)));
        assert!(Ranges::new(&many[1..]).is_ok());
    }
}

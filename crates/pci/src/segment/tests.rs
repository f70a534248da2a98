use super::*;

const FIRST: Windows = Windows { memory32: (0xc000_0000, 0xc0ff_ffff), memory64: (1 << 32, (1 << 33) - 1) };
const SECOND: Windows = Windows { memory32: (0xc100_0000, 0xc1ff_ffff), memory64: (1 << 33, (1 << 34) - 1) };

fn segments() -> Segments {
    Segments::new([FIRST, SECOND])
}

fn segment() -> Segment {
    segments().get(0).unwrap().clone()
}

#[test]
fn slots_are_leased_once_and_come_back() {
    let segment = segment();
    let third = segment.lease_slot(Some(3)).unwrap();
    assert_eq!(segment.lease_slot(Some(3)).err(), Some(PlaceError::SlotTaken(third.address())));
    assert_eq!(
        segment.lease_slot(Some(0)).err(),
        Some(PlaceError::SlotTaken(Address { segment: 0, slot: 0 }))
    );
    let others: Vec<_> = (0..30).map(|_| segment.lease_slot(None).unwrap()).collect();
    assert!(others.iter().all(|lease| lease.address().slot != 3));
    assert_eq!(segment.lease_slot(None).err(), Some(PlaceError::NoSlot(0)));
    drop(third);
    assert_eq!(segment.lease_slot(None).unwrap().address().slot, 3);
}

#[test]
fn addresses_are_leased_from_the_top_and_come_back() {
    let segment = segment();
    let first = segment.lease_bar(BarKind::Memory32, 0x8_0000, 0x80_0000).unwrap();
    let second = segment.lease_bar(BarKind::Memory32, 0x8_0000, 0x80_0000).unwrap();
    assert_eq!((first.base(), second.base()), (0xc080_0000, 0xc000_0000));
    assert!(segment.lease_bar(BarKind::Memory32, 0x8_0000, 0x80_0000).is_err());
    drop(first);
    assert_eq!(segment.lease_bar(BarKind::Memory32, 0x8_0000, 0x80_0000).unwrap().base(), 0xc080_0000);
    assert_eq!(segment.lease_bar(BarKind::Memory64, 1 << 20, 1 << 20).unwrap().base(), (1 << 33) - (1 << 20));
}

#[test]
fn each_segment_has_slots_and_windows_of_its_own() {
    let segments = segments();
    let second = segments.get(1).unwrap();
    assert_eq!(second.lease_slot(None).unwrap().address(), Address { segment: 1, slot: 0 });
    let bar = second.lease_bar(BarKind::Memory32, 0x100_0000, 0x1000).unwrap();
    assert_eq!(bar.base(), 0xc100_0000);
    assert!(segments.get(0).unwrap().lease_bar(BarKind::Memory32, 0x100_0000, 0x1000).is_ok());
    assert_eq!(segments.get(2).err(), Some(PlaceError::NoSegment(2)));
}

#[test]
fn impossible_windows_are_empty() {
    let empty = Windows { memory32: (1, 0), memory64: (0, u64::MAX) };
    let segments = Segments::new([empty]);
    for kind in [BarKind::Memory32, BarKind::Memory64] {
        let none = PlaceError::NoAddresses { segment: 0, size: 0x1000, kind };
        assert_eq!(segments.get(0).unwrap().lease_bar(kind, 0x1000, 0x1000).err(), Some(none));
    }
}

#[test]
fn leases_follow_bars_that_changed_places() {
    const SIZE: u64 = 0x80_0000;
    let segments = segments();
    let segment = segments.get(0).unwrap();
    let lease = || segment.lease_bar(BarKind::Memory32, SIZE, SIZE);
    let (mut first, mut second) = (lease().unwrap(), lease().unwrap());
    let (at_first, at_second) = (first.base(), second.base());
    segments.follow([(&mut first, Some(at_second)), (&mut second, Some(at_first))]);
    assert_eq!((first.base(), second.base()), (at_second, at_first));
    assert!(lease().is_err(), "both are still leased");
    drop(first);
    assert_eq!(lease().unwrap().base(), at_second);
}

#[test]
fn a_decoded_bar_has_its_place_before_one_that_is_not_decoded() {
    const SIZE: u64 = 0x80_0000;
    let segments = segments();
    let segment = segments.get(0).unwrap();
    let lease = || segment.lease_bar(BarKind::Memory32, SIZE, SIZE);
    // The other is not decoded at that moment, so that the guest can put this one there.
    let (mut bar, mut other) = (lease().unwrap(), lease().unwrap());
    let (left, at) = (bar.base(), other.base());
    segments.follow([(&mut other, None), (&mut bar, Some(at))]);
    drop(other);
    let rest = [lease(), lease()].map(|lease| lease.ok().map(|lease| lease.base()));
    assert_eq!(rest, [Some(left), None], "what the BAR occupies was leased");
}

#[test]
fn a_larger_bar_over_the_place_of_one_that_is_not_decoded_has_all_of_it() {
    let segments = segments();
    let segment = segments.get(0).unwrap();
    let mut large = segment.lease_bar(BarKind::Memory64, 0x40_0000, 0x40_0000).unwrap();
    let mut small = segment.lease_bar(BarKind::Memory32, 0x10_0000, 0x10_0000).unwrap();
    let at = small.base() & !0x3f_ffff;
    segments.follow([(&mut small, None), (&mut large, Some(at))]);
    let below = segment.lease_bar(BarKind::Memory32, 0x10_0000, 0x10_0000).unwrap();
    assert_eq!(below.base(), at - 0x10_0000);
    // It goes: the small one has its place again.
    let away = !0x3f_ffff;
    segments.follow([(&mut large, Some(away)), (&mut small, None)]);
    let next = segment.lease_bar(BarKind::Memory32, 0x10_0000, 0x10_0000).unwrap();
    assert_eq!(next.base(), small.base() - 0x10_0000);
}

#[test]
fn a_bar_across_the_edge_of_a_window_leases_what_lies_inside() {
    let windows = Windows { memory32: (0xc010_0000, 0xc01f_ffff), ..FIRST };
    let segments = Segments::new([windows]);
    let segment = segments.get(0).unwrap();
    let mut bar = segment.lease_bar(BarKind::Memory64, 0x40_0000, 0x40_0000).unwrap();
    segments.follow([(&mut bar, Some(0xc000_0000))]);
    assert!(segment.lease_bar(BarKind::Memory32, 0x1000, 0x1000).is_err());
    drop(bar);
    assert!(segment.lease_bar(BarKind::Memory32, 0x10_0000, 0x10_0000).is_ok());
}

#[test]
fn what_a_moved_bar_occupies_is_not_leased_and_what_it_left_is() {
    const SIZE: u64 = 0x80_0000;
    let segments = segments();
    let segment = segments.get(0).unwrap();
    let mut bar = segment.lease_bar(BarKind::Memory64, SIZE, SIZE).unwrap();
    let left = bar.base();
    // A 64-bit BAR may lie in the window below 4 GiB.
    segments.follow([(&mut bar, Some(0xc000_0000))]);
    assert_eq!(segment.lease_bar(BarKind::Memory64, SIZE, SIZE).unwrap().base(), left);
    let other = segment.lease_bar(BarKind::Memory32, SIZE, SIZE).unwrap();
    assert_eq!(other.base(), 0xc080_0000);
    assert!(segment.lease_bar(BarKind::Memory32, SIZE, SIZE).is_err());
    // Onto another BAR, then out of all windows: nothing is taken twice, and nothing is lost.
    segments.follow([(&mut bar, Some(0xc080_0000))]);
    segments.follow([(&mut bar, Some(u64::MAX - SIZE + 1))]);
    drop(bar);
    drop(other);
    assert!(segment.lease_bar(BarKind::Memory32, 2 * SIZE, SIZE).is_ok());
}

#[test]
fn windows_are_dealt_out_by_weight() {
    let whole = Windows { memory32: (0xc000_0000, 0xc000_9fff), memory64: (4 << 30, (44 << 30) - 1) };
    let [first, second, last] = whole.split(&[(1, 1), (2, 3), (1, 1)])[..] else { panic!() };
    assert_eq!((first.memory32, first.memory64), ((0xc000_0000, 0xc000_1fff), (4 << 30, (12 << 30) - 1)));
    assert_eq!(second.memory32, (0xc000_2000, 0xc000_5fff));
    assert_eq!(second.memory64, (12 << 30, (36 << 30) - 1));
    assert_eq!((last.memory32, last.memory64), ((0xc000_6000, 0xc000_9fff), (36 << 30, (44 << 30) - 1)));
    assert_eq!(whole.split(&[(7, 9)]), [whole]);
}

#[test]
fn too_many_shares_leave_empty_windows() {
    let whole = Windows { memory32: (0xc000_0000, 0xc000_9fff), memory64: (4 << 30, (8 << 30) - 1) };
    let parts = whole.split(&[(u32::MAX, u32::MAX), (u32::MAX, 1)]);
    assert!(parts[0].memory32.0 > parts[0].memory32.1 && parts[0].memory64.0 > parts[0].memory64.1);
    assert_eq!(parts[1], whole);
}

#[test]
fn memory_is_leased_where_it_fits_or_where_it_was() {
    const TOP: u64 = 1 << 33;
    const UNIT: u64 = 2 << 20;
    let segment = segment();
    let bar = segment.lease_bar(BarKind::Memory64, 0x8_0000, 0x8_0000).unwrap();
    let first = segment.lease_memory(3 * UNIT, UNIT).unwrap();
    assert_eq!((first.base(), first.size()), (TOP - 4 * UNIT, 3 * UNIT));
    let base = first.base();
    for taken in [base, base - UNIT, base + UNIT, bar.base() - 0x1000] {
        assert!(segment.lease_memory_at(taken, 2 * UNIT).is_err(), "{taken:#x}");
    }
    drop(first);
    assert_eq!(segment.lease_memory_at(base + 0x1000, UNIT).unwrap().base(), base + 0x1000);
    for impossible in [(0, UNIT), (TOP - UNIT, 2 * UNIT), (u64::MAX, UNIT), (base, 0)] {
        assert!(segment.lease_memory_at(impossible.0, impossible.1).is_err(), "{impossible:x?}");
    }
    let none = PlaceError::NoAddresses { segment: 0, size: TOP, kind: BarKind::Memory64 };
    assert_eq!(segment.lease_memory(TOP, UNIT).err(), Some(none));
    assert_eq!(segment.lease_memory(UNIT, UNIT).unwrap().base(), TOP - 2 * UNIT);
}

/// BARs that the guest moves onto memory do not take its addresses.
#[test]
fn memory_keeps_its_addresses_when_bars_move() {
    let segments = segments();
    let segment = segments.get(0).unwrap();
    let memory = segment.lease_memory(2 << 20, 2 << 20).unwrap();
    let mut bar = segment.lease_bar(BarKind::Memory64, 0x8_0000, 0x8_0000).unwrap();
    segments.follow([(&mut bar, Some(memory.base()))]);
    assert_eq!(bar.base(), memory.base());
    assert!(segment.lease_memory_at(memory.base(), 0x1000).is_err());
    let base = memory.base();
    drop(memory);
    assert_eq!(segment.lease_memory_at(base, 2 << 20).unwrap().base(), base);
}

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::{RamView, layout};

const SIZE: u64 = 4096;
const MIB: u64 = 1 << 20;

/// A snapshot's file that has all ranges one after the other.
struct Snapshot {
    file: File,
    offset: u64,
}

impl RangeSource for Snapshot {
    fn file(&self, range: &SavedRange) -> Option<(&File, u64)> {
        Some((&self.file, self.offset + range.base))
    }
}

/// A snapshot whose pages each begin with their number, but for holes: every fourth.
fn snapshot(pages: u64) -> Snapshot {
    let file = File::from(rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    file.set_len((pages + 1) * SIZE).unwrap();
    for page in (0..pages).filter(|page| page % 4 != 0) {
        file.write_all_at(&page.to_le_bytes(), (page + 1) * SIZE).unwrap();
    }
    Snapshot { file, offset: SIZE }
}

fn range(base: u64, len: u64) -> SavedRange {
    SavedRange { base, len, zone: "z".into(), offset: 0, is_room: false, in_users_file: false }
}

fn number(view: &RamView, page: u64) -> u64 {
    view.read_obj(GuestAddress(page * SIZE)).unwrap()
}

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("memory-restore-{name}-{}", std::process::id()))
}

#[test]
fn the_same_ranges_are_made_again() {
    let zones = [
        Zone { room: 256 * MIB, ..Zone::new("a", MIB) },
        Zone { shared: true, ..Zone::new("b", layout::HOLE) },
    ];
    let ram = GuestRam::allocate(&zones).unwrap();
    ram.plug(&Zone::new("a", 128 * MIB), GuestAddress(1 << 40)).unwrap();
    let ranges = ram.ranges();
    let places: Vec<_> =
        ranges.iter().map(|r| (r.zone.as_str(), r.base, r.len, r.offset, r.is_room)).collect();
    let low = layout::HOLE - MIB;
    assert_eq!(
        places,
        [
            ("a", 0, MIB, 0, false),
            ("b", MIB, low, 0, false),
            ("b", layout::ABOVE_4G, MIB, low, false),
            ("a", layout::ABOVE_4G + 128 * MIB, 256 * MIB, MIB, true),
            ("a", 1 << 40, 128 * MIB, 0, false),
        ]
    );
    let text = serde_json::to_string(&ranges).unwrap();
    let ranges: Vec<SavedRange> = serde_json::from_str(&text).unwrap();
    let (restored, modes) = GuestRam::restore(&zones, &ranges, &NoFiles).unwrap();
    assert_eq!((restored.ranges(), restored.total()), (ranges, ram.total()));
    assert_eq!(restored.dma().room("a"), ram.dma().room("a"));
    assert_eq!(modes[0], RangeMode::Fresh(Obstacle::NoFile));
    assert_eq!(modes[1], RangeMode::Fresh(Obstacle::Shared));
    restored.map().write_obj(7u64, GuestAddress(layout::ABOVE_4G)).unwrap();
}

#[test]
fn a_snapshot_s_file_is_copied_on_write() {
    let source = snapshot(16);
    let (ram, modes) =
        GuestRam::restore(&[Zone::new("z", 16 * SIZE)], &[range(0, 16 * SIZE)], &source).unwrap();
    assert_eq!(modes, [RangeMode::CopyOnWrite]);
    let view = ram.map();
    assert_eq!((number(&view, 3), number(&view, 4), number(&view, 15)), (3, 0, 15));
    assert_eq!(view.private_pages(0, 16 * SIZE).unwrap(), []);
    let data = [(SIZE, 3 * SIZE), (5 * SIZE, 3 * SIZE), (9 * SIZE, 3 * SIZE), (13 * SIZE, 3 * SIZE)];
    // A hole that was read above has become a page of zeroes in the file, as this one lies in memory.
    let occupied = view.occupied(0, 16 * SIZE);
    assert!(data.iter().all(|(base, len)| occupied.iter().any(|(b, l)| b <= base && b + l >= base + len)));
    view.write_obj(70u64, GuestAddress(7 * SIZE)).unwrap();
    view.write_obj(80u64, GuestAddress(8 * SIZE)).unwrap();
    assert_eq!(view.private_pages(0, 16 * SIZE).unwrap(), [(7 * SIZE, 2 * SIZE)]);
    assert_eq!(view.private_pages(8 * SIZE, 4 * SIZE).unwrap(), [(8 * SIZE, SIZE)]);
    assert_eq!(view.private_pages(8 * SIZE, 9 * SIZE), None, "some of it is no RAM");
    assert!(view.occupied(8 * SIZE, SIZE) == [(8 * SIZE, SIZE)]);
    let mut kept = [0; 8];
    source.file.read_exact_at(&mut kept, 8 * SIZE).unwrap();
    assert_eq!(u64::from_le_bytes(kept), 7, "the file is as it was");
}

/// What a guest does without does not come back as what the snapshot had there.
#[test]
fn discarded_pages_of_a_snapshot_are_zero() {
    let source = snapshot(16);
    let (ram, _) = GuestRam::restore(&[Zone::new("z", 16 * SIZE)], &[range(0, 16 * SIZE)], &source).unwrap();
    let view = ram.map();
    view.write_obj(50u64, GuestAddress(5 * SIZE)).unwrap();
    let device = ram.dma().view();
    for (first, pages) in [(1, 1), (5, 2), (2, 2), (5, 1)] {
        device.discard(GuestAddress(first * SIZE), pages * SIZE).unwrap();
    }
    let numbers: Vec<_> = (0..10).map(|page| number(&view, page)).collect();
    assert_eq!(numbers, [0, 0, 0, 0, 0, 0, 0, 7, 0, 9]);
    let changed = view.private_pages(0, 16 * SIZE).unwrap();
    assert_eq!(changed, [(SIZE, 3 * SIZE), (5 * SIZE, 2 * SIZE)], "zero is not what the file has");
    view.write_obj(20u64, GuestAddress(2 * SIZE)).unwrap();
    assert_eq!((number(&view, 1), number(&view, 2), number(&view, 3)), (0, 20, 0));
    let occupied = view.occupied(4 * SIZE, 4 * SIZE);
    assert!(occupied.iter().any(|(base, len)| base + len == 8 * SIZE), "{occupied:?}");
}

#[test]
fn what_forbids_a_mapping_is_said() {
    let plain = Zone::new("z", 4 * SIZE);
    let cases = [
        (Zone { shared: true, ..plain.clone() }, Obstacle::Shared),
        (Zone { mergeable: true, ..plain.clone() }, Obstacle::Mergeable),
        (Zone { prefault: true, ..plain.clone() }, Obstacle::Prefault),
        (Zone { host_numa_node: Some(0), ..plain.clone() }, Obstacle::NumaNode),
        (Zone { file: Some(std::env::temp_dir()), ..plain.clone() }, Obstacle::OwnFile),
    ];
    for (zone, obstacle) in cases {
        let (ram, modes) = GuestRam::restore(&[zone], &[range(0, 4 * SIZE)], &snapshot(4)).unwrap();
        assert_eq!(modes, [RangeMode::Fresh(obstacle)]);
        assert_eq!((number(&ram.map(), 1), ram.map().private_pages(0, SIZE)), (0, None));
    }
    let unaligned = Snapshot { offset: 8, ..snapshot(4) };
    let (_, modes) =
        GuestRam::restore(std::slice::from_ref(&plain), &[range(0, 4 * SIZE)], &unaligned).unwrap();
    assert_eq!(modes, [RangeMode::Fresh(Obstacle::Unaligned(8))]);
    let pipe = Snapshot { file: File::from(rustix::pipe::pipe().unwrap().0), offset: 0 };
    let error = GuestRam::restore(&[plain], &[range(0, 4 * SIZE)], &pipe).unwrap_err();
    assert!(matches!(error, RamError::Short { .. }), "{error}");
}

#[test]
fn a_file_that_ends_too_early_names_the_range() {
    let zone = Zone::new("z", 16 * SIZE);
    let ranges = [range(0, 4 * SIZE), range(8 * SIZE, 8 * SIZE)];
    let error = GuestRam::restore(&[zone], &ranges, &snapshot(15)).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, RamError::Short { .. }) && text.contains("0x8000"), "{text}");
    assert!(text.contains("65536 bytes and would need 69632"), "{text}");
}

#[test]
fn ranges_that_no_machine_has_are_refused() {
    let zone = Zone { room: 128 * MIB, ..Zone::new("z", 4 * SIZE) };
    let room = |base| SavedRange { is_room: true, ..range(base, SIZE) };
    let cases: Vec<(Vec<SavedRange>, &str)> = vec![
        (vec![SavedRange { zone: "y".into(), ..range(0, SIZE) }], "no such zone"),
        (vec![range(1, SIZE)], "page size"),
        (vec![range(0, 17)], "page size"),
        (vec![range(0, 0)], "page size"),
        (vec![SavedRange { offset: 100, ..range(0, SIZE) }], "page size"),
        (vec![range(u64::MAX - SIZE + 1, SIZE)], "beyond all"),
        (vec![range(0, 1 << 53)], "beyond all"),
        (vec![SavedRange { offset: 1 << 60, ..range(0, SIZE) }], "beyond all"),
        (vec![range(0, 2 * SIZE), range(SIZE, SIZE)], "the previous"),
        (vec![range(SIZE, SIZE), range(0, SIZE)], "the previous"),
        (vec![room(0), room(SIZE)], "twice"),
        (vec![SavedRange { in_users_file: true, ..range(0, SIZE) }], "name the file again"),
        ((0..5000).map(|n| range(n * SIZE, SIZE)).collect(), "more ranges"),
    ];
    for (ranges, reason) in cases {
        let error = GuestRam::restore(std::slice::from_ref(&zone), &ranges, &NoFiles).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    assert!(GuestRam::restore(&[zone], &[], &NoFiles).is_err(), "a machine without RAM");
}

#[test]
fn a_user_s_file_keeps_what_it_has() {
    let path = path("users");
    let zone = Zone { file: Some(path.clone()), shared: true, ..Zone::new("z", 4 * SIZE) };
    let zones = std::slice::from_ref(&zone);
    let ram = GuestRam::allocate(zones).unwrap();
    ram.map().write_obj(7u64, GuestAddress(SIZE)).unwrap();
    let ranges = ram.ranges();
    assert!(ranges[0].in_users_file);
    drop(ram);
    let (ram, modes) = GuestRam::restore(zones, &ranges, &NoFiles).unwrap();
    assert_eq!((modes, number(&ram.map(), 1)), (vec![RangeMode::Users], 7));
    let error = GuestRam::restore(zones, &[range(0, 4 * SIZE)], &NoFiles).unwrap_err();
    assert!(error.to_string().contains("overwritten"), "{error}");
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(SIZE).unwrap();
    assert!(matches!(GuestRam::restore(zones, &ranges, &NoFiles), Err(RamError::Backing { .. })));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(GuestRam::restore(zones, &ranges, &NoFiles), Err(RamError::Backing { .. })));
    assert!(!path.exists(), "no empty one in its place");
}

/// What a file of the user's has is not what the guest had.
#[test]
fn fresh_memory_is_zero() {
    let path = path("private");
    std::fs::write(&path, vec![b'f'; 4 * SIZE as usize]).unwrap();
    let zone = Zone { file: Some(path.clone()), ..Zone::new("z", 4 * SIZE) };
    let (ram, modes) = GuestRam::restore(&[zone], &[range(0, 4 * SIZE)], &snapshot(4)).unwrap();
    let content = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(modes, [RangeMode::Fresh(Obstacle::OwnFile)]);
    assert!((0..4).all(|page| number(&ram.map(), page) == 0));
    assert!(content.iter().all(|byte| *byte == b'f'), "and the file is as it was");
}

//! What stands behind a zone of guest RAM: anonymous memory, a memory file, huge pages or a file of the user's.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use config::plan::{Pages, Zone};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestRegionCollectionError};

use crate::extents::{huge_page, is_empty_of_huge};
use crate::mapping::Mapping;
use crate::part::{Backing, Part};
use crate::{RamError, RamRegion, SavedRange, WriteHook, layout, policy};

/// Where zones have room for more, by id.
pub(crate) fn rooms(zones: &[Zone]) -> BTreeMap<String, layout::Range> {
    let total = zones.iter().fold(0u64, |total, zone| total.saturating_add(zone.size));
    let wanted = zones.iter().map(|zone| (zone.room, alignment(zone.pages) as u64));
    let rooms = layout::rooms(layout::end(total), wanted);
    zones
        .iter()
        .zip(rooms)
        .filter(|(zone, _)| zone.room > 0)
        .map(|(zone, room)| (zone.id.clone(), room))
        .collect()
}

/// Backs the zones, in order, around the hole, and their room for more.
pub(crate) fn allocate(
    zones: &[Zone],
    rooms: &BTreeMap<String, layout::Range>,
) -> Result<Vec<RamRegion>, RamError> {
    let mut all = Vec::new();
    let mut offset = 0;
    for zone in zones {
        let room = rooms.get(&zone.id).copied();
        all.append(&mut back(zone, &layout::place(offset, zone.size), room)?);
        offset += zone.size;
    }
    Ok(all)
}

/// Backs one zone at `base`, in one piece.
pub(crate) fn allocate_at(zone: &Zone, base: u64) -> Result<RamRegion, RamError> {
    let backed = back(zone, &[(base, zone.size)], None)?;
    backed.into_iter().next().ok_or(RamError::Layout(GuestRegionCollectionError::NoMemoryRegion))
}

/// Backs a zone at `ranges`. What it has room for in `room` lies behind in the same file, and has no pages yet.
fn back(
    zone: &Zone,
    ranges: &[layout::Range],
    room: Option<layout::Range>,
) -> Result<Vec<RamRegion>, RamError> {
    let file = open(zone, zone.size + room.map_or(0, |(_, len)| len))?;
    let in_users_file = is_users_file(zone);
    let mut offset = 0;
    let mut all = Vec::with_capacity(ranges.len() + 1);
    let ranges = ranges.iter().map(|range| (*range, false)).chain(room.map(|room| (room, true)));
    for ((base, len), is_room) in ranges {
        let saved = SavedRange { base, len, zone: zone.id.clone(), offset, is_room, in_users_file };
        let backing = backing(zone, file.as_ref(), offset)?;
        all.push(map(zone, saved, backing)?);
        offset += len;
    }
    Ok(all)
}

/// Whether what is written to the zone's RAM goes to a file that the user keeps: such RAM is in no snapshot.
pub(crate) fn is_users_file(zone: &Zone) -> bool {
    zone.shared && zone.file.as_ref().is_some_and(|path| !path.is_dir())
}

/// What stands behind the part of the zone that begins at `offset` of `file`, which [`open`] answered.
pub(crate) fn backing(zone: &Zone, file: Option<&File>, offset: u64) -> Result<Backing, RamError> {
    let Some(file) = file else { return Ok(Backing::Zeroes { file: None, offset: 0 }) };
    let file = file.try_clone().map_err(|source| RamError::Backing { zone: zone.id.clone(), source })?;
    Ok(if zone.shared {
        Backing::Shared { file, offset }
    } else if is_empty_of_huge(&file) {
        Backing::Zeroes { file: Some(file), offset }
    } else {
        Backing::Copied { file, offset, is_snapshot: false }
    })
}

/// The file of at least `size` bytes that backs the zone, if there is to be one.
pub(crate) fn open(zone: &Zone, size: u64) -> Result<Option<File>, RamError> {
    let failed = |source| RamError::Backing { zone: zone.id.clone(), source };
    let file = match (&zone.file, zone.pages) {
        (None, Pages::Normal { .. }) if !zone.shared => return Ok(None),
        (Some(path), _) => {
            let file = open_users(path).map_err(failed)?;
            if file.metadata().map_err(failed)?.len() >= size {
                return Ok(Some(file));
            }
            file
        }
        (None, Pages::Normal { .. }) => memory_file(MemfdFlags::empty()).map_err(failed)?,
        (None, Pages::Huge { size: page }) => {
            memory_file(huge_flags(page)).map_err(|source| no_huge_pages(zone, zone.size, page, source))?
        }
    };
    file.set_len(size).map_err(failed)?;
    Ok(Some(file))
}

/// The user's file, or one without a name in the user's directory.
fn open_users(path: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags, open};
    // What is no file after all must not make us wait for its other end.
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    if path.is_dir() {
        return Ok(open(path, flags | OFlags::TMPFILE, Mode::RUSR | Mode::WUSR)?.into());
    }
    let file = File::from(open(path, flags | OFlags::CREATE, Mode::from_raw_mode(0o666))?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a file nor a directory"));
    }
    Ok(file)
}

fn memory_file(flags: MemfdFlags) -> io::Result<File> {
    Ok(memfd_create("guest-ram", MemfdFlags::CLOEXEC | flags)?.into())
}

fn no_huge_pages(zone: &Zone, size: u64, page: Option<u64>, source: io::Error) -> RamError {
    RamError::HugePages { zone: zone.id.clone(), size, page, source }
}

fn huge_flags(page: Option<u64>) -> MemfdFlags {
    // The kernel takes the page size as its binary logarithm from bit 26 on.
    let size = page.map_or(0, |page| page.trailing_zeros() << 26);
    MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(size)
}

/// Makes the region `saved` out of what stands behind it.
pub(crate) fn map(zone: &Zone, saved: SavedRange, backing: Backing) -> Result<RamRegion, RamError> {
    let (base, len, is_room) = (saved.base, saved.len, saved.is_room);
    let failed = |source| RamError::Map { zone: zone.id.clone(), size: len, source };
    let size = usize::try_from(len).map_err(|_| failed(io::ErrorKind::OutOfMemory.into()))?;
    let (mut flags, file) = match &backing {
        Backing::Zeroes { file, offset } => (MapFlags::PRIVATE, file.as_ref().map(|file| (file, *offset))),
        Backing::Shared { file, offset } => (MapFlags::SHARED, Some((file, *offset))),
        Backing::Copied { file, offset, .. } => (MapFlags::PRIVATE, Some((file, *offset))),
    };
    let page = file.and_then(|(file, _)| huge_page(file));
    // Ordinary pages come from memory or swap sooner or later. Huge pages come from a pool: one that is not there when it is touched is
    // a bus error, for us as for the guest. Those of a room come when a part of it becomes RAM (`DmaView::claim`).
    let is_unreserved = if page.is_some() { is_room } else { !zone.reserve };
    if is_unreserved {
        flags |= MapFlags::NORESERVE;
    }
    let mapping =
        Mapping::new(&name(zone), size, base, alignment(zone.pages), flags, file).map_err(|source| {
            let asked = if let Pages::Huge { size } = zone.pages { size } else { None };
            if page.is_some() { no_huge_pages(zone, len, asked, source) } else { failed(source) }
        })?;
    if let Some(node) = zone.host_numa_node {
        let refused = |source| RamError::Policy { zone: zone.id.clone(), node, source };
        policy::bind(mapping.start(), size, node).map_err(refused)?;
    }
    advise(zone, mapping.start(), size, zone.prefault && !is_room)
        .map_err(|source| RamError::Advise { zone: zone.id.clone(), source })?;
    let shared = match &backing {
        Backing::Shared { file, offset } => Some(FileOffset::new(file.try_clone().map_err(failed)?, *offset)),
        _ => None,
    };
    let part = Arc::new(Part::new(mapping, backing, page, saved));
    let mut builder = MmapRegionBuilder::new_with_bitmap(size, WriteHook::of(part.clone()))
        .with_mmap_prot((ProtFlags::READ | ProtFlags::WRITE).bits().cast_signed())
        .with_mmap_flags(flags.bits().cast_signed())
        .with_hugetlbfs(page.is_some());
    if let Some(file) = shared {
        builder = builder.with_file_offset(file);
    }
    // SAFETY: the part has `size` bytes, and the region's hook keeps it as long as there is the region.
    let region = unsafe { builder.with_raw_mmap_pointer(part.start()) }.build();
    let region = region.map_err(|e| failed(io::Error::other(e)))?;
    let region = RamRegion::new(region, GuestAddress(base));
    region.ok_or(RamError::Layout(GuestRegionCollectionError::NoMemoryRegion))
}

/// What a zone is called where more is said of it than its id.
fn name(zone: &Zone) -> String {
    let file = zone.file.as_ref().map(|file| format!(", file '{}'", file.display())).unwrap_or_default();
    format!("memory zone '{}'{file}", zone.id)
}

/// What guest and host addresses must agree in: the largest page the zone may be made of.
pub(crate) fn alignment(pages: Pages) -> usize {
    const TRANSPARENT: usize = 2 << 20;
    const LARGEST: usize = 1 << 30;
    match pages {
        Pages::Normal { .. } => TRANSPARENT,
        Pages::Huge { size } => size.and_then(|size| size.try_into().ok()).unwrap_or(LARGEST),
    }
}

fn advise(zone: &Zone, start: *mut u8, size: usize, prefault: bool) -> io::Result<()> {
    let advise = |advice| {
        // SAFETY: the range was mapped by the caller a moment ago, and none of these advices changes its contents.
        unsafe { rustix::mm::madvise(start.cast(), size, advice) }
    };
    if zone.pages == (Pages::Normal { thp: true }) {
        // A kernel without transparent huge pages serves the guest as well, only slower.
        let _ = advise(Advice::LinuxHugepage);
    }
    if zone.mergeable {
        advise(Advice::LinuxMergeable)?;
    }
    if prefault {
        advise(Advice::LinuxPopulateWrite)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bytes, GuestMemoryBackend, GuestRam};

    fn zone(size: u64) -> Zone {
        Zone::new("z", size)
    }

    fn shared(size: u64) -> Zone {
        Zone { shared: true, ..zone(size) }
    }

    #[test]
    fn zones_follow_each_other_around_the_hole() {
        let zones = [zone(2 << 30), shared(2 << 30)];
        let ram = GuestRam::allocate(&zones).unwrap();
        let bases: Vec<_> = ram.map().iter().map(|r| vm_memory::GuestMemoryRegion::start_addr(r).0).collect();
        assert_eq!(bases, [0, 2 << 30, 4 << 30]);
        ram.map().write_obj(7u64, GuestAddress(4 << 30)).unwrap();
        assert_eq!(ram.total(), 4 << 30);
    }

    /// More huge pages than any host has free: the kernel reserves them when they are mapped, or not at all.
    #[test]
    fn huge_pages_that_are_not_there_are_missed_at_once() {
        for (page, zone) in [(None, zone(1 << 40)), (Some(2 << 20), shared(1 << 40))] {
            let huge = Zone { pages: Pages::Huge { size: page }, ..zone };
            let error = GuestRam::allocate(&[huge]).unwrap_err();
            assert!(matches!(error, RamError::HugePages { .. }), "{error}");
            assert!(error.to_string().contains("huge pages") && error.to_string().contains("'z'"), "{error}");
        }
        let odd = Zone { pages: Pages::Huge { size: Some(64 << 10) }, ..shared(1 << 20) };
        let error = GuestRam::allocate(&[odd]).unwrap_err();
        assert!(error.to_string().contains("huge pages of 65536 bytes"), "{error}");
    }

    #[test]
    fn a_zone_s_file_is_a_file() {
        let path = std::env::temp_dir().join(format!("memory-backing-{}", std::process::id()));
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let fifo = Zone { file: Some(path.clone()), ..shared(1 << 20) };
        let error = GuestRam::allocate(&[fifo]).unwrap_err();
        std::fs::remove_file(path).unwrap();
        assert!(matches!(&error, RamError::Backing { zone, .. } if zone == "z"), "{error}");
    }

    #[test]
    fn pages_come_from_the_node_that_they_are_to_come_from() {
        let bound =
            |node| Zone { host_numa_node: Some(node), room: 128 << 20, prefault: true, ..zone(1 << 20) };
        let ram = GuestRam::allocate(&[bound(0)]).unwrap();
        let policies = std::fs::read_to_string("/proc/self/numa_maps").unwrap();
        for region in ram.map().iter() {
            let line = format!("{:x} bind:0", region.get_mmap().as_ptr().addr());
            assert!(policies.contains(&line), "{line} in {policies}");
        }
        for node in [1023, 1024, u32::MAX] {
            let error = GuestRam::allocate(&[bound(node)]).unwrap_err();
            assert!(matches!(error, RamError::Policy { .. }), "{error}");
            assert!(error.to_string().contains(&node.to_string()), "{error}");
        }
    }

    #[test]
    fn an_impossible_file_names_the_zone() {
        let nowhere = Zone { file: Some("/nonexistent/dir/file".into()), ..shared(1 << 20) };
        let error = GuestRam::allocate(&[nowhere]).unwrap_err();
        assert!(error.to_string().contains("'z'"));
    }
}

//! What stands behind a zone of guest RAM: anonymous memory, a memory file, huge pages or a file of the user's.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use thiserror::Error;
use vm_memory::bitmap::NewBitmap;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestRegionCollectionError};

use crate::mapping::Mapping;
use crate::{RamRegion, WriteHook, layout};

/// Why guest RAM could not be had.
#[derive(Debug, Error)]
pub enum RamError {
    /// The memory file or the user's file could not be made, sized or opened.
    #[error("Cannot open the backing of memory zone '{zone}'")]
    Backing {
        /// The zone's id.
        zone: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The mapping failed.
    #[error("Cannot map {size} bytes for memory zone '{zone}': lower the size or free host memory")]
    Map {
        /// The zone's id.
        zone: String,
        /// Bytes asked for.
        size: u64,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The kernel refused advice (huge pages, merging, prefault).
    #[error("Cannot prepare memory zone '{zone}'")]
    Advise {
        /// The zone's id.
        zone: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The regions do not form a map.
    #[error("Memory zones do not fit the guest's address space")]
    Layout(#[source] GuestRegionCollectionError),
}

/// What a zone's bytes are stored in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Private anonymous memory.
    Anonymous,
    /// A memory file that other processes can map.
    Shared,
    /// A file or directory of the user's (a directory gets an unlinked file); mapped shared if `shared`.
    File {
        /// Where it is.
        path: PathBuf,
        /// Whether others see the guest's writes.
        shared: bool,
    },
}

/// The pages a zone is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Ordinary pages, which the kernel may join to transparent huge pages if `transparent_huge`.
    Normal {
        /// `MADV_HUGEPAGE`.
        transparent_huge: bool,
    },
    /// Pages from the host's huge page pool, of `size` bytes or the host's default.
    Huge {
        /// Bytes per page.
        size: Option<u64>,
    },
}

/// One zone of guest RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Its name in errors.
    pub id: String,
    /// Bytes.
    pub size: u64,
    /// What stores it.
    pub backing: Backing,
    /// What pages it is made of.
    pub pages: Pages,
    /// Let the kernel merge equal pages (KSM).
    pub mergeable: bool,
    /// Touch all pages at start.
    pub prefault: bool,
    /// Fail at once if the host cannot promise the memory.
    pub reserve: bool,
}

/// Backs the zones, in order, around the hole.
pub(crate) fn allocate(zones: &[Zone]) -> Result<Vec<(RamRegion, Mapping)>, RamError> {
    let mut all = Vec::new();
    let mut offset = 0;
    for zone in zones {
        all.append(&mut back(zone, &layout::place(offset, zone.size))?);
        offset += zone.size;
    }
    Ok(all)
}

/// Backs one zone at `base`, in one piece.
pub(crate) fn allocate_at(zone: &Zone, base: u64) -> Result<(RamRegion, Mapping), RamError> {
    let backed = back(zone, &[(base, zone.size)])?;
    backed.into_iter().next().ok_or(RamError::Layout(GuestRegionCollectionError::NoMemoryRegion))
}

fn back(zone: &Zone, ranges: &[layout::Range]) -> Result<Vec<(RamRegion, Mapping)>, RamError> {
    let failed = |source| RamError::Backing { zone: zone.id.clone(), source };
    let file = open(zone).map_err(failed)?;
    let mut file_offset = 0;
    let mut all = Vec::with_capacity(ranges.len());
    for &(base, len) in ranges {
        let file = file.as_ref().map(|f| f.try_clone().map(|f| FileOffset::new(f, file_offset)));
        all.push(map(zone, base, len, file.transpose().map_err(failed)?)?);
        file_offset += len;
    }
    Ok(all)
}

fn open(zone: &Zone) -> io::Result<Option<File>> {
    let file = match (&zone.backing, zone.pages) {
        (Backing::Anonymous, Pages::Normal { .. }) => return Ok(None),
        (Backing::File { path, .. }, _) if path.is_dir() => {
            let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
            rustix::fs::open(path, flags, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?.into()
        }
        (Backing::File { path, .. }, _) => {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
            if file.metadata()?.len() >= zone.size {
                return Ok(Some(file));
            }
            file
        }
        (_, pages) => memfd_create("guest-ram", MemfdFlags::CLOEXEC | huge_flags(pages))?.into(),
    };
    file.set_len(zone.size)?;
    Ok(Some(file))
}

fn huge_flags(pages: Pages) -> MemfdFlags {
    match pages {
        Pages::Normal { .. } => MemfdFlags::empty(),
        Pages::Huge { size: None } => MemfdFlags::HUGETLB,
        // The kernel takes the page size as its binary logarithm from bit 26 on.
        Pages::Huge { size: Some(size) } => {
            MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(size.trailing_zeros() << 26)
        }
    }
}

fn map(zone: &Zone, base: u64, len: u64, file: Option<FileOffset>) -> Result<(RamRegion, Mapping), RamError> {
    let failed = |source| RamError::Map { zone: zone.id.clone(), size: len, source };
    let size = usize::try_from(len).map_err(|_| failed(io::ErrorKind::OutOfMemory.into()))?;
    let private = match &zone.backing {
        Backing::Anonymous => true,
        Backing::Shared => false,
        Backing::File { shared, .. } => !shared,
    };
    let mut flags = if private { MapFlags::PRIVATE } else { MapFlags::SHARED };
    if !zone.reserve {
        flags |= MapFlags::NORESERVE;
    }
    let source = file.as_ref().map(|file| (file.file(), file.start()));
    let mapping = Mapping::new(size, base, alignment(zone.pages), flags, source).map_err(failed)?;
    advise(zone, mapping.start(), size)
        .map_err(|source| RamError::Advise { zone: zone.id.clone(), source })?;
    let mut builder = MmapRegionBuilder::new_with_bitmap(size, WriteHook::with_len(size))
        .with_mmap_prot((ProtFlags::READ | ProtFlags::WRITE).bits().cast_signed())
        .with_mmap_flags(flags.bits().cast_signed())
        .with_hugetlbfs(matches!(zone.pages, Pages::Huge { .. }));
    if let Some(file) = file {
        builder = builder.with_file_offset(file);
    }
    // SAFETY: `GuestRam` keeps the mapping, which has `size` bytes, longer than the region.
    let region = unsafe { builder.with_raw_mmap_pointer(mapping.start()) }.build();
    let region = region.map_err(|e| failed(io::Error::other(e)))?;
    let region = RamRegion::new(region, GuestAddress(base));
    let region = region.ok_or(RamError::Layout(GuestRegionCollectionError::NoMemoryRegion))?;
    Ok((region, mapping))
}

/// What guest and host addresses must agree in: the largest page the zone may be made of.
fn alignment(pages: Pages) -> usize {
    const TRANSPARENT: usize = 2 << 20;
    const LARGEST: usize = 1 << 30;
    match pages {
        Pages::Normal { .. } => TRANSPARENT,
        Pages::Huge { size } => size.and_then(|size| size.try_into().ok()).unwrap_or(LARGEST),
    }
}

fn advise(zone: &Zone, start: *mut u8, size: usize) -> io::Result<()> {
    let advise = |advice| {
        // SAFETY: the range was mapped by the caller a moment ago, and none of these advices changes its contents.
        unsafe { rustix::mm::madvise(start.cast(), size, advice) }
    };
    if zone.pages == (Pages::Normal { transparent_huge: true }) {
        // A kernel without transparent huge pages serves the guest as well, only slower.
        let _ = advise(Advice::LinuxHugepage);
    }
    if zone.mergeable {
        advise(Advice::LinuxMergeable)?;
    }
    if zone.prefault {
        advise(Advice::LinuxPopulateWrite)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bytes, GuestMemoryBackend, GuestRam};

    fn zone(size: u64, backing: Backing) -> Zone {
        let pages = Pages::Normal { transparent_huge: true };
        Zone { id: "z".into(), size, backing, pages, mergeable: false, prefault: false, reserve: false }
    }

    #[test]
    fn zones_follow_each_other_around_the_hole() {
        let zones = [zone(2 << 30, Backing::Anonymous), zone(2 << 30, Backing::Shared)];
        let ram = GuestRam::allocate(&zones).unwrap();
        let bases: Vec<_> = ram.map().iter().map(|r| vm_memory::GuestMemoryRegion::start_addr(r).0).collect();
        assert_eq!(bases, [0, 2 << 30, 4 << 30]);
        ram.map().write_obj(7u64, GuestAddress(4 << 30)).unwrap();
        assert_eq!(ram.total(), 4 << 30);
    }

    #[test]
    fn an_impossible_file_names_the_zone() {
        let backing = Backing::File { path: "/nonexistent/dir/file".into(), shared: true };
        let error = GuestRam::allocate(&[zone(1 << 20, backing)]).unwrap_err();
        assert!(error.to_string().contains("'z'"));
    }
}

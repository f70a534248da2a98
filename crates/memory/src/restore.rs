//! RAM as it was when a snapshot was made.
//!
//! ```text
//!  range of ──▶ in a file of the user's ───────────▶ that file, which has the bytes          RangeMode::Users
//!  a snapshot   bytes in one file, nothing forbids ▶ that file, copied page by page on write RangeMode::CopyOnWrite
//!               anything else ─────────────────────▶ memory of zeroes, for the caller        RangeMode::Fresh
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use config::plan::{Pages, Zone};
use thiserror::Error;

use crate::part::{Backing, PAGE, Part};
use crate::{GuestMemoryBackend, GuestRam, RamError, RamRegion, SavedRange, backing, extents};

/// The most ranges that a snapshot may have: far more than zones and plugged memory make.
const MOST_RANGES: usize = 4096;

/// Where a snapshot keeps its bytes.
pub trait RangeSource {
    /// The file, open for reading, that has all bytes of `range` from the offset on, if they lie in one. Its position is not kept.
    fn file(&self, range: &SavedRange) -> Option<(&File, u64)>;

    /// The file, open for reading and writing, that is the memory of the zone of `range`, and lies behind it in another process too.
    fn shared(&self, _range: &SavedRange) -> Option<&File> {
        None
    }
}

/// A source whose bytes come another way: the caller copies all of them.
#[derive(Clone, Copy, Debug)]
pub struct NoFiles;

impl RangeSource for NoFiles {
    fn file(&self, _: &SavedRange) -> Option<(&File, u64)> {
        None
    }
}

/// Where the bytes of a restored range come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangeMode {
    /// From the snapshot's file when they are first read; what is written is a copy.
    CopyOnWrite,
    /// From the caller: all of it is zero now.
    Fresh(Obstacle),
    /// From the user's file that keeps them.
    Users,
    /// They are another process's memory as well.
    Shared,
}

/// Why a range is not mapped from a snapshot's file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum Obstacle {
    #[error("its bytes do not lie in one file, or another way was asked for")]
    NoFile,
    #[error("shared=on needs memory that other processes can map")]
    Shared,
    #[error("huge pages cannot be mapped from the snapshot's file")]
    HugePages,
    #[error("the zone has a file of its own")]
    OwnFile,
    #[error("mergeable=on needs memory of its own")]
    Mergeable,
    #[error("prefault=on needs all pages at once")]
    Prefault,
    #[error("host_numa_node needs memory of its own")]
    NumaNode,
    #[error("it lies at byte {0} of its file, which is no multiple of the page size")]
    Unaligned(u64),
    #[error("the host cannot map its file: {0}")]
    Host(String),
}

impl GuestRam {
    /// The files behind all regions, by the region's first address, but for those that are the user's: whoever maps them shares the memory.
    ///
    /// # Errors
    /// [`RamError::NotShared`] names a zone whose memory nobody can share.
    pub fn shared_files(&self) -> Result<Vec<(u64, OwnedFd)>, RamError> {
        let map = self.map();
        let parts = map.iter().filter_map(Part::of).filter(|part| !part.saved.in_users_file);
        let files = parts.map(|part| match &part.backing {
            Backing::Shared { file, .. } => {
                let failed = |source| RamError::Backing { zone: part.saved.zone.clone(), source };
                Ok((part.saved.base, file.try_clone().map_err(failed)?.into()))
            }
            _ => Err(RamError::NotShared(part.saved.zone.clone())),
        });
        files.collect()
    }

    /// Makes the regions `ranges` again, which a machine with these zones has saved, and says for each where its bytes come from.
    ///
    /// A file that `source` offers has to stay as it is, as long as the RAM lives: what it loses is a bus error when it is touched.
    ///
    /// # Errors
    /// [`RamError`] names the zone that could not be backed, the range that does not fit its zone or the others, or that whose file ends
    /// too early.
    pub fn restore(
        zones: &[Zone],
        ranges: &[SavedRange],
        source: &dyn RangeSource,
    ) -> Result<(Self, Vec<RangeMode>), RamError> {
        let zones: BTreeMap<&str, &Zone> = zones.iter().map(|zone| (zone.id.as_str(), zone)).collect();
        let mut rooms = BTreeMap::new();
        let mut regions = Vec::with_capacity(ranges.len().min(MOST_RANGES));
        let mut modes = Vec::with_capacity(ranges.len().min(MOST_RANGES));
        let mut free_from = 0;
        for (number, range) in ranges.iter().enumerate() {
            let wrong = |reason| RamError::Saved { base: range.base, zone: range.zone.clone(), reason };
            if number == MOST_RANGES {
                return Err(wrong("there are more ranges than any machine has"));
            }
            let zone = zones.get(range.zone.as_str()).ok_or_else(|| {
                wrong("the configuration has no such zone; restore with the configuration that was saved with it")
            })?;
            free_from = check(zone, range, free_from).map_err(wrong)?;
            if range.is_room && rooms.insert(zone.id.clone(), range.addresses()).is_some() {
                return Err(wrong("the zone has room for more twice"));
            }
            let (region, mode) = region(zone, range, source)?;
            regions.push(region);
            modes.push(mode);
        }
        Ok((Self::of(regions, rooms)?, modes))
    }
}

/// Whether `range` can be one of `zone`, and lies behind the previous one, which ends at `free_from`. Answers its own end.
fn check(zone: &Zone, range: &SavedRange, free_from: u64) -> Result<u64, &'static str> {
    /// Of the CPU: no address has more bits.
    const LIMIT: u64 = 1 << 52;
    let page = match zone.pages {
        Pages::Huge { size: Some(page) } => page.max(PAGE as u64),
        _ => PAGE as u64,
    };
    if range.len == 0 || [range.base, range.len, range.offset].iter().any(|n| !n.is_multiple_of(page)) {
        return Err("its place or size is no multiple of the zone's page size");
    }
    let file_end = range.offset.checked_add(range.len).filter(|end| *end <= LIMIT);
    let end = range.base.checked_add(range.len).filter(|end| *end <= LIMIT && file_end.is_some());
    let end = end.ok_or("it lies beyond all addresses")?;
    if range.base < free_from {
        return Err("it lies before the end of the previous one");
    }
    match (range.in_users_file, backing::is_users_file(zone)) {
        (false, true) => Err("the zone's file would be overwritten: it had none when the snapshot was made"),
        (true, false) => Err("its bytes are in the zone's file, and the zone has none; name the file again"),
        _ => Ok(end),
    }
}

fn region(
    zone: &Zone,
    range: &SavedRange,
    source: &dyn RangeSource,
) -> Result<(RamRegion, RangeMode), RamError> {
    if range.in_users_file {
        check_users_file(zone, range)?;
        return Ok((fresh(zone, range)?, RangeMode::Users));
    }
    if let Some(file) = source.shared(range) {
        return Ok((shared(zone, range, file)?, RangeMode::Shared));
    }
    match copied(zone, range, source)? {
        Ok(region) => Ok((region, RangeMode::CopyOnWrite)),
        Err(obstacle) => Ok((fresh(zone, range)?, RangeMode::Fresh(obstacle))),
    }
}

/// A user's file that is not there, or not whole, would be made anew, and the guest find nothing in its RAM.
fn check_users_file(zone: &Zone, range: &SavedRange) -> Result<(), RamError> {
    let Some(path) = &zone.file else { return Ok(()) };
    let failed = |source| RamError::Backing { zone: zone.id.clone(), source };
    let found = std::fs::metadata(path).map_err(failed)?.len();
    let needed = range.offset + range.len;
    if found < needed {
        let text = format!("RAM at {:#x} needs {needed} bytes of it and it has {found}", range.base);
        return Err(failed(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
    }
    Ok(())
}

/// A region backed as when the machine boots, without anything in it that is not its own.
fn fresh(zone: &Zone, range: &SavedRange) -> Result<RamRegion, RamError> {
    let file = backing::open(zone, range.offset + range.len)?;
    let backing = backing::backing(zone, file.as_ref(), range.offset)?;
    let region = backing::map(zone, range.clone(), backing)?;
    if let Some(part) = Part::of(&region).filter(|part| matches!(part.backing, Backing::Copied { .. })) {
        // Whoever fills the region leaves out what is zero.
        let dropped = part.drop_private(0..part.pages());
        dropped.map_err(|source| RamError::Backing { zone: zone.id.clone(), source })?;
    }
    Ok(region)
}

/// A region that is another process's memory too.
fn shared(zone: &Zone, range: &SavedRange, file: &File) -> Result<RamRegion, RamError> {
    let failed = |source| RamError::Backing { zone: zone.id.clone(), source };
    let found = file.metadata().map_err(failed)?.len();
    let needed = range.offset.saturating_add(range.len);
    if found < needed {
        return Err(RamError::Short { base: range.base, needed, found });
    }
    let backing = Backing::Shared { file: file.try_clone().map_err(failed)?, offset: range.offset };
    backing::map(zone, range.clone(), backing)
}

/// A region that is mapped from the snapshot's file, or why it is not.
fn copied(
    zone: &Zone,
    range: &SavedRange,
    source: &dyn RangeSource,
) -> Result<Result<RamRegion, Obstacle>, RamError> {
    let (file, offset) = match offered(zone, range, source) {
        Ok(offered) => offered,
        Err(obstacle) => return Ok(Err(obstacle)),
    };
    let found = match file.metadata() {
        Ok(metadata) => metadata.len(),
        Err(error) => return Ok(Err(Obstacle::Host(error.to_string()))),
    };
    let needed = offset.saturating_add(range.len);
    if found < needed {
        return Err(RamError::Short { base: range.base, needed, found });
    }
    let file = match file.try_clone() {
        Ok(file) => file,
        Err(error) => return Ok(Err(Obstacle::Host(error.to_string()))),
    };
    match backing::map(zone, range.clone(), Backing::Copied { file, offset, is_snapshot: true }) {
        Ok(region) => Ok(Ok(region)),
        Err(RamError::Map { source, .. }) => Ok(Err(Obstacle::Host(source.to_string()))),
        Err(error) => Err(error),
    }
}

/// What the source offers for `range`, if it can be mapped.
fn offered<'s>(
    zone: &Zone,
    range: &SavedRange,
    source: &'s dyn RangeSource,
) -> Result<(&'s File, u64), Obstacle> {
    if zone.shared {
        return Err(Obstacle::Shared);
    }
    if matches!(zone.pages, Pages::Huge { .. }) {
        return Err(Obstacle::HugePages);
    }
    if zone.file.is_some() {
        return Err(Obstacle::OwnFile);
    }
    if zone.mergeable {
        return Err(Obstacle::Mergeable);
    }
    if zone.prefault {
        return Err(Obstacle::Prefault);
    }
    if zone.host_numa_node.is_some() {
        return Err(Obstacle::NumaNode);
    }
    let (file, offset) = source.file(range).ok_or(Obstacle::NoFile)?;
    if !offset.is_multiple_of(PAGE as u64) {
        return Err(Obstacle::Unaligned(offset));
    }
    if extents::huge_page(file).is_some() {
        return Err(Obstacle::HugePages);
    }
    Ok((file, offset))
}

#[cfg(test)]
mod tests;

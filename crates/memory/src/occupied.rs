//! Which parts of RAM a snapshot has to look at.
//!
//! Looking itself would make pages: whoever reads a hole of shared memory gets a page of zeroes there, which then stays.

use std::ops::Range;

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::part::{Backing, PAGE, Part};
use crate::{RamRegion, RamView, extents, layout, pagemap};

impl RamView {
    /// The parts of `len` bytes from `base` that are RAM and may hold anything but zeroes, in whole pages and ascending order, none of
    /// them across the end of a range. Meant for a
    /// guest that is held: what is written meanwhile may be missing. Takes a file's position, and asks [`crate::open_pagemap`]'s list.
    pub fn occupied(&self, base: u64, len: u64) -> Vec<layout::Range> {
        let mut all = Vec::new();
        for (region, pages) in self.parts(base, len) {
            let Some(part) = Part::of(region) else { continue };
            let runs = merged(part.occupied(pages));
            all.extend(runs.into_iter().map(|run| addresses(region, &run)));
        }
        all
    }

    /// The pages of `len` bytes from `base` that may differ from a snapshot's file, since they were written or given back after the region
    /// was mapped from it. `None` if some of it is not mapped from one, or the kernel does not tell: then only comparing helps.
    pub fn private_pages(&self, base: u64, len: u64) -> Option<Vec<layout::Range>> {
        let mut all = Vec::new();
        let mut covered = 0;
        for (region, pages) in self.parts(base, len) {
            let part = Part::of(region)?;
            if !matches!(part.backing, Backing::Copied { is_snapshot: true, .. }) {
                return None;
            }
            covered += (pages.len() * PAGE) as u64;
            let runs = merged(part.changed(pages)?);
            all.extend(runs.into_iter().map(|run| addresses(region, &run)));
        }
        (covered >= len).then_some(all)
    }

    /// The regions that have some of `len` bytes from `base`, and which of their pages these are.
    pub(crate) fn parts(&self, base: u64, len: u64) -> impl Iterator<Item = (&RamRegion, Range<usize>)> {
        let end = base.saturating_add(len);
        self.iter().filter_map(move |region| {
            let start = region.start_addr().0;
            let first = base.max(start);
            let last = end.min(start.saturating_add(region.len()));
            let within = last.checked_sub(first).filter(|len| *len > 0)?;
            let offset = (first - start) as usize;
            Some((region, offset / PAGE..(offset + within as usize).div_ceil(PAGE)))
        })
    }
}

impl Part {
    /// The pages among `pages` that may hold anything but zeroes.
    fn occupied(&self, pages: Range<usize>) -> Vec<Range<usize>> {
        let all = || vec![pages.clone()];
        match &self.backing {
            Backing::Zeroes { .. } => pagemap::own(self.start(), pages.clone()).unwrap_or_else(|_| all()),
            Backing::Shared { .. } => self.data(&pages),
            Backing::Copied { .. } => {
                let Some(mut runs) = self.changed(pages.clone()) else { return all() };
                for data in self.data(&pages) {
                    runs.append(&mut self.kept(data));
                }
                runs
            }
        }
    }

    /// The pages among `pages` that are not the file's any more.
    fn changed(&self, pages: Range<usize>) -> Option<Vec<Range<usize>>> {
        let mut runs = pagemap::own(self.start(), pages.clone()).ok()?;
        let Some(dropped) = self.dropped.get() else { return Some(runs) };
        let mut at = pages.start;
        while let Some(run) = dropped.run(at..pages.end, true) {
            at = run.end;
            runs.push(run);
        }
        Some(runs)
    }

    /// The pages among `pages` where the file has data.
    pub(crate) fn data(&self, pages: &Range<usize>) -> Vec<Range<usize>> {
        let (Backing::Shared { file, offset } | Backing::Copied { file, offset, .. }) = &self.backing else {
            return Vec::new();
        };
        let place = |page: usize| offset.saturating_add((page * PAGE) as u64);
        let page = |place: u64| (place - offset).div_ceil(PAGE as u64) as usize;
        let within = place(pages.start)..place(pages.end);
        let data = match self.huge() {
            None => extents::data(file, within),
            Some(page) => extents::data_of_huge(file, within, page),
        };
        data.into_iter()
            .map(|run| ((run.start - offset) / PAGE as u64) as usize..page(run.end).min(pages.end))
            .collect()
    }

    /// The pages among `pages` that were not given back.
    pub(crate) fn kept(&self, pages: Range<usize>) -> Vec<Range<usize>> {
        let Some(dropped) = self.dropped.get() else { return vec![pages] };
        let mut runs = Vec::new();
        let mut at = pages.start;
        while let Some(run) = dropped.run(at..pages.end, false) {
            at = run.end;
            runs.push(run);
        }
        runs
    }
}

fn addresses(region: &RamRegion, pages: &Range<usize>) -> layout::Range {
    (region.start_addr().0 + (pages.start * PAGE) as u64, (pages.len() * PAGE) as u64)
}

/// The same pages in ascending order, each once, and those that meet in one piece.
fn merged(mut runs: Vec<Range<usize>>) -> Vec<Range<usize>> {
    runs.sort_unstable_by_key(|run| run.start);
    let mut all: Vec<Range<usize>> = Vec::with_capacity(runs.len());
    for run in runs {
        match all.last_mut() {
            Some(last) if last.end >= run.start => last.end = last.end.max(run.end),
            _ => all.push(run),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use config::plan::Zone;

    use super::*;
    use crate::{Bytes, GuestAddress, GuestRam, test_ram};

    const SIZE: u64 = 4096;

    fn write(ram: &GuestRam, pages: &[u64]) {
        for page in pages {
            ram.map().write_obj(7u64, GuestAddress(page * SIZE + 8)).unwrap();
        }
    }

    #[test]
    fn only_what_was_written_is_occupied() {
        let ram = test_ram(&[(0, 64 << 20), (1 << 32, 16 << 12)]);
        assert!(ram.map().occupied(0, u64::MAX).is_empty());
        write(&ram, &[3, 4, 9, 16 << 10 >> 1, 1 << 20]);
        let all = ram.map().occupied(0, u64::MAX);
        assert_eq!(all, [(3 * SIZE, 2 * SIZE), (9 * SIZE, SIZE), (8192 * SIZE, SIZE), (1 << 32, SIZE)]);
        assert_eq!(ram.map().occupied(4 * SIZE + 5, SIZE), [(4 * SIZE, SIZE)], "whole pages");
        assert!(ram.map().occupied(64 << 20, 1 << 20).is_empty(), "no RAM");
        assert_eq!(ram.map().private_pages(0, SIZE), None, "there is no snapshot to differ from");
    }

    #[test]
    fn a_look_at_shared_memory_takes_no_pages() {
        let zone = Zone { shared: true, ..Zone::new("z", 64 * SIZE) };
        let ram = GuestRam::allocate(&[zone]).unwrap();
        write(&ram, &[5, 6, 63]);
        assert_eq!(ram.map().occupied(0, 64 * SIZE), [(5 * SIZE, 2 * SIZE), (63 * SIZE, SIZE)]);
        let region = ram.map().find_region(GuestAddress(0)).unwrap().get_mmap();
        let file = region.file_offset().unwrap().file();
        assert_eq!(file.metadata().unwrap().blocks(), 3 * SIZE / 512);
        ram.dma().view().discard(GuestAddress(5 * SIZE), SIZE).unwrap();
        assert_eq!(ram.map().occupied(0, 64 * SIZE), [(6 * SIZE, SIZE), (63 * SIZE, SIZE)]);
    }

    #[test]
    fn pages_are_merged_where_they_meet() {
        let pages = vec![5..7, 1..2, 2..4, 6..9, 20..21];
        assert_eq!(merged(pages), [1..4, 5..9, 20..21]);
    }
}

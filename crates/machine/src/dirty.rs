//! Which pages of RAM change: the guest's own writes, which the hypervisor logs, and those of this process, which each region's hook logs.

use std::sync::Arc;

use hv::{DirtyLog, Error, RegionId, Vm};
use memory::layout::Range;
use memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRam};

use crate::Machine;

const PAGE: u64 = 4096;
/// Pages to a word of a log.
const WORD: u64 = 64;

/// A log of changes that runs until it is dropped. RAM that comes meanwhile is not in it.
pub struct DirtyRam {
    vm: Arc<dyn Vm>,
    ram: GuestRam,
    regions: Vec<(GuestAddress, RegionId)>,
}

impl DirtyRam {
    /// Starts logging. `None`: this hypervisor cannot tell.
    pub(crate) fn start(
        vm: Arc<dyn Vm>,
        ram: GuestRam,
        regions: Vec<(GuestAddress, RegionId)>,
    ) -> Result<Option<Self>, Error> {
        let dirty = Self { vm, ram, regions };
        let Some(log) = dirty.vm.dirty_log() else { return Ok(None) };
        dirty.each_hook(memory::WriteHook::enable);
        log.start()?;
        Ok(Some(dirty))
    }

    fn each_hook(&self, act: impl Fn(&memory::WriteHook)) {
        self.ram.map().iter().for_each(|region| act(region.get_mmap().bitmap()));
    }

    /// What has changed since this was last called, or since the log began: whole pages, in ascending order.
    ///
    /// # Errors
    /// [`Error::Operation`]; some changes are lost then.
    pub fn take(&self) -> Result<Vec<Range>, Error> {
        let Some(log) = self.vm.dirty_log() else { return Ok(Vec::new()) };
        let map = self.ram.map();
        let mut runs = Vec::new();
        for (base, id) in &self.regions {
            let Some(region) = map.find_region(*base) else { continue };
            let ours = region.get_mmap().bitmap().take();
            let theirs = log.take(*id)?;
            let at = |log: &[u64], index: usize| log.get(index).copied().unwrap_or(0);
            let words = (0..ours.len().max(theirs.len())).map(|index| at(&ours, index) | at(&theirs, index));
            add_runs(&mut runs, (base.0, region.len()), words);
        }
        Ok(runs)
    }
}

impl Drop for DirtyRam {
    fn drop(&mut self) {
        self.each_hook(memory::WriteHook::disable);
        if let Some(Err(error)) = self.vm.dirty_log().map(DirtyLog::stop) {
            // It costs the guest time, and nothing else.
            tracing::warn!("Changes of RAM are still logged: {error}");
        }
    }
}

/// The pages of a region whose bits are set, as runs that are as long as can be.
fn add_runs(runs: &mut Vec<Range>, (base, len): Range, words: impl Iterator<Item = u64>) {
    for (at, mut word) in (0u64..).zip(words) {
        while word != 0 {
            let first = u64::from(word.trailing_zeros());
            let count = u64::from((word >> first).trailing_ones());
            let start = (at * WORD + first) * PAGE;
            if start >= len {
                return;
            }
            let size = (count * PAGE).min(len - start);
            match runs.last_mut() {
                Some((last, size_so_far)) if *last + *size_so_far == base + start => *size_so_far += size,
                _ => runs.push((base + start, size)),
            }
            word = if first + count == WORD { 0 } else { word >> (first + count) << (first + count) };
        }
    }
}

impl Machine {
    /// Guest RAM.
    pub fn ram(&self) -> GuestRam {
        self.ram.guest().clone()
    }

    /// Logs changes of RAM from now on, until the log is dropped. `None`: this hypervisor cannot tell.
    ///
    /// # Errors
    /// [`Error::Operation`].
    pub fn watch_writes(&self) -> Result<Option<DirtyRam>, Error> {
        DirtyRam::start(self.vm.clone(), self.ram(), self.ram.regions())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(len: u64, words: &[u64]) -> Vec<Range> {
        let mut runs = Vec::new();
        add_runs(&mut runs, (0x10_0000, len), words.iter().copied());
        runs.iter().map(|(base, len)| ((base - 0x10_0000) / PAGE, len / PAGE)).collect()
    }

    #[test]
    fn bits_become_the_longest_runs() {
        const MANY: u64 = 1 << 30;
        assert_eq!(runs(MANY, &[0, 0]), []);
        assert_eq!(runs(MANY, &[0b1011, 1 << 63, 1]), [(0, 2), (3, 1), (127, 2)]);
        assert_eq!(runs(MANY, &[u64::MAX, u64::MAX, 0b1]), [(0, 129)]);
        assert_eq!(runs(MANY, &[1 | 1 << 63]), [(0, 1), (63, 1)]);
    }

    #[test]
    fn bits_beyond_the_region_mean_nothing() {
        assert_eq!(runs(3 * PAGE, &[u64::MAX, u64::MAX]), [(0, 3)]);
        assert_eq!(runs(64 * PAGE, &[1 << 63, u64::MAX]), [(63, 1)]);
    }

    #[test]
    fn runs_of_neighbours_meet() {
        let mut all = vec![(0, 0x10_0000)];
        add_runs(&mut all, (0x10_0000, PAGE), [1].into_iter());
        assert_eq!(all, [(0, 0x10_0000 + PAGE)]);
    }
}

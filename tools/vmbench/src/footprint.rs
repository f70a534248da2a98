//! What memory a process occupies, from `/proc/PID/smaps` (Documentation/filesystems/proc.rst): the proportional set size, which counts a
//! shared page by its share.

use crate::error::{Error, Result};
use std::fs;
use std::path::PathBuf;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Mapping {
    size_kib: u64,
    pss_kib: u64,
}

/// MiB of the process beyond the mapping that is its guest's RAM: the largest one, if it is as large as that.
///
/// # Errors
/// The process is gone.
pub(crate) fn beyond_ram(pid: u32, ram_mib: u64) -> Result<f64> {
    let path = PathBuf::from(format!("/proc/{pid}/smaps"));
    let text = fs::read_to_string(&path).map_err(|source| Error::File { path, source })?;
    Ok(without_ram(&mappings(&text), ram_mib << 10) as f64 / 1024.0)
}

fn without_ram(mappings: &[Mapping], ram_kib: u64) -> u64 {
    let total: u64 = mappings.iter().map(|mapping| mapping.pss_kib).sum();
    let largest = mappings.iter().max_by_key(|mapping| mapping.size_kib);
    let ram = largest.filter(|mapping| mapping.size_kib >= ram_kib).map_or(0, |mapping| mapping.pss_kib);
    total - ram
}

fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    let number = |rest: &str| rest.trim().trim_end_matches(" kB").parse().unwrap_or(0);
    for line in smaps.lines() {
        // "Size:" is the first line below each mapping's own.
        if let Some(rest) = line.strip_prefix("Size:") {
            mappings.push(Mapping { size_kib: number(rest), pss_kib: 0 });
        } else if let (Some(rest), Some(last)) = (line.strip_prefix("Pss:"), mappings.last_mut()) {
            last.pss_kib = number(rest);
        }
    }
    mappings
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
5581-5582 r-xp 00000000 08:01 12 /bin/vmm
Size:               1024 kB
KernelPageSize:        4 kB
Pss:                 600 kB
Pss_Dirty:             7 kB
7f00-7f80 rw-p 00000000 00:00 0
Size:             262144 kB
Pss:               50000 kB
";

    #[test]
    fn ram_is_left_out() {
        let mappings = mappings(SMAPS);
        assert_eq!(mappings.len(), 2);
        assert_eq!(without_ram(&mappings, 262_144), 600);
    }

    #[test]
    fn without_ram_all_counts() {
        assert_eq!(without_ram(&mappings(SMAPS), 262_145), 50_600);
        assert_eq!(without_ram(&[], 1), 0);
    }
}

//! The guest's own page tables, walked by hand: where a linear address leads (Intel SDM volume 3, chapter 5; AMD APM volume 2, chapter 5).
//!
//! The tables are the guest's and may hold anything: a walk reads at most five entries. It sets no accessed bits and asks no permissions,
//! because it is a debugger's look and not the guest's.

use crate::SystemRegisters;

const CR0_PG: u64 = 1 << 31;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// The highest level that can have pages: 1 GiB.
const HIGHEST_PAGE: u32 = 3;

/// The guest-physical address behind a linear one, as a CPU with these registers sees it: without paging the address itself, else through
/// tables of four or five levels. `read` looks into RAM. `None`: nothing is mapped there, or paging is the 32-bit kind, which is not
/// walked.
pub fn translate(
    system: &SystemRegisters,
    linear: u64,
    mut read: impl FnMut(u64) -> Option<u64>,
) -> Option<u64> {
    if system.cr0 & CR0_PG == 0 {
        return Some(linear);
    }
    if system.efer & EFER_LMA == 0 {
        return None;
    }
    let levels = if system.cr4 & CR4_LA57 == 0 { 4 } else { 5 };
    // All bits above those that are translated are as the highest of these.
    let unused = 64 - (12 + 9 * levels);
    if (linear.cast_signed() << unused >> unused).cast_unsigned() != linear {
        return None;
    }
    let mut table = system.cr3 & ADDRESS;
    for level in (1..=levels).rev() {
        let shift = 12 + 9 * (level - 1);
        let entry = read(table + 8 * (linear >> shift & 511))?;
        if entry & PRESENT == 0 {
            return None;
        }
        let is_large = level > 1 && entry & LARGE != 0;
        if is_large && level > HIGHEST_PAGE {
            return None;
        }
        if is_large || level == 1 {
            let inside = (1 << shift) - 1;
            return Some(entry & ADDRESS & !inside | linear & inside);
        }
        table = entry & ADDRESS;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn long_mode() -> SystemRegisters {
        // The low bits of CR3 are flags or a PCID.
        SystemRegisters { cr0: CR0_PG, efer: EFER_LMA, cr3: 0x1018, ..SystemRegisters::default() }
    }

    /// Page tables with one page of each size.
    fn memory() -> BTreeMap<u64, u64> {
        [
            // 0xffff_8000_0000_0000 and up, and 0.
            (0x1000 + 8 * 256, 0x2000 | PRESENT),
            (0x1000, 0x2000 | PRESENT),
            (0x2000, 0x3000 | PRESENT),
            (0x2000 + 8, 0x4000_0000 | LARGE | PRESENT),
            (0x3000, 0x4000 | PRESENT),
            (0x3000 + 8, 0x60_0000 | LARGE | PRESENT),
            (0x4000 + 8 * 5, 0x8000_0000_0000_7000 | PRESENT),
            (0x4000 + 8 * 6, 0x7000),
            // A page of 512 GiB, which there is not; a table that is not in RAM; the top level again.
            (0x1000 + 8, LARGE | PRESENT),
            (0x1000 + 16, 0x00ff_0000_0000 | PRESENT),
            (0x1000 + 24, 0x1000 | PRESENT),
            (0x9000, 0x1000 | PRESENT),
        ]
        .into()
    }

    fn look(system: &SystemRegisters, linear: u64) -> Option<u64> {
        let memory = memory();
        translate(system, linear, |address| memory.get(&address).copied())
    }

    #[test]
    fn pages_of_every_size_are_found() {
        assert_eq!(
            look(&long_mode(), 0x5123),
            Some(0x7123),
            "4 KiB; the no-execute bit is no part of the address"
        );
        assert_eq!(look(&long_mode(), 0x20_0000 + 0x1_2345), Some(0x60_0000 + 0x1_2345), "2 MiB");
        assert_eq!(look(&long_mode(), (1 << 30) + 0x1234_5678), Some(0x4000_0000 + 0x1234_5678), "1 GiB");
        assert_eq!(look(&long_mode(), 0xffff_8000_0000_5008), Some(0x7008), "the upper half");
    }

    #[test]
    fn five_levels_are_walked_when_they_are_on() {
        let five = SystemRegisters { cr4: CR4_LA57, cr3: 0x9000, ..long_mode() };
        assert_eq!(look(&five, 0x5123), Some(0x7123));
        assert_eq!(look(&five, 1 << 56), None, "not canonical");
    }

    #[test]
    fn what_is_not_mapped_leads_nowhere() {
        for linear in [0x6000, 0x40_0000, 1 << 39, 2 << 39, 1 << 47, u64::MAX] {
            assert_eq!(look(&long_mode(), linear), None, "{linear:#x}");
        }
        let own_table = 3 << 39 | 3 << 30 | 3 << 21 | 3 << 12 | 8;
        assert_eq!(look(&long_mode(), own_table), Some(0x1008), "a walk through one table ends too");
    }

    #[test]
    fn without_paging_addresses_are_physical() {
        let real = SystemRegisters { cr0: 1, ..long_mode() };
        assert_eq!(look(&real, 0xfff0), Some(0xfff0));
        let protected = SystemRegisters { efer: 0, ..long_mode() };
        assert_eq!(look(&protected, 0x5123), None);
    }
}

//! The guest-physical address map (`spec/devices.md` §1).
//!
//! ```text
//!  0          640K   1M                     3G      3.625G      4G
//!  | RAM      | EBDA | RAM                  | PCI32 | ECAM, ... | RAM ... | PCI64 ... | platform |
//! ```

/// Where the kernel looks for the RSDP pointer's segment.
pub const EBDA_POINTER: u64 = 0x40e;
/// End of low RAM as the guest is told; ACPI tables follow.
pub const EBDA: u64 = 0xa_0000;
/// The RSDP; the other ACPI tables follow it.
pub const RSDP: u64 = EBDA;
/// The VM generation ID, behind the ACPI tables. Not where a page begins: kernels look there for the ROMs of PC cards, which two of its bytes
/// might look like.
pub const GENERATION: u64 = 0xe_f010;
/// The SMBIOS entry point; tables follow it.
pub const SMBIOS: u64 = 0xf_0000;
/// Start of high RAM and the default load address of kernels.
pub const HIGH_RAM: u64 = 0x10_0000;
/// End of RAM below the hole, and start of the 32-bit PCI window.
pub const HOLE: u64 = 0xc000_0000;
/// Bytes in the 32-bit PCI window.
pub const PCI32_SIZE: u64 = 640 << 20;
/// PCIe configuration space, 1 MiB per segment.
pub const ECAM: u64 = 0xe800_0000;
/// Bytes of ECAM set aside, used or not.
pub const ECAM_SIZE: u64 = 256 << 20;
/// ECAM bytes per PCI segment: one bus.
pub const ECAM_SEGMENT: u64 = 1 << 20;
/// Three pages KVM needs on Intel processors.
pub const KVM_TSS: u64 = 0xf800_0000;
/// One page KVM needs on Intel processors.
pub const KVM_IDENTITY_MAP: u64 = 0xf800_3000;
/// The IOAPIC's registers.
pub const IOAPIC: u64 = 0xfec0_0000;
/// Bytes of IOAPIC registers.
pub const IOAPIC_SIZE: u64 = 0x20;
/// RAM beyond the hole starts here.
pub const ABOVE_4G: u64 = 1 << 32;
/// Platform registers (hot-plug controllers, GED) lie in the last MiB before the end of the address space.
pub const PLATFORM_SIZE: u64 = 1 << 20;

/// RAM that comes later does so in multiples of this many bytes, on such addresses: Linux manages memory in blocks of this size.
pub const BLOCK: u64 = 128 << 20;

/// A RAM range in the guest: base and length in bytes.
pub type Range = (u64, u64);

/// Splits `size` bytes that start at RAM offset `from` around the hole. At most two ranges.
pub fn place(from: u64, size: u64) -> Vec<Range> {
    let end = from.saturating_add(size);
    let low = from.min(HOLE)..end.min(HOLE);
    let high = from.max(HOLE)..end.max(HOLE);
    let mut ranges = Vec::with_capacity(2);
    if !low.is_empty() {
        ranges.push((low.start, low.end - low.start));
    }
    if !high.is_empty() {
        ranges.push((high.start - HOLE + ABOVE_4G, high.end - high.start));
    }
    ranges
}

/// Where RAM of `size` bytes ends.
pub fn end(size: u64) -> u64 {
    place(0, size).last().map_or(0, |(base, len)| base.saturating_add(*len))
}

/// Places room for more behind RAM that ends at `end`, and above 4 GiB: for each size and alignment, one after the other, at multiples of
/// 128 MiB at least. A size of 0 takes no room. What does not fit 64 bits begins at the last address.
pub fn rooms(end: u64, wanted: impl IntoIterator<Item = (u64, u64)>) -> Vec<Range> {
    const LEAST: u64 = 128 << 20;
    let mut end = end.max(ABOVE_4G);
    let mut next = |(size, align): (u64, u64)| {
        if size == 0 {
            return (end, 0);
        }
        let start = end.checked_next_multiple_of(align.max(LEAST)).unwrap_or(u64::MAX);
        end = start.saturating_add(size);
        (start, size)
    };
    wanted.into_iter().map(&mut next).collect()
}

/// The address space beyond RAM, for a guest that sees `phys_bits` of physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceArea {
    /// 64-bit PCI window: first address.
    pub pci64_start: u64,
    /// 64-bit PCI window: last address.
    pub pci64_end: u64,
    /// Platform registers: first of [`PLATFORM_SIZE`] bytes.
    pub platform: u64,
}

/// Lays out what follows all RAM that there can be, which ends at `ram_end`, or `None` if it leaves no room in `phys_bits`.
pub fn device_area(ram_end: u64, phys_bits: u8) -> Option<DeviceArea> {
    const RESERVED_AT_TOP: u64 = 64 << 10;
    const ALIGN: u64 = 4 << 30;
    let top = 1u64.checked_shl(phys_bits.into())?.checked_sub(RESERVED_AT_TOP)?;
    let platform = top.checked_sub(PLATFORM_SIZE)?;
    let pci64_start = ram_end.max(ABOVE_4G).checked_next_multiple_of(ALIGN)?;
    (pci64_start < platform).then_some(DeviceArea { pci64_start, pci64_end: platform - 1, platform })
}

/// What the guest's firmware tables call a stretch of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Usable RAM (e820 type 1).
    Ram,
    /// Not for the guest's use (e820 type 2).
    Reserved,
}

/// The e820 and PVH memory map for `ram` bytes, lowest address first.
pub fn memory_map(ram: u64) -> Vec<(Range, Usage)> {
    let mut map = vec![((0, EBDA.min(ram)), Usage::Ram)];
    for (base, len) in place(0, ram) {
        let start = base.max(HIGH_RAM);
        if base + len > start {
            map.push(((start, base + len - start), Usage::Ram));
        }
    }
    map.push(((ECAM, ECAM_SIZE), Usage::Reserved));
    map.sort_by_key(|(range, _)| range.0);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_splits_around_the_hole() {
        assert_eq!(place(0, 256 << 20), [(0, 256 << 20)]);
        assert_eq!(place(0, 5 << 30), [(0, HOLE), (ABOVE_4G, 2 << 30)]);
        assert_eq!(place(2 << 30, 2 << 30), [(2 << 30, 1 << 30), (ABOVE_4G, 1 << 30)]);
        assert_eq!(place(4 << 30, 1 << 30), [(ABOVE_4G + (1 << 30), 1 << 30)]);
        assert_eq!(place(0, 0), []);
    }

    #[test]
    fn the_map_covers_all_ram_but_the_ebda() {
        let map = memory_map(5 << 30);
        let ram: u64 = map.iter().filter(|(_, usage)| *usage == Usage::Ram).map(|(range, _)| range.1).sum();
        assert_eq!(ram, (5 << 30) - (HIGH_RAM - EBDA));
        assert!(map.windows(2).all(|w| w[0].0.0 + w[0].0.1 <= w[1].0.0));
    }

    #[test]
    fn room_for_more_lies_behind_ram_and_above_4_gib() {
        const MIB: u64 = 1 << 20;
        assert_eq!(
            rooms(end(MIB), [(256 * MIB, 0), (0, 0), (128 * MIB, 1 << 30)]),
            [(ABOVE_4G, 256 * MIB), (ABOVE_4G + 256 * MIB, 0), (5 << 30, 128 * MIB)]
        );
        assert_eq!(rooms(end(HOLE + MIB), [(128 * MIB, 4096)]), [(ABOVE_4G + 128 * MIB, 128 * MIB)]);
        assert_eq!(rooms(u64::MAX, [(MIB, 0)]), [(u64::MAX, MIB)]);
        assert_eq!((end(0), end(HOLE), end(HOLE + 1)), (0, HOLE, ABOVE_4G + 1));
    }

    #[test]
    fn devices_follow_ram_and_may_not_fit() {
        let area = device_area(end(5 << 30), 46).unwrap();
        assert_eq!(area.pci64_start, 8 << 30);
        assert_eq!(area.platform, (1 << 46) - (64 << 10) - (1 << 20));
        assert_eq!(device_area(end(1 << 40), 36), None);
        assert_eq!(device_area(1 << 20, 64), None);
    }
}

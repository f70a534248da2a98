//! Where boot data lies below 1 MiB (`spec/devices.md` §1), and which RAM is left for a kernel.

use memory::{GuestAddress, GuestMemoryBackend, GuestRam, layout};

/// The first CPU's segment descriptors.
pub(crate) const GDT: u64 = 0x500;
/// The first CPU's interrupt descriptors: none.
pub(crate) const IDT: u64 = 0x520;
/// The PVH `hvm_start_info`.
pub(crate) const START_INFO: u64 = 0x6000;
/// The PVH list of modules.
pub(crate) const MODULES: u64 = 0x6040;
/// The PVH memory map.
pub(crate) const MEMORY_MAP: u64 = 0x7000;
/// The Linux boot protocol's `boot_params`.
pub(crate) const ZERO_PAGE: u64 = 0x7000;
/// The first CPU's stack pointer.
pub(crate) const STACK_POINTER: u64 = 0x8ff0;
/// The kernel's command line.
pub(crate) const CMDLINE: u64 = 0x2_0000;
/// Bytes the command line may take, with its closing zero.
pub(crate) const CMDLINE_SIZE: usize = 0x1_0000;
/// Boot data ends here.
pub(crate) const BOOT_DATA_END: u64 = 0x3_0000;

/// Whether `size` bytes at `start` are RAM that holds neither boot data nor firmware tables.
pub(crate) fn is_free(ram: &GuestRam, start: u64, size: u64) -> bool {
    let Some(end) = start.checked_add(size) else { return false };
    let clear = start >= layout::HIGH_RAM || (start >= BOOT_DATA_END && end <= layout::EBDA);
    let in_ram = usize::try_from(size).is_ok_and(|size| ram.map().check_range(GuestAddress(start), size));
    clear && in_ram
}

/// Whether two half-open ranges share an address.
pub(crate) fn overlap(a: (u64, u64), b: (u64, u64)) -> bool {
    a.0 < b.1 && b.0 < a.1
}

//! Linux bzImages, entered through the 32-bit boot protocol (Linux `Documentation/arch/x86/boot.rst`, `spec/devices.md` §1).

use linux_loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use memory::layout::{self, Usage};
use memory::{ByteValued, Bytes, GuestAddress, GuestMemoryError, GuestRam};
use thiserror::Error;

use crate::image::{Image, ImageError};
use crate::kernel::{Kernel, Protocol};
use crate::low_memory::{CMDLINE, ZERO_PAGE, is_free};

/// Where the setup header starts, in the file and in the zero page.
const HEADER: u64 = 0x1f1;
/// "HdrS".
const MAGIC: u32 = 0x5372_6448;
/// Where [`MAGIC`] is.
const MAGIC_OFFSET: u64 = 0x202;
/// Where [`MAGIC`] ends: a shorter file cannot be told from others.
pub(crate) const MAGIC_END: u64 = MAGIC_OFFSET + 4;
/// The first protocol version with a 32-bit pointer to the command line.
const OLDEST: u16 = 0x202;

/// What is wrong with a bzImage.
#[derive(Debug, Error)]
pub enum BzImageError {
    /// Too old, or a zImage, which is loaded low.
    #[error("its boot protocol {}.{:02} is older than 2.02 or it is a zImage; use a newer kernel", version >> 8, version & 0xff)]
    Old {
        /// Major version in the high byte.
        version: u16,
    },
    /// The header itself is cut off.
    #[error("it ends within its header, after {found:#x} bytes: the file is truncated")]
    HeaderTruncated {
        /// Bytes in the file.
        found: u64,
    },
    /// There is less in the file than its header says.
    #[error(
        "it has {found:#x} bytes after its boot sector where its header wants {wanted:#x}: the file is truncated"
    )]
    Truncated {
        /// What the header wants.
        wanted: u64,
        /// What there is.
        found: u64,
    },
    /// It cannot be placed.
    #[error(
        "it needs {size:#x} bytes at {start:#x}, which are outside RAM or below 1 MiB; give the machine more memory"
    )]
    Placement {
        /// Guest-physical address.
        start: u64,
        /// Bytes it takes while it unpacks itself.
        size: u64,
    },
    /// It cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Whether the file has a Linux setup header.
pub(crate) fn is_bzimage(image: &Image<'_>) -> Result<bool, ImageError> {
    let mut magic = [0; 4];
    if !image.holds(MAGIC_OFFSET, magic.len() as u64) {
        return Ok(false);
    }
    image.read(MAGIC_OFFSET, &mut magic)?;
    Ok(u32::from_le_bytes(magic) == MAGIC)
}

/// Copies the protected-mode part to where its header wants it.
pub(crate) fn load(image: &mut Image<'_>, ram: &GuestRam) -> Result<Kernel, BzImageError> {
    const LOADED_HIGH: u8 = 1;
    const SECTOR: u64 = 512;
    let setup = read_header(image)?;
    if setup.version < OLDEST || setup.loadflags & LOADED_HIGH == 0 {
        return Err(BzImageError::Old { version: setup.version });
    }
    let sectors = if setup.setup_sects == 0 { 4 } else { u64::from(setup.setup_sects) };
    let offset = (sectors + 1) * SECTOR;
    let found = image.size().saturating_sub(offset);
    // Before 2.04 the field had 16 bits and said nothing about large kernels.
    let wanted = if setup.version >= 0x204 { u64::from(setup.syssize) * 16 } else { 1 };
    if found < wanted.max(1) {
        return Err(BzImageError::Truncated { wanted, found });
    }
    let start = u64::from(setup.code32_start);
    let misplaced = |size| BzImageError::Placement { start, size };
    if start < layout::HIGH_RAM || !is_free(ram, start, found) {
        return Err(misplaced(found));
    }
    let end = unpacked_end(&setup).max(start + found);
    if !is_free(ram, start, end - start) {
        return Err(misplaced(end - start));
    }
    image.copy(offset, found, ram, start)?;
    let last = if setup.version >= 0x203 { setup.initrd_addr_max } else { 0x37ff_ffff };
    Ok(Kernel {
        protocol: Protocol::Linux,
        entry: setup.code32_start,
        occupied: vec![(start, end)],
        initramfs_end: u64::from(last) + 1,
        setup: Some(setup),
    })
}

/// The header says itself where it ends; the fields a kernel does not know stay zero.
fn read_header(image: &Image<'_>) -> Result<setup_header, BzImageError> {
    let mut setup = setup_header::default();
    let mut jump = [0; 2];
    image.read(0x200, &mut jump)?;
    let end = MAGIC_OFFSET + u64::from(jump[1]);
    if image.size() < end {
        return Err(BzImageError::HeaderTruncated { found: image.size() });
    }
    let size = usize::try_from(end.saturating_sub(HEADER)).unwrap_or(0).min(size_of::<setup_header>());
    image.read(HEADER, setup.as_mut_slice().get_mut(..size).unwrap_or_default())?;
    Ok(setup)
}

/// The end of what the kernel uses before it knows the memory map: it unpacks itself at its load address, aligned up, or at its
/// preferred address if that is higher or it cannot be moved.
fn unpacked_end(setup: &setup_header) -> u64 {
    if setup.version < 0x20a {
        return 0;
    }
    let start = u64::from(setup.code32_start);
    let alignment = u64::from(setup.kernel_alignment).max(1);
    let moved = start.next_multiple_of(alignment);
    let runs_at =
        if setup.relocatable_kernel == 0 { setup.pref_address } else { moved.max(setup.pref_address) };
    runs_at.saturating_add(setup.init_size.into())
}

/// Writes the zero page. `initramfs`: address and bytes, both below 4 GiB.
pub(crate) fn write_zero_page(
    ram: &GuestRam,
    setup: &setup_header,
    initramfs: Option<(u32, u32)>,
) -> Result<(), GuestMemoryError> {
    const UNKNOWN_LOADER: u8 = 0xff;
    const NORMAL_VIDEO: u16 = 0xffff;
    const E820_RAM: u32 = 1;
    const E820_RESERVED: u32 = 2;
    let mut params = boot_params { hdr: *setup, acpi_rsdp_addr: layout::RSDP, ..Default::default() };
    params.hdr.type_of_loader = UNKNOWN_LOADER;
    params.hdr.vid_mode = NORMAL_VIDEO;
    params.hdr.cmd_line_ptr = CMDLINE as u32;
    (params.hdr.ramdisk_image, params.hdr.ramdisk_size) = initramfs.unwrap_or_default();
    let mut table = params.e820_table;
    for (slot, ((addr, size), usage)) in table.iter_mut().zip(layout::memory_map(ram.total())) {
        let r#type = match usage {
            Usage::Ram => E820_RAM,
            Usage::Reserved => E820_RESERVED,
        };
        *slot = boot_e820_entry { addr, size, r#type };
        params.e820_entries += 1;
    }
    params.e820_table = table;
    ram.map().write_obj(params, GuestAddress(ZERO_PAGE))
}

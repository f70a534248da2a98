//! ELF images with a PVH entry point: Linux as `vmlinux`, and firmware (Xen's x86/HVM direct boot ABI, `spec/devices.md` §1).
//!
//! Segments are checked as a whole before the first byte of RAM changes.

use linux_loader::elf::{Elf64_Ehdr, Elf64_Nhdr, Elf64_Phdr, PT_LOAD, PT_NOTE};
use linux_loader::loader::start_info::{
    XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_MEMMAP_TYPE_RESERVED, XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry,
    hvm_modlist_entry, hvm_start_info,
};
use memory::layout::{self, Usage};
use memory::{ByteValued, Bytes, GuestAddress, GuestMemoryError, GuestRam};
use thiserror::Error;

use crate::image::{Image, ImageError};
use crate::kernel::{Kernel, Protocol};
use crate::low_memory::{CMDLINE, MEMORY_MAP, MODULES, START_INFO, is_free, overlap};

/// More program headers than any linker writes.
const MAX_HEADERS: u16 = 128;
/// More notes than any kernel has, in bytes.
const MAX_NOTES: u64 = 64 << 10;
/// The note type that carries the 32-bit entry point (`XEN_ELFNOTE_PHYS32_ENTRY`).
const PHYS32_ENTRY: u32 = 18;

/// What is wrong with an ELF image.
#[derive(Debug, Error)]
pub enum ElfError {
    /// Not the ELF this machine runs.
    #[error(
        "it is not a 64-bit little-endian ELF image for x86 (machine {0}); take a kernel built for x86_64"
    )]
    Foreign(u16),
    /// The program header table is not where the header says, or not of the known form.
    #[error("its program headers are malformed")]
    Headers,
    /// A segment or note lies beyond the end of the file.
    #[error("it ends before its segment at file offset {0:#x}: the file is truncated")]
    Truncated(u64),
    /// A segment cannot be placed.
    #[error(
        "its segment at {start:#x} ({size:#x} bytes) is outside RAM or on top of boot data; give the machine more memory or link the \
         image at 1 MiB or higher"
    )]
    Placement {
        /// Guest-physical address.
        start: u64,
        /// Bytes in memory.
        size: u64,
    },
    /// Two segments want the same memory.
    #[error("its segments at {0:#x} and {1:#x} overlap")]
    Overlap(u64, u64),
    /// The notes cannot be understood.
    #[error("its notes are malformed")]
    Notes,
    /// There is no PVH note.
    #[error("Kernel lacks PVH header: build Linux with CONFIG_PVH=y, or use its bzImage")]
    NoPvh,
    /// The PVH entry point is not in the image.
    #[error("its PVH entry point {0:#x} is outside its segments")]
    Entry(u32),
    /// It cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// RAM cannot be written.
    #[error("cannot clear the memory after its segment at {start:#x}")]
    Clear {
        /// Guest-physical address of the segment.
        start: u64,
        /// What `vm-memory` says.
        #[source]
        source: GuestMemoryError,
    },
}

/// Copies the image's segments to where they are linked.
pub(crate) fn load(image: &mut Image<'_>, ram: &GuestRam) -> Result<Kernel, ElfError> {
    let headers = program_headers(image)?;
    let mut segments: Vec<_> =
        headers.iter().filter(|h| h.p_type == PT_LOAD && memory_size(h) != 0).copied().collect();
    segments.sort_by_key(|header| header.p_paddr);
    check_segments(&segments, image, ram)?;
    let notes = headers.iter().filter(|h| h.p_type == PT_NOTE);
    let entry = notes.map(|header| pvh_entry(image, header)).find_map(Result::transpose);
    let entry = entry.ok_or(ElfError::NoPvh)??;
    let occupied: Vec<_> = segments.iter().map(|h| (h.p_paddr, h.p_paddr + memory_size(h))).collect();
    if !occupied.iter().any(|&(start, end)| (start..end).contains(&entry.into())) {
        return Err(ElfError::Entry(entry));
    }
    for segment in &segments {
        image.copy(segment.p_offset, segment.p_filesz, ram, segment.p_paddr)?;
        clear(ram, segment)?;
    }
    Ok(Kernel { protocol: Protocol::Pvh, entry, occupied, initramfs_end: u64::MAX, setup: None })
}

/// An image may say that more of a segment is in the file than in memory; what is in the file is loaded all the same.
fn memory_size(header: &Elf64_Phdr) -> u64 {
    header.p_memsz.max(header.p_filesz)
}

fn program_headers(image: &Image<'_>) -> Result<Vec<Elf64_Phdr>, ElfError> {
    const CLASS_64: u8 = 2;
    const LITTLE_ENDIAN: u8 = 1;
    const MACHINES: [u16; 2] = [3, 62];
    let mut header = Elf64_Ehdr::default();
    image.read(0, header.as_mut_slice())?;
    let [_, _, _, _, class, data, ..] = header.e_ident;
    if class != CLASS_64 || data != LITTLE_ENDIAN || !MACHINES.contains(&header.e_machine) {
        return Err(ElfError::Foreign(header.e_machine));
    }
    let count = header.e_phnum;
    let table = u64::from(count) * size_of::<Elf64_Phdr>() as u64;
    let known = usize::from(header.e_phentsize) == size_of::<Elf64_Phdr>() && count <= MAX_HEADERS;
    if !known || !image.holds(header.e_phoff, table) {
        return Err(ElfError::Headers);
    }
    let mut headers = vec![Elf64_Phdr::default(); count.into()];
    let mut offset = header.e_phoff;
    for header in &mut headers {
        image.read(offset, header.as_mut_slice())?;
        offset += size_of::<Elf64_Phdr>() as u64;
    }
    Ok(headers)
}

/// `segments` are in order of their addresses.
fn check_segments(segments: &[Elf64_Phdr], image: &Image<'_>, ram: &GuestRam) -> Result<(), ElfError> {
    let mut previous = (0, 0);
    for segment in segments {
        let (start, size) = (segment.p_paddr, memory_size(segment));
        if !image.holds(segment.p_offset, segment.p_filesz) {
            return Err(ElfError::Truncated(segment.p_offset));
        }
        if !is_free(ram, start, size) {
            return Err(ElfError::Placement { start, size });
        }
        let range = (start, start + size);
        if overlap(previous, range) {
            return Err(ElfError::Overlap(previous.0, start));
        }
        previous = range;
    }
    Ok(())
}

/// The rest of a segment is zero, also in RAM that is a file with old contents.
fn clear(ram: &GuestRam, segment: &Elf64_Phdr) -> Result<(), ElfError> {
    static ZEROS: [u8; 4 << 10] = [0; 4 << 10];
    let start = segment.p_paddr;
    let end = start + memory_size(segment);
    let mut at = start + segment.p_filesz;
    while at < end {
        let chunk = usize::try_from(end - at).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
        let zeros = ZEROS.get(..chunk).unwrap_or_default();
        ram.map().write_slice(zeros, GuestAddress(at)).map_err(|source| ElfError::Clear { start, source })?;
        at += chunk as u64;
    }
    Ok(())
}

/// The entry point, if this segment of notes carries it.
fn pvh_entry(image: &Image<'_>, segment: &Elf64_Phdr) -> Result<Option<u32>, ElfError> {
    if !image.holds(segment.p_offset, segment.p_filesz) {
        return Err(ElfError::Truncated(segment.p_offset));
    }
    if segment.p_filesz > MAX_NOTES {
        return Err(ElfError::Notes);
    }
    let mut bytes = vec![0; usize::try_from(segment.p_filesz).map_err(|_| ElfError::Notes)?];
    image.read(segment.p_offset, &mut bytes)?;
    find_entry(&bytes).ok_or(ElfError::Notes)
}

/// Walks the notes. The outer `None`: they are malformed.
fn find_entry(mut notes: &[u8]) -> Option<Option<u32>> {
    while notes.len() >= size_of::<Elf64_Nhdr>() {
        let (header, rest) = notes.split_at(size_of::<Elf64_Nhdr>());
        let mut note = Elf64_Nhdr::default();
        note.as_mut_slice().copy_from_slice(header);
        let (name, rest) = take_padded(rest, note.n_namesz)?;
        let (value, rest) = take_padded(rest, note.n_descsz)?;
        if note.n_type == PHYS32_ENTRY && name == b"Xen\0" {
            let (low, high) = value.split_first_chunk::<4>()?;
            // Linux writes the address as 64 bits.
            return high.iter().all(|byte| *byte == 0).then_some(Some(u32::from_le_bytes(*low)));
        }
        notes = rest;
    }
    Some(None)
}

/// The last note of a segment may lack its padding.
fn take_padded(bytes: &[u8], size: u32) -> Option<(&[u8], &[u8])> {
    let size = usize::try_from(size).ok()?;
    let taken = bytes.get(..size)?;
    let rest = bytes.get(size.checked_next_multiple_of(4)?..).unwrap_or_default();
    Some((taken, rest))
}

/// Writes the start info and what it points to. `initramfs`: address and bytes.
pub(crate) fn write_start_info(
    ram: &GuestRam,
    initramfs: Option<(u64, u64)>,
) -> Result<(), GuestMemoryError> {
    let mut at = MEMORY_MAP;
    let mut entries = 0;
    for ((addr, size), usage) in layout::memory_map(ram.total()) {
        let type_ = match usage {
            Usage::Ram => XEN_HVM_MEMMAP_TYPE_RAM,
            Usage::Reserved => XEN_HVM_MEMMAP_TYPE_RESERVED,
        };
        let entry = hvm_memmap_table_entry { addr, size, type_, reserved: 0 };
        ram.map().write_obj(entry, GuestAddress(at))?;
        at += size_of_val(&entry) as u64;
        entries += 1;
    }
    if let Some((paddr, size)) = initramfs {
        let module = hvm_modlist_entry { paddr, size, ..Default::default() };
        ram.map().write_obj(module, GuestAddress(MODULES))?;
    }
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        nr_modules: initramfs.is_some().into(),
        modlist_paddr: if initramfs.is_some() { MODULES } else { 0 },
        cmdline_paddr: CMDLINE,
        rsdp_paddr: layout::RSDP,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: entries,
        ..Default::default()
    };
    ram.map().write_obj(info, GuestAddress(START_INFO))
}

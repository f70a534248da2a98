//! Loading what the guest runs first: a kernel with command line and initramfs, or a firmware (`spec/devices.md` §1, boot protocol).

use std::path::{Path, PathBuf};

use config::plan::Payload;
use linux_loader::bootparam::setup_header;
use memory::layout;
use memory::{Bytes, GuestAddress, GuestMemoryError, GuestRam};
use thiserror::Error;

use crate::image::{Image, ImageError};
use crate::low_memory::{CMDLINE, CMDLINE_SIZE, overlap};
use crate::{BzImageError, ElfError, bzimage, pvh};

const PAGE: u64 = 4096;

/// How the kernel expects to be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Xen's x86/HVM direct boot ABI.
    Pvh,
    /// Linux's 32-bit boot protocol.
    Linux,
}

/// A kernel in RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// How to enter it.
    pub protocol: Protocol,
    /// Guest-physical address of its first instruction.
    pub entry: u32,
}

/// Why nothing can be booted.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The kernel is neither of the known formats.
    #[error("The kernel '{}' is {found}: {advice}", path.display())]
    Format {
        /// Where it is.
        path: PathBuf,
        /// What it looks like.
        found: &'static str,
        /// What to do next.
        advice: &'static str,
    },
    /// The ELF image cannot be loaded.
    #[error("Cannot load the kernel '{}'", path.display())]
    Elf {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ElfError,
    },
    /// The bzImage cannot be loaded.
    #[error("Cannot load the kernel '{}'", path.display())]
    BzImage {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: BzImageError,
    },
    /// The command line is longer than 64 KiB.
    #[error("command line too large: {0} bytes, at most {limit} fit", limit = CMDLINE_SIZE - 1)]
    CmdlineTooLarge(usize),
    /// The command line contains a zero, which would end it.
    #[error("The command line contains a NUL character at byte {0}")]
    CmdlineNul(usize),
    /// There is no room for the initramfs.
    #[error(
        "The initramfs '{}' ({size:#x} bytes) does not fit into RAM beside the kernel; give the machine more memory",
        path.display()
    )]
    InitramfsTooLarge {
        /// Where it is.
        path: PathBuf,
        /// Its bytes.
        size: u64,
    },
    /// There is less RAM than boot data needs.
    #[error("Cannot write boot data below 1 MiB; give the machine more memory")]
    Ram(#[source] GuestMemoryError),
}

/// What a format's loader found out.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) protocol: Protocol,
    pub(crate) entry: u32,
    /// Half-open address ranges the kernel takes.
    pub(crate) occupied: Vec<(u64, u64)>,
    /// The initramfs must end at or below this address.
    pub(crate) initramfs_end: u64,
    /// Goes into the zero page.
    pub(crate) setup: Option<setup_header>,
}

/// Copies the payload into RAM and writes what the boot protocol hands over, except the ACPI tables.
///
/// # Errors
/// [`LoadError`]; RAM may be half written then.
pub fn load(ram: &GuestRam, payload: &Payload) -> Result<Loaded, LoadError> {
    // A firmware is a kernel without command line and initramfs.
    let (kernel, cmdline, initramfs) = match payload {
        Payload::Kernel { kernel, cmdline, initramfs } => (kernel, cmdline.as_deref(), initramfs.as_deref()),
        Payload::Firmware { firmware } => (firmware, None, None),
    };
    let cmdline = terminated(cmdline.unwrap_or_default())?;
    let kernel = load_kernel(ram, kernel)?;
    let initramfs = match initramfs {
        Some(path) => load_initramfs(ram, path, &kernel)?,
        None => None,
    };
    write_boot_data(ram, &kernel, &cmdline, initramfs).map_err(LoadError::Ram)?;
    Ok(Loaded { protocol: kernel.protocol, entry: kernel.entry })
}

fn terminated(cmdline: &str) -> Result<Vec<u8>, LoadError> {
    if cmdline.len() >= CMDLINE_SIZE {
        return Err(LoadError::CmdlineTooLarge(cmdline.len()));
    }
    if let Some(at) = cmdline.bytes().position(|byte| byte == 0) {
        return Err(LoadError::CmdlineNul(at));
    }
    Ok([cmdline.as_bytes(), &[0]].concat())
}

fn load_kernel(ram: &GuestRam, path: &Path) -> Result<Kernel, LoadError> {
    let mut image = Image::open("kernel", path)?;
    let mut start = [0; 64];
    let known = usize::try_from(image.size()).map_or(start.len(), |size| size.min(start.len()));
    let start = start.get_mut(..known).unwrap_or_default();
    image.read(0, start)?;
    if start.starts_with(b"\x7fELF") {
        return pvh::load(&mut image, ram).map_err(|source| LoadError::Elf { path: path.into(), source });
    }
    if bzimage::is_bzimage(&image)? {
        return bzimage::load(&mut image, ram)
            .map_err(|source| LoadError::BzImage { path: path.into(), source });
    }
    let (found, advice) = recognize(start, image.size());
    Err(LoadError::Format { path: image.path().into(), found, advice })
}

/// Names a file that is no kernel by its first bytes, and the next step.
fn recognize(start: &[u8], size: u64) -> (&'static str, &'static str) {
    const UNPACK: &str = "unpack it first";
    const DISK: &str = "it belongs into --disk";
    const FORMATS: [(usize, &[u8], &str, &str); 11] = [
        (0, b"\x1f\x8b", "gzip-compressed", UNPACK),
        (0, b"\xfd7zXZ\0", "xz-compressed", UNPACK),
        (0, b"\x28\xb5\x2f\xfd", "zstd-compressed", UNPACK),
        (0, b"\x02\x21\x4c\x18", "lz4-compressed", UNPACK),
        (56, b"ARM\x64", "an arm64 Image", "take a kernel built for x86_64"),
        (48, b"RISCV\0\0\0", "a RISC-V Image", "take a kernel built for x86_64"),
        (0, b"QFI\xfb", "a qcow2 disk image", DISK),
        (0, b"07070", "a cpio archive", "it belongs into --initramfs"),
        (0, b"IGVM", "an IGVM file", "it belongs into --igvm"),
        (0, b"MZ", "an EFI program", "take a bzImage or an ELF image with a PVH note"),
        (0, b"#!", "a script", "take a bzImage or an ELF image with a PVH note"),
    ];
    if start.is_empty() {
        return ("empty", "take a bzImage or an ELF image with a PVH note");
    }
    if start.starts_with(b"MZ") && size < bzimage::MAGIC_END {
        // All bzImages are EFI programs, too, and these begin as DOS programs did.
        return ("cut off: it begins like a bzImage and ends before the header", "copy the whole file anew");
    }
    let matching =
        FORMATS.iter().find(|(at, magic, ..)| start.get(*at..).is_some_and(|s| s.starts_with(magic)));
    matching.map_or(
        (
            "neither an ELF image nor a bzImage",
            "take a Linux vmlinux or bzImage, or a firmware built as ELF image with a PVH note",
        ),
        |(_, _, found, advice)| (found, advice),
    )
}

/// Puts the initramfs as high as it goes in the RAM below the hole. Returns address and bytes.
fn load_initramfs(ram: &GuestRam, path: &Path, kernel: &Kernel) -> Result<Option<(u64, u64)>, LoadError> {
    let mut image = Image::open("initramfs", path)?;
    let size = image.size();
    if size == 0 {
        return Ok(None);
    }
    let top = ram.total().min(layout::HOLE).min(kernel.initramfs_end);
    let start = top.checked_sub(size).map(|start| start / PAGE * PAGE);
    let start = start.filter(|&start| {
        let range = (start, start + size);
        start >= layout::HIGH_RAM && !kernel.occupied.iter().any(|taken| overlap(*taken, range))
    });
    let start = start.ok_or_else(|| LoadError::InitramfsTooLarge { path: path.into(), size })?;
    image.copy(0, size, ram, start)?;
    Ok(Some((start, size)))
}

fn write_boot_data(
    ram: &GuestRam,
    kernel: &Kernel,
    cmdline: &[u8],
    initramfs: Option<(u64, u64)>,
) -> Result<(), GuestMemoryError> {
    let ebda_segment = (layout::EBDA >> 4) as u16;
    ram.map().write_obj(ebda_segment, GuestAddress(layout::EBDA_POINTER))?;
    ram.map().write_slice(cmdline, GuestAddress(CMDLINE))?;
    match &kernel.setup {
        // The initramfs ends below the hole, hence below 4 GiB.
        Some(setup) => {
            let initramfs = initramfs.map(|(start, size)| (start as u32, size as u32));
            bzimage::write_zero_page(ram, setup, initramfs)
        }
        None => pvh::write_start_info(ram, initramfs),
    }
}

//! Kernels made by hand, honest and hostile, loaded into test RAM.

use std::io::Write;

use config::plan::Payload;
use hv::SystemRegisters;
use memory::{Bytes, GuestAddress, GuestRam, test_ram};
use tempfile::NamedTempFile;

use crate::{BzImageError, ElfError, ImageError, LoadError, Loaded, Protocol, enter, load};

const MIB: u64 = 1 << 20;

fn small_ram() -> GuestRam {
    test_ram(&[(0, 64 << 20)])
}

fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn payload(kernel: &NamedTempFile, cmdline: &str, initramfs: Option<&NamedTempFile>) -> Payload {
    let cmdline = (!cmdline.is_empty()).then(|| cmdline.to_owned());
    let initramfs = initramfs.map(|file| file.path().to_owned());
    Payload::Kernel { kernel: kernel.path().into(), cmdline, initramfs }
}

fn load_bytes(ram: &GuestRam, kernel: &[u8]) -> Result<Loaded, LoadError> {
    load(ram, &payload(&file(kernel), "console=ttyS0", None))
}

fn elf_error(kernel: &[u8]) -> ElfError {
    match load_bytes(&small_ram(), kernel).unwrap_err() {
        LoadError::Elf { source, .. } => source,
        other => panic!("{other}"),
    }
}

fn bzimage_error(kernel: &[u8]) -> BzImageError {
    match load_bytes(&small_ram(), kernel).unwrap_err() {
        LoadError::BzImage { source, .. } => source,
        other => panic!("{other}"),
    }
}

fn u32_at(ram: &GuestRam, at: u64) -> u32 {
    ram.map().read_obj(GuestAddress(at)).unwrap()
}

fn u64_at(ram: &GuestRam, at: u64) -> u64 {
    ram.map().read_obj(GuestAddress(at)).unwrap()
}

fn bytes_at(ram: &GuestRam, at: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    ram.map().read_slice(&mut bytes, GuestAddress(at)).unwrap();
    bytes
}

#[derive(Clone, Copy)]
struct Header {
    kind: u32,
    offset: u64,
    address: u64,
    in_file: u64,
    in_memory: u64,
}

const CODE: Header = Header { kind: 1, offset: 0x1000, address: MIB, in_file: 0x100, in_memory: 0x2000 };
const NOTES: Header = Header { kind: 4, offset: 0x1100, address: 0, in_file: 40, in_memory: 40 };

/// An ELF image with its code at 0x1000 and two notes at 0x1100, of which the second gives `entry`.
fn elf(headers: &[Header], entry: u64) -> Vec<u8> {
    let mut image = b"\x7fELF\x02\x01\x01".to_vec();
    image.resize(16, 0);
    image.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for field in [0u64, 64, 0] {
        image.extend(field.to_le_bytes());
    }
    for field in [0u16, 0, 64, 56, headers.len() as u16, 64, 0, 0] {
        image.extend(field.to_le_bytes());
    }
    for header in headers {
        image.extend(header.kind.to_le_bytes());
        image.extend(7u32.to_le_bytes());
        for field in [header.offset, header.address, header.address, header.in_file, header.in_memory, 0x1000]
        {
            image.extend(field.to_le_bytes());
        }
    }
    image.resize(0x1000, 0);
    image.resize(0x1100, 0xf4);
    for word in [4u32, 0, 1, u32::from_le_bytes(*b"GNU\0"), 4, 8, 18, u32::from_le_bytes(*b"Xen\0")] {
        image.extend(word.to_le_bytes());
    }
    image.extend(entry.to_le_bytes());
    image
}

const PREFERRED: u64 = 16 * MIB;
const INIT_SIZE: u32 = 0x20_0000;

/// A bzImage with one setup sector and `body` bytes of 0x90 after it.
fn bzimage(body: usize) -> Vec<u8> {
    let mut image = vec![0; 1024];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1f4, &(body as u32 / 16).to_le_bytes());
    put(0x200, &[0xeb, 0x66]);
    put(0x202, b"HdrS");
    put(0x206, &0x20fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x214, &(MIB as u32).to_le_bytes());
    put(0x22c, &0x3ff_ffffu32.to_le_bytes());
    put(0x230, &0x20_0000u32.to_le_bytes());
    put(0x234, &[1]);
    put(0x258, &PREFERRED.to_le_bytes());
    put(0x260, &INIT_SIZE.to_le_bytes());
    // Beyond what the header says it holds: code, which must not reach the zero page.
    put(0x268, &[0xcc; 8]);
    image.resize(1024 + body, 0x90);
    image
}

#[test]
fn a_pvh_image_is_placed_and_described() {
    let ram = small_ram();
    ram.map().write_slice(&[0xff; 0x2000], GuestAddress(MIB)).unwrap();
    let loaded = load_bytes(&ram, &elf(&[CODE, NOTES], MIB + 0x10)).unwrap();
    assert_eq!(loaded, Loaded { protocol: Protocol::Pvh, entry: 0x10_0010 });
    assert_eq!(bytes_at(&ram, MIB, 0x100), [0xf4; 0x100]);
    assert!(
        bytes_at(&ram, MIB + 0x100, 0x1f00).iter().all(|b| *b == 0),
        "the rest of the segment is cleared"
    );
    let words: Vec<_> = (0..14).map(|i| u32_at(&ram, 0x6000 + i * 4)).collect();
    assert_eq!(words, [0x336e_c578, 1, 0, 0, 0, 0, 0x2_0000, 0, 0xa_0000, 0, 0x7000, 0, 3, 0]);
    assert_eq!(bytes_at(&ram, 0x2_0000, 14), b"console=ttyS0\0");
    assert_eq!(bytes_at(&ram, 0x40e, 2), [0x00, 0xa0]);
}

#[test]
fn the_pvh_memory_map_of_five_gib_is_exact() {
    let ram = test_ram(&[(0, 3 << 30), (4 << 30, 2 << 30)]);
    load_bytes(&ram, &elf(&[CODE, NOTES], MIB)).unwrap();
    assert_eq!(u32_at(&ram, 0x6030), 4);
    let entries: Vec<_> = (0x7000..)
        .step_by(24)
        .take(4)
        .map(|at| [u64_at(&ram, at), u64_at(&ram, at + 8), u64_at(&ram, at + 16)])
        .collect();
    assert_eq!(
        entries,
        [[0, 0xa_0000, 1], [MIB, (3 << 30) - MIB, 1], [0xe800_0000, 256 * MIB, 2], [4 << 30, 2 << 30, 1]]
    );
}

#[test]
fn an_initramfs_lies_at_the_top_of_the_first_ram() {
    let ram = test_ram(&[(0, 3 << 30), (4 << 30, 2 << 30)]);
    let (kernel, initramfs) = (file(&elf(&[CODE, NOTES], MIB)), file(&[7; 5000]));
    load(&ram, &payload(&kernel, "", Some(&initramfs))).unwrap();
    let start = (3 << 30) - 0x2000;
    assert_eq!((u32_at(&ram, 0x600c), u64_at(&ram, 0x6010)), (1, 0x6040));
    assert_eq!((u64_at(&ram, 0x6040), u64_at(&ram, 0x6048)), (start, 5000));
    assert_eq!(bytes_at(&ram, start, 5000), [7; 5000]);
    assert_eq!(bytes_at(&ram, 0x2_0000, 1), [0]);
}

#[test]
fn an_initramfs_may_cross_memory_zones() {
    let ram = test_ram(&[(0, 4 << 20), (4 * MIB, 4 << 20)]);
    let (kernel, initramfs) = (file(&elf(&[CODE, NOTES], MIB)), file(&vec![7; 5 << 20]));
    load(&ram, &payload(&kernel, "", Some(&initramfs))).unwrap();
    assert_eq!(bytes_at(&ram, 3 * MIB, 5 << 20), vec![7; 5 << 20]);
}

#[test]
fn an_initramfs_never_lies_on_the_kernel() {
    let ram = test_ram(&[(0, 4 << 20)]);
    let kernel = file(&elf(&[CODE, NOTES], MIB));
    for (size, fits) in
        [(0, true), (3 << 20, false), ((3 << 20) - 0x2000, true), (4 << 20, false), (5 << 20, false)]
    {
        let initramfs = file(&vec![7; size]);
        let result = load(&ram, &payload(&kernel, "", Some(&initramfs)));
        assert_eq!(result.is_ok(), fits, "{size:#x}");
        assert!(result.is_ok() || matches!(result, Err(LoadError::InitramfsTooLarge { .. })));
    }
}

#[test]
fn a_bzimage_is_placed_and_described() {
    let ram = small_ram();
    let (kernel, initramfs) = (file(&bzimage(0x4000)), file(&[7; 16]));
    let payload = payload(&kernel, "quiet", Some(&initramfs));
    assert_eq!(load(&ram, &payload).unwrap(), Loaded { protocol: Protocol::Linux, entry: 0x10_0000 });
    assert_eq!(bytes_at(&ram, MIB, 0x4000), [0x90; 0x4000]);
    let zero_page = bytes_at(&ram, 0x7000, 0x1000);
    assert_eq!(zero_page[0x70..0x78], 0xa_0000u64.to_le_bytes());
    assert_eq!(zero_page[0x1e8], 3);
    assert_eq!(zero_page[0x1ef], 0, "the sentinel says that the page was cleared");
    assert_eq!(zero_page[0x1f1..0x1f3], [1, 0]);
    assert_eq!(zero_page[0x202..0x206], *b"HdrS");
    assert_eq!(zero_page[0x210], 0xff);
    assert_eq!(zero_page[0x218..0x21c], (64 * MIB as u32 - 0x1000).to_le_bytes());
    assert_eq!(zero_page[0x21c..0x220], 16u32.to_le_bytes());
    assert_eq!(zero_page[0x228..0x22c], 0x2_0000u32.to_le_bytes());
    assert_eq!(zero_page[0x268..0x270], [0; 8], "bytes after the header are not copied");
    let e820 = |i: usize| &zero_page[0x2d0 + 20 * i..0x2d0 + 20 * (i + 1)];
    assert_eq!(e820(0), [&0u64.to_le_bytes()[..], &0xa_0000u64.to_le_bytes(), &1u32.to_le_bytes()].concat());
    assert_eq!(e820(1), [&MIB.to_le_bytes()[..], &(63 * MIB).to_le_bytes(), &1u32.to_le_bytes()].concat());
    assert_eq!(
        e820(2),
        [&0xe800_0000u64.to_le_bytes()[..], &(256 * MIB).to_le_bytes(), &2u32.to_le_bytes()].concat()
    );
    assert_eq!(e820(3), [0; 20]);
}

#[test]
fn a_bzimage_limits_where_its_initramfs_may_end() {
    let ram = small_ram();
    let mut image = bzimage(0x4000);
    image[0x22c..0x230].copy_from_slice(&(32 * MIB as u32 - 1).to_le_bytes());
    let (kernel, initramfs) = (file(&image), file(&[7; 16]));
    load(&ram, &payload(&kernel, "", Some(&initramfs))).unwrap();
    assert_eq!(u32_at(&ram, 0x7218), 32 * MIB as u32 - 0x1000);
    // Below the limit, the memory the kernel unpacks itself to is not free either.
    let initramfs = file(&vec![7; 15 << 20]);
    let result = load(&ram, &payload(&kernel, "", Some(&initramfs)));
    assert!(matches!(result, Err(LoadError::InitramfsTooLarge { .. })));
}

#[test]
fn hostile_elf_images_are_refused() {
    let refused = |headers: &[Header]| elf_error(&elf(headers, MIB));
    let code = |change: fn(&mut Header)| {
        let mut header = CODE;
        change(&mut header);
        refused(&[header, NOTES])
    };
    assert!(matches!(code(|h| h.in_file = u64::MAX), ElfError::Truncated(0x1000)));
    assert!(matches!(code(|h| h.offset = u64::MAX), ElfError::Truncated(u64::MAX)));
    assert!(matches!(code(|h| h.in_memory = u64::MAX), ElfError::Placement { .. }));
    assert!(matches!(code(|h| h.in_memory = 1 << 40), ElfError::Placement { .. }));
    assert!(matches!(code(|h| h.address = u64::MAX - 0x10), ElfError::Placement { .. }));
    assert!(matches!(code(|h| h.address = 64 * MIB - 0x1000), ElfError::Placement { .. }));
    for boot_data in [0, 0x6000, 0x2_0000, 0x9_f000, 0xa_0000, 0xf_0000] {
        let header = Header { address: boot_data, ..CODE };
        assert!(matches!(refused(&[header, NOTES]), ElfError::Placement { .. }), "{boot_data:#x}");
    }
    let second = Header { address: MIB + 0x1fff, ..CODE };
    assert!(matches!(refused(&[second, CODE, NOTES]), ElfError::Overlap(..)));
    assert!(matches!(refused(&[CODE]), ElfError::NoPvh));
    assert!(matches!(refused(&[NOTES]), ElfError::Entry(_)));
    assert!(matches!(refused(&[]), ElfError::NoPvh));
    assert!(matches!(refused(&[CODE, Header { in_file: 0, ..NOTES }]), ElfError::NoPvh));
    assert!(matches!(refused(&[CODE, Header { in_file: 36, ..NOTES }]), ElfError::Notes));
    assert!(matches!(refused(&[CODE, Header { in_file: 1 << 40, ..NOTES }]), ElfError::Truncated(_)));
    assert!(matches!(elf_error(&elf(&[CODE, NOTES], 0x20_0000)), ElfError::Entry(0x20_0000)));
    assert!(matches!(elf_error(&elf(&[CODE, NOTES], 1 << 32)), ElfError::Notes));
}

#[test]
fn hostile_elf_headers_are_refused() {
    let changed = |at: usize, bytes: &[u8]| {
        let mut image = elf(&[CODE, NOTES], MIB);
        image[at..at + bytes.len()].copy_from_slice(bytes);
        elf_error(&image)
    };
    assert!(matches!(changed(4, &[1]), ElfError::Foreign(62)));
    assert!(matches!(changed(5, &[2]), ElfError::Foreign(62)));
    assert!(matches!(changed(18, &183u16.to_le_bytes()), ElfError::Foreign(183)));
    assert!(matches!(changed(32, &[0xff; 8]), ElfError::Headers));
    assert!(matches!(changed(54, &[0, 0]), ElfError::Headers));
    assert!(matches!(changed(56, &[0xff, 0xff]), ElfError::Headers));
    // Name and value sizes of the first note.
    assert!(matches!(changed(0x1100, &[0xff; 4]), ElfError::Notes));
    assert!(matches!(changed(0x1104, &[0xff; 4]), ElfError::Notes));
    // Size of the PVH note's value.
    assert!(matches!(changed(0x1114, &[2]), ElfError::Notes));
    let image = elf(&[CODE, NOTES], MIB);
    for cut in [5, 63, 64, 100] {
        let error = elf_error(&image[..cut]);
        assert!(matches!(error, ElfError::Headers | ElfError::Image(ImageError::Read { .. })), "{error}");
    }
    assert!(matches!(elf_error(&image[..0x1050]), ElfError::Truncated(0x1000)));
}

#[test]
fn hostile_bzimages_are_refused() {
    let changed = |at: usize, bytes: &[u8]| {
        let mut image = bzimage(0x4000);
        image[at..at + bytes.len()].copy_from_slice(bytes);
        bzimage_error(&image)
    };
    assert!(matches!(changed(0x206, &0x201u16.to_le_bytes()), BzImageError::Old { version: 0x201 }));
    assert!(matches!(changed(0x211, &[0]), BzImageError::Old { .. }));
    assert!(matches!(changed(0x214, &0x6000u32.to_le_bytes()), BzImageError::Placement { .. }));
    assert!(matches!(changed(0x214, &[0xff; 4]), BzImageError::Placement { .. }));
    assert!(matches!(changed(0x230, &[0xff; 4]), BzImageError::Placement { .. }));
    assert!(matches!(changed(0x258, &[0xff; 8]), BzImageError::Placement { .. }));
    assert!(matches!(changed(0x260, &[0xff; 4]), BzImageError::Placement { .. }));
    assert!(matches!(changed(0x1f4, &[0xff; 4]), BzImageError::Truncated { found: 0x4000, .. }));
    assert!(matches!(changed(0x1f1, &[0xff]), BzImageError::Truncated { found: 0, .. }));
    assert!(matches!(bzimage_error(&bzimage(0x4000)[..0x2000]), BzImageError::Truncated { .. }));
    for found in [0x206, 0x212, 0x260] {
        let cut = bzimage_error(&bzimage(0x4000)[..found]);
        assert!(
            matches!(cut, BzImageError::HeaderTruncated { found: size } if size == found as u64),
            "{cut}"
        );
    }
    assert!(matches!(bzimage_error(&bzimage(0)), BzImageError::Truncated { found: 0, .. }));
}

#[test]
fn a_huge_sparse_file_is_refused_without_reading_it() {
    let kernel = file(&bzimage(0x4000));
    kernel.as_file().set_len(1 << 40).unwrap();
    let error = load(&small_ram(), &payload(&kernel, "", None)).unwrap_err();
    assert!(matches!(error, LoadError::BzImage { source: BzImageError::Placement { .. }, .. }));
}

/// The start of what a bzImage with an EFI stub looks like as well.
fn efi_program(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    bytes[..2].copy_from_slice(b"MZ");
    bytes
}

#[test]
fn other_files_are_named() {
    for (bytes, found) in [
        (&b""[..], "empty"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"QFI\xfb\0\0\0\x03", "qcow2"),
        (b"070701", "cpio"),
        (b"hello", "neither"),
        (&efi_program(0x205), "cut off: it begins like a bzImage"),
        (&efi_program(0x206), "an EFI program"),
        (&[0; 4096], "neither"),
    ] {
        let error = load_bytes(&small_ram(), bytes).unwrap_err();
        assert!(error.to_string().contains(found), "{error}");
    }
    for path in ["/proc", "/dev/null", "/nonexistent"] {
        let payload = Payload::Firmware { firmware: path.into() };
        let error = load(&small_ram(), &payload).unwrap_err();
        assert!(matches!(error, LoadError::Image(_)) && error.to_string().contains(path), "{error}");
    }
}

#[test]
fn a_command_line_has_a_limit() {
    let kernel = file(&elf(&[CODE, NOTES], MIB));
    let load = |cmdline: &str| load(&small_ram(), &payload(&kernel, cmdline, None));
    assert!(load(&"x".repeat(0xffff)).is_ok());
    assert!(matches!(load(&"x".repeat(0x1_0000)), Err(LoadError::CmdlineTooLarge(0x1_0000))));
    assert!(matches!(load("a\0b"), Err(LoadError::CmdlineNul(1))));
}

#[test]
fn too_little_ram_is_an_error() {
    let ram = test_ram(&[(0, 0x8000)]);
    assert!(load_bytes(&ram, &elf(&[CODE, NOTES], MIB)).is_err());
    assert!(load_bytes(&ram, &bzimage(0x4000)).is_err());
}

#[test]
fn the_first_vcpu_enters_in_flat_protected_mode() {
    let ram = small_ram();
    let fresh =
        SystemRegisters { cr0: 0x6000_0010, cr4: 1 << 13, apic_base: 0xfee0_0900, ..Default::default() };
    let pvh = Loaded { protocol: Protocol::Pvh, entry: 0x100_0000 };
    let (general, system) = enter(&ram, &pvh, &fresh, 254).unwrap();
    assert_eq!((general.rip, general.rbx, general.rsi, general.rflags), (0x100_0000, 0x6000, 0, 2));
    assert_eq!((system.cr0, system.cr3, system.cr4, system.efer), (0x11, 0, 0, 0));
    assert_eq!(system.apic_base, 0xfee0_0900);
    assert_eq!((system.cs.attributes, system.cs.limit, system.cs.base), (0xc09b, u32::MAX, 0));
    assert_eq!((system.gdt.base, system.gdt.limit, system.idt.base), (0x500, 31, 0x520));
    let table: Vec<_> = (0x500..0x520).step_by(8).map(|at| u64_at(&ram, at)).collect();
    assert_eq!(table, [0, 0x0000_8b00_0000_0067, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff]);

    let linux = Loaded { protocol: Protocol::Linux, entry: 0x10_0000 };
    let (general, system) = enter(&ram, &linux, &fresh, 255).unwrap();
    assert_eq!((general.rsi, general.rbx, general.rbp, general.rdi), (0x7000, 0, 0, 0));
    assert_eq!((system.cs.selector, system.ds.selector, general.rsp), (0x10, 0x18, 0x8ff0));
    assert_eq!(system.apic_base, 0xfee0_0d00, "x2APIC mode");
}

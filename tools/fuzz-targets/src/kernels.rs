//! A kernel's file, of any bytes. The first byte chooses RAM, initramfs and command line, the others are the file.
//!
//! It is refused with words, or it lies in RAM as the file says, with an entry point and an initramfs in RAM beside it, and with what
//! the boot protocol hands over: Xen's start info, or Linux's zero page.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use boot::{Loaded, Protocol, enter, load};
use config::plan::Payload;
use hv::SystemRegisters;
use memory::layout::{self, Usage};
use memory::{ByteValued, Bytes as _, GuestAddress, GuestMemoryBackend, GuestRam, test_ram};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::bytes::Bytes;

const MIB: usize = 1 << 20;
/// Ranges of RAM: plenty, in two regions, too little, and none to speak of.
const RAMS: [&[(u64, usize)]; 4] =
    [&[(0, 32 * MIB)], &[(0, 2 * MIB), (2 << 20, 2 * MIB)], &[(0, MIB + 0x2000)], &[(0, 0x8000)]];
const CMDLINE: &str = "console=ttyS0 quiet";
/// Bytes of the initramfs: none, little, and more than some RAM has.
const INITRAMFS: [usize; 4] = [0, 1, 5000, 64 << 10];
const INITRAMFS_BYTE: u8 = 7;

const START_INFO: u64 = 0x6000;
const START_INFO_MAGIC: u32 = 0x336e_c578;
const ZERO_PAGE: u64 = 0x7000;
/// Both protocols' numbers for usable RAM and for what is not for the guest.
const RAM_TYPE: u32 = 1;
const RESERVED_TYPE: u32 = 2;

pub(crate) fn run(data: &[u8]) {
    is_loaded(data);
}

fn is_loaded(data: &[u8]) -> bool {
    let mut bytes = Bytes(data);
    let choices = bytes.byte();
    let ram = test_ram(RAMS[usize::from(choices & 3)]);
    let initramfs_len = INITRAMFS[usize::from(choices >> 2 & 3)];
    let (kernel, initramfs) = (TestFile::new(bytes.0), TestFile::new(&vec![INITRAMFS_BYTE; initramfs_len]));
    if choices & 0x10 != 0 {
        // Most of it is a hole.
        kernel.file.set_len(1 << 40).unwrap();
    }
    let payload = Payload::Kernel {
        kernel: kernel.path.clone(),
        cmdline: Some(CMDLINE.into()),
        initramfs: Some(initramfs.path.clone()),
    };
    let loaded = load(&ram, &payload);
    match &loaded {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(loaded) => check(&ram, loaded, bytes.0, initramfs_len),
    }
    loaded.is_ok()
}

/// A file without a name, and a path to it all the same.
struct TestFile {
    file: File,
    path: PathBuf,
}

impl TestFile {
    fn new(content: &[u8]) -> Self {
        let file = File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC).unwrap());
        file.write_all_at(content, 0).unwrap();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
        Self { file, path }
    }
}

fn check(ram: &GuestRam, loaded: &Loaded, file: &[u8], initramfs_len: usize) {
    assert!(ram.map().address_in_range(GuestAddress(loaded.entry.into())), "{loaded:?} is not in RAM");
    let initramfs = match loaded.protocol {
        Protocol::Pvh => {
            check_segments(ram, file);
            check_start_info(ram)
        }
        Protocol::Linux => {
            let sectors = if file[0x1f1] == 0 { 4 } else { usize::from(file[0x1f1]) };
            assert_holds(ram, loaded.entry.into(), &file[(sectors + 1) * 512..]);
            check_zero_page(ram)
        }
    };
    assert_eq!(initramfs.1, initramfs_len as u64);
    if initramfs_len != 0 {
        assert!(initramfs.0 >= layout::HIGH_RAM, "the initramfs lies on boot data");
        assert_holds(ram, initramfs.0, &vec![INITRAMFS_BYTE; initramfs_len]);
    }
    let (general, _) = enter(ram, loaded, &SystemRegisters::default(), 1).unwrap();
    assert_eq!(general.rip, u64::from(loaded.entry));
}

/// What the file's own headers say of where its bytes go (ELF-64: e_phoff at 32, e_phnum at 56; headers of 56 bytes).
fn check_segments(ram: &GuestRam, file: &[u8]) {
    const LOAD: u32 = 1;
    const HEADER_LEN: u64 = 56;
    let headers = number::<u64>(file, 32);
    for index in 0..u64::from(number::<u16>(file, 56)) {
        let header = part(file, headers + HEADER_LEN * index, HEADER_LEN);
        if number::<u32>(&header, 0) != LOAD {
            continue;
        }
        let [offset, address, size] = [8, 24, 32].map(|at| number::<u64>(&header, at));
        assert_holds(ram, address, &part(file, offset, size));
    }
}

/// `size` bytes at `offset` of the file, which may go on with a hole.
fn part(file: &[u8], offset: u64, size: u64) -> Vec<u8> {
    let rest = file.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
    let mut part = vec![0; usize::try_from(size).unwrap()];
    let known = rest.len().min(part.len());
    part[..known].copy_from_slice(&rest[..known]);
    part
}

/// Answers where the initramfs lies and how large it is.
fn check_start_info(ram: &GuestRam) -> (u64, u64) {
    let words: [u32; 4] = std::array::from_fn(|i| get(ram, START_INFO + 4 * i as u64));
    let [magic, version, _, modules] = words;
    assert_eq!((magic, version), (START_INFO_MAGIC, 1));
    let [list, cmdline, _, map]: [u64; 4] = std::array::from_fn(|i| get(ram, START_INFO + 16 + 8 * i as u64));
    assert_cmdline(ram, cmdline);
    let entries = get::<u32>(ram, START_INFO + 48).into();
    check_map(ram, (0..entries).map(|i| map + 24 * i));
    if modules == 0 { (0, 0) } else { (get(ram, list), get(ram, list + 8)) }
}

/// Answers where the initramfs lies and how large it is.
fn check_zero_page(ram: &GuestRam) -> (u64, u64) {
    assert_eq!(get::<u32>(ram, ZERO_PAGE + 0x202).to_le_bytes(), *b"HdrS");
    assert_cmdline(ram, get::<u32>(ram, ZERO_PAGE + 0x228).into());
    let entries = get::<u8>(ram, ZERO_PAGE + 0x1e8).into();
    check_map(ram, (0..entries).map(|i| ZERO_PAGE + 0x2d0 + 20 * i));
    (get::<u32>(ram, ZERO_PAGE + 0x218).into(), get::<u32>(ram, ZERO_PAGE + 0x21c).into())
}

fn check_map(ram: &GuestRam, entries: impl Iterator<Item = u64>) {
    let found: Vec<_> = entries.map(|at| (get(ram, at), get(ram, at + 8), get(ram, at + 16))).collect();
    let kind = |usage| if usage == Usage::Ram { RAM_TYPE } else { RESERVED_TYPE };
    let expected: Vec<(u64, u64, u32)> = layout::memory_map(ram.total())
        .into_iter()
        .map(|((base, len), usage)| (base, len, kind(usage)))
        .collect();
    assert_eq!(found, expected);
}

fn assert_cmdline(ram: &GuestRam, at: u64) {
    assert_holds(ram, at, &[CMDLINE.as_bytes(), &[0]].concat());
}

fn assert_holds(ram: &GuestRam, at: u64, expected: &[u8]) {
    let mut found = vec![0; expected.len()];
    ram.map().read_slice(&mut found, GuestAddress(at)).unwrap();
    assert!(found == expected, "{:#x} bytes at {at:#x} are not what they should be", expected.len());
}

fn get<T: ByteValued>(ram: &GuestRam, at: u64) -> T {
    ram.map().read_obj(GuestAddress(at)).unwrap()
}

fn number<T: ByteValued + Default>(bytes: &[u8], at: usize) -> T {
    let mut number = T::default();
    number.as_mut_slice().copy_from_slice(&bytes[at..at + size_of::<T>()]);
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A corpus of refused files would test little.
    #[test]
    fn kernels_of_both_kinds_are_loaded() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/kernels");
        for name in
            ["pvh-00", "pvh-02", "pvh-10", "pvh-across", "pvh-filesz", "pvh-hole", "pvh-top", "pvh-two"]
                .into_iter()
                .chain([
                    "bz-00",
                    "bz-02",
                    "bz-10",
                    "bz-202",
                    "bz-fixed",
                    "bz-four-sectors",
                    "bz-low-initrd",
                    "bz-top",
                ])
        {
            assert!(is_loaded(&std::fs::read(format!("{dir}/{name}")).unwrap()), "{name}");
        }
    }
}

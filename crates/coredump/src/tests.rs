//! Core files read back: by the crate `object`, and by readelf and gdb where they are installed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use hv::{CpuState, DescriptorTable, Registers, Segment, SystemRegisters};
use object::Endianness;
use object::elf::{ET_CORE, FileHeader64, PT_LOAD, PT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::{Core, Error, Source, Summary, write};

type Header = FileHeader64<Endianness>;

const MIB: u64 = 1 << 20;
const RANGES: [(u64, u64); 3] = [(0, 3 * MIB), (16 * MIB, 0x3000), (1 << 32, MIB)];

/// RAM in which each page of a few holds its own address, and the rest are zeroes.
const FULL_PAGES: [u64; 5] = [0x1000, MIB - 0x1000, MIB, 16 * MIB + 0x2000, 1 << 32];

fn ram(address: u64, bytes: &mut [u8]) -> io::Result<()> {
    for (page, number) in bytes.chunks_mut(4096).zip(0..) {
        let start: u64 = address + number * 4096;
        let is_full = FULL_PAGES.contains(&start);
        let words = page.chunks_mut(8);
        words.for_each(|word| word.copy_from_slice(&if is_full { start.max(1) } else { 0 }.to_le_bytes()));
    }
    Ok(())
}

fn cpus() -> BTreeMap<u32, CpuState> {
    let cpu = |rip| CpuState {
        registers: Registers { rip, rax: 0xa, r15: 0xf, rsp: 0x8000, rflags: 2, ..Registers::default() },
        system: SystemRegisters {
            cs: Segment { selector: 0x10, base: 0, limit: u32::MAX, attributes: 0xa09b },
            gs: Segment { base: 0xffff_8880_0000_0000, ..Segment::default() },
            idt: DescriptorTable { base: 0xffff_fe00_0000_0000, limit: 0xfff },
            cr3: 0x123_4000,
            cr4: 0x20,
            ..SystemRegisters::default()
        },
        msr: [(0xc000_0102, 0x77)].into(),
        ..CpuState::default()
    };
    // The second of three has been unplugged.
    [(0, cpu(0xffff_ffff_8100_0000)), (2, cpu(0x40_1000))].into()
}

fn dump(path: &Path, occupied: &[(u64, u64)]) -> Result<Core, Error> {
    let source = Source { cpus: &cpus(), ranges: &RANGES, occupied };
    write(path, &source, ram, |_| ControlFlow::Continue(()))
}

/// All notes: name, type, descriptor.
fn notes(file: &[u8]) -> Vec<(Vec<u8>, u32, Vec<u8>)> {
    let header = Header::parse(file).unwrap();
    let endian = header.endian().unwrap();
    let headers = header.program_headers(endian, file).unwrap();
    let mut iterator = headers[0].notes(endian, file).unwrap().unwrap();
    let mut notes = Vec::new();
    while let Some(note) = iterator.next().unwrap() {
        notes.push((note.name().to_vec(), note.n_type(endian).0, note.desc().to_vec()));
    }
    notes
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[test]
fn ram_is_in_segments_and_zeroes_are_holes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core");
    let summary = dump(&path, &RANGES).unwrap().keep().unwrap();
    let file = fs::read(&path).unwrap();
    let pages = FULL_PAGES.len() as u64 * 4096;
    assert_eq!(summary, Summary { total_bytes: file.len() as u64, stored_bytes: pages });
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert!(metadata.blocks() * 512 < MIB, "{} blocks", metadata.blocks());

    let header = Header::parse(file.as_slice()).unwrap();
    let endian = header.endian().unwrap();
    assert_eq!(header.e_type(endian), ET_CORE);
    let headers = header.program_headers(endian, file.as_slice()).unwrap();
    assert_eq!(headers[0].p_type(endian), PT_NOTE);
    assert_eq!(headers.len(), RANGES.len() + 1);
    for (segment, (base, len)) in headers[1..].iter().zip(RANGES) {
        assert_eq!(segment.p_type(endian), PT_LOAD);
        let places = (segment.p_vaddr(endian), segment.p_paddr(endian), segment.p_memsz(endian));
        assert_eq!(places, (base, base, len));
        let mut expected = vec![0; len as usize];
        ram(base, &mut expected).unwrap();
        assert!(segment.data(endian, file.as_slice()).unwrap() == expected, "RAM at {base:#x}");
    }
}

#[test]
fn what_is_not_occupied_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core");
    // Neither bound lies at a page's, and the last part reaches beyond its range.
    let occupied = [(0x1800, 0x10), (16 * MIB + 0x2800, MIB)];
    let mut read = Vec::new();
    let source = Source { cpus: &cpus(), ranges: &RANGES, occupied: &occupied };
    let reader = |address, bytes: &mut [u8]| {
        read.push((address, bytes.len()));
        ram(address, bytes)
    };
    let summary = write(&path, &source, reader, |_| ControlFlow::Continue(())).unwrap().keep().unwrap();
    assert_eq!(read, [(0x1000, 0x1000), (16 * MIB + 0x2000, 0x1000)]);
    assert_eq!(summary.stored_bytes, 0x2000);
}

#[test]
fn each_vcpu_has_both_notes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core");
    dump(&path, &RANGES).unwrap().keep().unwrap();
    let notes = notes(&fs::read(&path).unwrap());
    let kinds: Vec<_> =
        notes.iter().map(|(name, kind, bytes)| (name.as_slice(), *kind, bytes.len())).collect();
    let (core, qemu) = ((b"CORE".as_slice(), 1, 336), (b"QEMU".as_slice(), 0, 440));
    assert_eq!(kinds, [core, core, qemu, qemu]);

    let status = &notes[1].2;
    assert_eq!(status[32..36], 3u32.to_le_bytes(), "vCPU 2 is thread 3");
    // R15 is the first, RAX the eleventh, RIP the seventeenth; GS's base the twenty-third.
    let register = |nth: usize| word(status, 112 + 8 * nth);
    assert_eq!((register(0), register(10), register(16)), (0xf, 0xa, 0x40_1000));
    assert_eq!((register(17), register(18), register(19)), (0x10, 2, 0x8000));
    assert_eq!(register(22), 0xffff_8880_0000_0000);

    let system = &notes[2].2;
    assert_eq!(word(system, 0), 1 | 440 << 32);
    assert_eq!((word(system, 8), word(system, 8 + 8 * 16)), (0xa, 0xffff_ffff_8100_0000));
    let segment = |nth: usize| [0, 8, 16].map(|at| word(system, 152 + 24 * nth + at));
    assert_eq!(segment(0), [0x10 | 0xffff_ffff << 32, 0xa0_9b00, 0]);
    assert_eq!(segment(9), [0xfff << 32, 0, 0xffff_fe00_0000_0000], "the IDT");
    assert_eq!((word(system, 392 + 24), word(system, 392 + 32), word(system, 432)), (0x123_4000, 0x20, 0x77));
}

#[test]
fn a_file_that_is_there_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core");
    fs::write(&path, "mine").unwrap();
    let error = dump(&path, &RANGES).unwrap_err();
    assert!(matches!(&error, Error::Exists(at) if *at == path), "{error:?}");
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    let nowhere = dump(&dir.path().join("none/core"), &RANGES).unwrap_err();
    assert!(matches!(nowhere, Error::Create { .. }), "{nowhere:?}");
}

#[test]
fn a_dump_that_ends_early_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core");
    drop(dump(&path, &RANGES).unwrap());
    assert!(!path.exists(), "nobody kept it");

    let source = Source { cpus: &cpus(), ranges: &RANGES, occupied: &RANGES };
    let mut heard = Vec::new();
    let mut progress = |done| {
        heard.push(done);
        if done < 2 * MIB { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let error = write(&path, &source, ram, &mut progress).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error:?}");
    assert_eq!(heard, [MIB, 2 * MIB]);
    assert!(!path.exists());

    let broken = |address, bytes: &mut [u8]| {
        if address < MIB { ram(address, bytes) } else { Err(io::ErrorKind::Other.into()) }
    };
    let error = write(&path, &source, broken, |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, Error::Read { address: MIB, .. }), "{error:?}");
    assert!(!path.exists());
}

#[test]
fn impossible_ranges_are_refused_before_there_is_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core");
    let cpus = cpus();
    let bad: [&[(u64, u64)]; 6] = [
        &[(0, 0)],
        &[(0x800, 0x1000)],
        &[(0, 0x1800)],
        &[(0x1000, 0x1000), (0, 0x1000)],
        &[(u64::MAX - 0xfff, 0x2000)],
        &[(0, 1 << 63)],
    ];
    for ranges in bad {
        let source = Source { cpus: &cpus, ranges, occupied: ranges };
        let error = write(&path, &source, ram, |_| ControlFlow::Continue(())).unwrap_err();
        assert!(matches!(error, Error::Range { .. }), "{ranges:x?}: {error:?}");
        assert!(!path.exists());
    }
}

/// What a program says, or nothing where it is not installed.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(program).args(arguments).output() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            eprintln!("skipped: this host has no {program}");
            None
        }
        output => {
            let output = output.unwrap();
            let text = [output.stdout, output.stderr].concat();
            Some(String::from_utf8_lossy(&text).into_owned())
        }
    }
}

#[test]
fn readelf_and_gdb_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("core");
    dump(&path, &RANGES).unwrap().keep().unwrap();
    let core = path.to_str().unwrap();
    if let Some(text) = output("readelf", &["--wide", "--headers", "--notes", core]) {
        assert!(text.contains("CORE (Core file)") && !text.contains("Warning"), "{text}");
        assert_eq!(text.matches("NT_PRSTATUS (prstatus structure)").count(), 2, "{text}");
    }
    let commands = ["info threads", "thread 2", "print /x $rip", "print /x $r15", "x /gx 0x100000000"];
    let arguments =
        ["--batch", "--nx", "-core", core].into_iter().chain(commands.iter().flat_map(|c| ["-ex", c]));
    if let Some(text) = output("gdb", &arguments.collect::<Vec<_>>()) {
        assert!(text.contains("LWP 1") && text.contains("LWP 3"), "{text}");
        assert!(text.contains("= 0x401000") && text.contains("= 0xf"), "{text}");
        assert!(text.contains("0x100000000:\t0x0000000100000000"), "{text}");
    }
}

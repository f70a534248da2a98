//! The host's side of things a guest touches: disks, checksums.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

/// Makes a sparse disk of `mib` MiB.
///
/// # Panics
/// It cannot be written.
pub fn make_disk(path: &Path, mib: u64) {
    File::create(path)
        .and_then(|file| file.set_len(mib << 20))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Makes a disk of `mib` MiB in which each 512-byte sector is different and known.
///
/// # Panics
/// It cannot be written.
pub fn make_full_disk(path: &Path, mib: u64) {
    let mut file = File::create(path).unwrap();
    // A linear congruence is enough: no two sectors alike, nothing compressible.
    let mut state = 0x2545_f491_4f6c_dd1du64 ^ mib;
    for _ in 0..mib {
        let mut block = Vec::with_capacity(1 << 20);
        while block.len() < 1 << 20 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            block.extend_from_slice(&(state >> 11).to_le_bytes());
        }
        file.write_all(&block).unwrap();
    }
    file.sync_all().unwrap();
}

/// Copies a disk image, leaving its holes.
///
/// # Panics
/// It cannot be copied.
pub fn copy_disk(from: &Path, to: &Path) {
    let status = Command::new("cp").args(["--sparse=always"]).arg(from).arg(to).status().unwrap();
    assert!(status.success(), "copying {}", from.display());
}

/// The SHA-256 of a file, in hexadecimal.
///
/// # Panics
/// It cannot be read.
pub fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    assert!(output.status.success(), "sha256sum {}", path.display());
    String::from_utf8_lossy(&output.stdout).chars().take(64).collect()
}

/// Puts an empty ext4 into a disk's image, with blocks as large as the guests' pages.
///
/// # Panics
/// It cannot be made.
pub fn make_file_system(path: &Path) {
    e2fsprogs("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "4096"], path);
}

/// Looks whether the ext4 in a disk's image, which nobody uses, is whole.
///
/// # Panics
/// It is not.
pub fn check_file_system(path: &Path) {
    e2fsprogs("e2fsck", &["-f", "-n"], path);
}

fn e2fsprogs(program: &str, arguments: &[&str], path: &Path) {
    let output = Command::new(program).args(arguments).arg(path).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{program} {}: {}", path.display(), String::from_utf8_lossy(&text));
}

/// Bytes the file occupies.
///
/// # Panics
/// It is not there.
pub fn allocated(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

/// Makes a kernel that halts the CPU for good.
///
/// # Panics
/// It cannot be written.
pub fn make_idle_kernel(path: &Path) {
    // cli; hlt; jmp to the hlt.
    make_kernel(path, &[0xfa, 0xf4, 0xeb, 0xfd]);
}

/// Makes a kernel that writes one character to an I/O port again and again.
///
/// # Panics
/// It cannot be written.
pub fn make_chatty_kernel(path: &Path, port: u16, character: u8) {
    let [low, high] = port.to_le_bytes();
    // mov dx, port; mov al, character; out dx, al; jmp to the out.
    make_kernel(path, &[0x66, 0xba, low, high, 0xb0, character, 0xee, 0xeb, 0xfd]);
}

/// An ELF image with a PVH entry, as small as they get.
fn make_kernel(path: &Path, code: &[u8]) {
    const LOAD_ADDRESS: u64 = 0x10_0000;
    /// Behind the file's header and those of two segments.
    const NOTE_OFFSET: u64 = 64 + 2 * 56;
    const NOTE_LEN: u64 = 20;
    let entry = LOAD_ADDRESS + NOTE_OFFSET + NOTE_LEN;
    let end = NOTE_OFFSET + NOTE_LEN + code.len() as u64;
    let segment = |kind: u32, offset: u64, address: u64, len: u64| {
        let kind_and_rights = [kind.to_le_bytes(), 5u32.to_le_bytes()].concat();
        let fields = [offset, address, address, len, len, 4].map(u64::to_le_bytes).concat();
        [kind_and_rights, fields].concat()
    };
    let image = [
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec(),
        [entry, 64, 0].map(u64::to_le_bytes).concat(),
        [0u16, 0, 64, 56, 2, 64, 0, 0].map(u16::to_le_bytes).concat(),
        segment(1, 0, LOAD_ADDRESS, end),
        segment(4, NOTE_OFFSET, 0, NOTE_LEN),
        // XEN_ELFNOTE_PHYS32_ENTRY.
        [4u32, 4, 18].map(u32::to_le_bytes).concat(),
        b"Xen\0".to_vec(),
        u32::try_from(entry).unwrap().to_le_bytes().to_vec(),
        code.to_vec(),
    ];
    std::fs::write(path, image.concat()).unwrap();
}

/// Bytes of memory that a process has for itself alone.
///
/// # Panics
/// There is no such process.
pub fn private_memory(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let lines = text.lines().filter(|line| line.starts_with("Private_"));
    lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum::<u64>() << 10
}

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

/// Bytes the file occupies.
///
/// # Panics
/// It is not there.
pub fn allocated(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

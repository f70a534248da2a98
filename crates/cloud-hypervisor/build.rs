//! Links the program smaller where its C library can load it so.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if loads_packed_relocations() {
        // A position-independent program begins with thousands of pointers to relocate, at 24 bytes each; packed they take a bit or two.
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// glibc knows packed relative relocations (DT_RELR) since 2.36; others refuse a program that has them.
fn loads_packed_relocations() -> bool {
    const SINCE: (u32, u32) = (2, 36);
    let glibc = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let version = glibc.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    let number = |part: Option<&str>| part?.trim().parse().ok();
    version.is_some_and(|text| {
        let mut parts = text.trim().trim_start_matches("glibc ").split('.');
        let (major, minor) = (number(parts.next()), number(parts.next()));
        major.zip(minor).is_some_and(|found| found >= SINCE)
    })
}

//! What a fuzzer may throw bytes at. Each target takes any bytes, panics if something is wrong, and gives the same verdict each time.
//!
//! `fuzz/` runs them under libFuzzer, `tests/corpus.rs` over the checked-in corpus and a bounded number of mutations of it.

#![allow(clippy::panic, clippy::unwrap_used)] // a broken property is a panic, as in tests

mod bytes;
mod config_json;
mod flags;
mod http_requests;
mod json;
mod openapi;
mod schema;

pub use openapi::bodies;

/// Something to throw bytes at.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also that of its corpus.
    pub name: &'static str,
    /// Takes any bytes.
    ///
    /// # Panics
    /// Something is wrong.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: [Target; 4] = [
    Target { name: "config_json", run: config_json::run },
    Target { name: "flags", run: flags::run },
    Target { name: "http_requests", run: http_requests::run },
    Target { name: "openapi", run: openapi::run },
];

/// Throws `data` at the target of this name.
///
/// # Panics
/// There is none, or something is wrong.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("no target {name}")).run)(data);
}

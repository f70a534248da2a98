//! What a fuzzer may throw bytes at. Each target takes any bytes, panics if something is wrong, and gives the same verdict each time.
//!
//! `fuzz/` runs them under libFuzzer, `tests/corpus.rs` over the checked-in corpus and a bounded number of mutations of it.

#![allow(clippy::panic, clippy::unwrap_used)] // a broken property is a panic, as in tests

mod bytes;
mod config_json;
mod device_states;
mod driver;
mod flags;
mod http_requests;
mod json;
mod kernels;
mod migration;
mod openapi;
mod pci_config;
mod rig;
mod schema;
mod snapshots;
mod virtio_registers;
mod virtqueues;

pub use openapi::bodies;

/// Something to throw bytes at.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also that of its corpus in `fuzz/corpus`.
    pub name: &'static str,
    /// Mutations of the corpus that a plain `cargo test` makes: some seconds of them.
    pub mutations: usize,
    /// Takes any bytes.
    ///
    /// # Panics
    /// Something is wrong.
    pub run: fn(&[u8]),
}

/// All targets. A new one is a line here, its module, and a corpus.
pub const TARGETS: &[Target] = &[
    Target { name: "config_json", mutations: 60_000, run: config_json::run },
    Target { name: "device_states", mutations: 4_000, run: device_states::run },
    Target { name: "flags", mutations: 200_000, run: flags::run },
    Target { name: "http_requests", mutations: 10_000, run: http_requests::run },
    Target { name: "kernels", mutations: 8_000, run: kernels::run },
    Target { name: "migration_destination", mutations: 40_000, run: migration::from_destination },
    Target { name: "migration_source", mutations: 4_000, run: migration::from_source },
    Target { name: "openapi", mutations: 60_000, run: openapi::run },
    Target { name: "pci_config", mutations: 1_500, run: pci_config::run },
    Target { name: "snapshots", mutations: 1_500, run: snapshots::run },
    Target { name: "virtio_registers", mutations: 2_000, run: virtio_registers::run },
    Target { name: "virtqueues", mutations: 800, run: virtqueues::run },
];

/// The target of this name.
///
/// # Panics
/// There is none.
pub fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("no target {name}"))
}

//! What a guest finds at power-on: its kernel, the tables that describe the machine, and the first CPU's registers.
//!
//! Everything here runs once per boot on the control thread (or a thread it starts to load the kernel while devices are built), before
//! any vCPU runs, so nobody else writes guest RAM meanwhile.

pub mod acpi;
mod bzimage;
#[cfg(feature = "fake-kernel")]
pub mod fake;
mod image;
mod kernel;
mod low_memory;
mod pvh;
mod registers;
pub mod smbios;
#[cfg(test)]
mod tests;

pub use bzimage::BzImageError;
pub use image::ImageError;
pub use kernel::{LoadError, Loaded, Protocol, load};
pub use pvh::ElfError;
pub use registers::{boot_msrs, enter};

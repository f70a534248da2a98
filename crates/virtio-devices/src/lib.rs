//! The virtio devices, one folder each: front, workers, state, tests. Each is built by `build(settings, context)`, from its part of the
//! plan, and says what came of it as [`pci::Built`].

pub mod balloon;
pub mod blk;
pub mod console;
#[cfg(feature = "test-devices")]
pub mod echo;
pub mod mem;
pub mod net;
pub mod pmem;
pub mod rng;
pub mod vsock;
pub mod watchdog;

#[cfg(test)]
mod tests;

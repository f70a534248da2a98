//! The virtio devices, one folder each: front, workers, state, tests.

pub mod blk;
pub mod console;
pub mod net;
pub mod rng;
pub mod watchdog;

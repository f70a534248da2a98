//! The virtio devices, one folder each: front, workers, state, tests.

pub mod blk;
pub mod net;

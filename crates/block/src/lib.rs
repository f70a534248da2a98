//! Disk images: what format a file has, how large the disk in it is, and engines that move sectors between it and guest RAM.
//!
//! An [`Image`] is opened once and shared by the queues of its disk. Each queue's thread makes itself an [`Engine`] of its own, which
//! is the only thing that touches data. A format that is not a plain run of bytes brings its own [`Image`] and engines.

// io_uring, vectored I/O into guest RAM and block device ioctls have no safe binding.
#![allow(unsafe_code)]

mod detect;
mod engine;
mod geometry;
mod image;
mod lock;
mod raw;

pub use engine::{Buffer, Completion, Engine, Kind, Request};
pub use geometry::Topology;
pub use image::{Image, OpenError, ResizeError, open};
pub use lock::{LockError, LockFailure, LockRange};

/// Bytes in a sector, the unit of virtio-blk whatever the disk's block size.
pub const SECTOR: u64 = 512;

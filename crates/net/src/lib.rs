//! The host's end of a virtual network card: tap interfaces and frames that travel between them and guest RAM without a copy.
//!
//! A frame is always preceded by a virtio-net header of [`HEADER_LEN`] bytes (Virtual I/O Device specification 1.2, §5.1.6), which
//! Linux's tap driver reads and writes itself. The control thread opens interfaces; the network workers move frames.

// Interface ioctls and scattered reads into guest RAM have no safe binding.
#![allow(unsafe_code)]

mod frame;
mod interface;
#[cfg(any(test, feature = "netns"))]
pub mod netns;
mod offload;
mod queue;
mod tap;
#[cfg(test)]
mod tests;

pub use frame::{Frame, Full, MAX_SEGMENTS, Scatter};
pub use offload::Offloads;
pub use queue::{Received, Sent, TapQueue};
pub use tap::{Tap, TapError};

/// Bytes of the virtio-net header before every frame.
pub const HEADER_LEN: usize = 12;

/// An Ethernet address.
pub type Mac = [u8; 6];

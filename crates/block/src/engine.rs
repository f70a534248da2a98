//! Moving data between an image and guest RAM.
//!
//! ```text
//!  start(request)  ->  queued  -- poll -->  under way  -- poll, drain -->  Completion
//! ```
//! An engine belongs to one queue's thread. It holds the guest RAM of a request for as long as the kernel may touch it, so requests name
//! their buffers by guest address and nothing above this crate handles host pointers.

mod bounce;
mod held;
mod sync;
mod transfer;
mod uring;

use std::io;

use host::EventFd;
use memory::{DmaView, GuestAddress};

pub(crate) use sync::SyncEngine;
pub(crate) use uring::UringEngine;

/// A stretch of guest RAM: address and bytes.
pub type Buffer = (GuestAddress, u32);

/// What a request does. All but reads and writes leave guest RAM alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Fills the buffers from the image.
    Read,
    /// Stores the buffers into the image.
    Write,
    /// Makes everything written so far durable.
    Flush,
    /// Gives the range's blocks back to the host. It reads as zeroes afterwards where the host can do that.
    Discard,
    /// Makes the range read as zeroes; its blocks may be given back if `unmap`.
    Zero {
        /// Whether the guest can do without the blocks.
        unmap: bool,
    },
}

/// One request to an image.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Comes back in the [`Completion`].
    pub token: u64,
    /// What to do.
    pub kind: Kind,
    /// The first byte in the image.
    pub offset: u64,
    /// Bytes; for reads and writes the sum of the buffers.
    pub len: u64,
    /// Where the data lies in guest RAM.
    pub buffers: &'a [Buffer],
    /// Complete only when the data is durable.
    pub durable: bool,
}

/// The end of a request.
#[derive(Debug)]
pub struct Completion {
    /// [`Request::token`].
    pub token: u64,
    /// Nothing, or why the request failed. A transfer is whole or has failed.
    pub result: io::Result<()>,
}

/// A queue's way to its image.
pub trait Engine: Send {
    /// Takes a request whose buffers lie in `ram`. It is under way at the latest with the next [`Engine::poll`], which also reports its
    /// failure.
    fn start(&mut self, request: &Request<'_>, ram: &DmaView);

    /// Passes requests on to the kernel and appends those that have ended to `done`. Never waits for a device.
    ///
    /// # Errors
    /// The kernel's, if it takes no more requests although none is under way.
    fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()>;

    /// Rings the bell for requests that end from now on until the next [`Engine::poll`]. Answers false if one has ended already.
    fn arm(&mut self) -> bool;

    /// Becomes readable when a request ends. It is never read: watch its edges. `None` if requests end within [`Engine::start`].
    fn bell(&self) -> Option<&EventFd>;

    /// Requests not reported yet.
    fn under_way(&self) -> usize;

    /// Waits for all requests.
    ///
    /// # Errors
    /// The kernel's, if it cannot wait. Requests may be under way still.
    fn drain(&mut self, done: &mut Vec<Completion>) -> io::Result<()>;
}

#[cfg(test)]
mod tests;

//! Where connections come from: the other end's address, and the socket it comes to.

use std::io;

use crate::connection::{Connection, Watch};

/// The way to the destination.
pub trait Dial: Send + Sync {
    /// Makes a connection.
    ///
    /// # Errors
    /// `ConnectionRefused` and `NotFound` mean that nobody listens there.
    fn dial(&self, watch: &Watch) -> io::Result<Connection>;
}

/// Where sources come to. Dropping it closes it.
pub trait Accept: Send {
    /// Waits for a [`crate::connection::TICK`] or so for a connection.
    ///
    /// # Errors
    /// Whoever came cannot be spoken with, or nobody can come any more.
    fn accept(&mut self, watch: &Watch) -> io::Result<Option<Connection>>;
}

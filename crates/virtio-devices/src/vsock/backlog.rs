//! What the host's end of a connection has not taken yet.

use std::io;
use std::os::unix::net::UnixStream;

use memory::DmaView;
use rustix::io::Errno;
use rustix::net::SendFlags;
use virtio::Fault;

use super::credit::BUFFER;
use super::span::Span;

/// Bytes that wait, [`BUFFER`] at most: more the guest may not send. Nothing is allocated until a stream is slow.
#[derive(Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    /// Those before it have gone.
    start: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    /// Keeps `len` bytes of `span` from `from` on; false if there is no room for them.
    ///
    /// # Errors
    /// [`Fault::Protocol`] if they do not lie in RAM.
    pub(super) fn keep(
        &mut self,
        span: &Span,
        (from, len): (usize, usize),
        ram: &DmaView,
    ) -> Result<bool, Fault> {
        if self.len().saturating_add(len) > BUFFER as usize {
            return Ok(false);
        }
        self.bytes.drain(..self.start);
        self.start = 0;
        let end = self.bytes.len();
        self.bytes.resize(end + len, 0);
        span.read(from, self.bytes.get_mut(end..).unwrap_or_default(), ram)?;
        Ok(true)
    }

    /// Sends what `stream` takes now, and says how much that was.
    ///
    /// # Errors
    /// The stream's, if it takes nothing ever again.
    pub(super) fn send(&mut self, stream: &UnixStream) -> io::Result<usize> {
        let begin = self.start;
        loop {
            let rest = self.bytes.get(self.start..).unwrap_or_default();
            if rest.is_empty() {
                let sent = self.start - begin;
                self.clear();
                return Ok(sent);
            }
            match rustix::net::send(stream, rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => self.start += count,
                Err(Errno::AGAIN) => return Ok(self.start - begin),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

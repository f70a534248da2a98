//! The buffers of a chain as one run of bytes: drivers lay out packets as they like (§2.7.4.2).

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;

use memory::{
    Bytes, DmaView, GuestAddress, GuestMemory, HookSlice, Permissions, ReadVolatile, VolatileMemoryError,
    VolatileSlice, WriteVolatile,
};
use virtio::{Chain, Fault};

use super::packet::{HEADER_LEN, Header};

const OUTSIDE: Fault = Fault::Protocol("a vsock buffer is not in RAM");

/// The buffers of one chain. Kept from chain to chain, so that its list is allocated once.
#[derive(Default)]
pub(super) struct Span {
    parts: Vec<(GuestAddress, usize)>,
    len: usize,
}

/// How far bytes came on their way between a stream and RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) count: usize,
    pub(super) end: End,
}

/// Why they went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// They were all, or there may be more.
    Fine,
    /// The stream has no more now, or takes no more.
    Blocked,
    /// The stream has ended, or takes nothing ever again.
    Closed,
}

impl Span {
    /// Takes the buffers of `chain` that the device is to write, or those it is to read: all up to the first of the other kind.
    pub(super) fn load(&mut self, chain: Chain<'_>, writable: bool) {
        self.parts.clear();
        let buffers = chain.take_while(|buffer| buffer.is_write_only() == writable);
        self.parts.extend(buffers.map(|buffer| (buffer.addr(), buffer.len() as usize)));
        self.len = self.parts.iter().fold(0, |sum: usize, (_, len)| sum.saturating_add(*len));
    }

    /// Bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The header at its beginning.
    ///
    /// # Errors
    /// [`Fault::Protocol`] if it does not lie in RAM.
    pub(super) fn read_header(&self, ram: &DmaView) -> Result<Header, Fault> {
        let mut bytes = [0; HEADER_LEN];
        self.read(0, &mut bytes, ram)?;
        Ok(Header::from_bytes(&bytes))
    }

    /// Puts a header at its beginning.
    ///
    /// # Errors
    /// [`Fault::Protocol`] if it does not lie in RAM.
    pub(super) fn write_header(&self, header: Header, ram: &DmaView) -> Result<(), Fault> {
        self.write(&header.to_bytes(), ram)
    }

    /// Puts `bytes` at its beginning, as far as there is room.
    ///
    /// # Errors
    /// [`Fault::Protocol`] if a buffer does not lie in RAM.
    pub(super) fn write(&self, bytes: &[u8], ram: &DmaView) -> Result<(), Fault> {
        let mut rest = bytes;
        for (address, len) in self.part(0, bytes.len()) {
            let (now, later) = rest.split_at(len.min(rest.len()));
            ram.write_slice(now, address).map_err(|_| OUTSIDE)?;
            rest = later;
        }
        Ok(())
    }

    /// Copies what begins at `from`, as far as there is something.
    ///
    /// # Errors
    /// [`Fault::Protocol`] if a buffer does not lie in RAM.
    pub(super) fn read(&self, from: usize, bytes: &mut [u8], ram: &DmaView) -> Result<(), Fault> {
        let mut rest = &mut *bytes;
        for (address, len) in self.part(from, rest.len()) {
            let (now, later) = rest.split_at_mut(len.min(rest.len()));
            ram.read_slice(now, address).map_err(|_| OUTSIDE)?;
            rest = later;
        }
        Ok(())
    }

    /// Sends `len` bytes from `from` on, as many as the stream takes now.
    ///
    /// # Errors
    /// [`Fault::Protocol`] if a buffer does not lie in RAM.
    pub(super) fn send(
        &self,
        mut stream: &UnixStream,
        (from, len): (usize, usize),
        ram: &DmaView,
    ) -> Result<Moved, Fault> {
        self.transfer((from, len), ram, Permissions::Read, |slice| stream.write_volatile(slice))
    }

    /// Fills `len` bytes from `from` on with what the stream has now.
    ///
    /// # Errors
    /// [`Fault::Protocol`] if a buffer does not lie in RAM.
    pub(super) fn receive(
        &self,
        mut stream: &UnixStream,
        (from, len): (usize, usize),
        ram: &DmaView,
    ) -> Result<Moved, Fault> {
        self.transfer((from, len), ram, Permissions::Write, |slice| stream.read_volatile(slice))
    }

    /// The parts that make up `len` bytes from `from` on.
    fn part(&self, from: usize, len: usize) -> impl Iterator<Item = (GuestAddress, usize)> {
        let (mut skip, mut left) = (from, len);
        self.parts.iter().filter_map(move |(address, len)| {
            let skipped = skip.min(*len);
            skip -= skipped;
            let taken = (len - skipped).min(left);
            left -= taken;
            // What would lie beyond the last address lies outside RAM in any case.
            let address = GuestAddress(address.0.saturating_add(skipped as u64));
            (taken > 0).then_some((address, taken))
        })
    }

    /// Lets `step` have one stretch of memory after the other, until it moves less than the whole of one.
    fn transfer(
        &self,
        (from, len): (usize, usize),
        ram: &DmaView,
        access: Permissions,
        mut step: impl FnMut(&mut VolatileSlice<'_, HookSlice<'_>>) -> Result<usize, VolatileMemoryError>,
    ) -> Result<Moved, Fault> {
        let mut count = 0;
        for (address, len) in self.part(from, len) {
            for slice in ram.get_slices(address, len, access).map_err(|_| OUTSIDE)? {
                let mut slice = slice.map_err(|_| OUTSIDE)?;
                match step(&mut slice) {
                    Ok(0) => return Ok(Moved { count, end: End::Closed }),
                    Ok(moved) => {
                        count += moved;
                        if moved < slice.len() {
                            return Ok(Moved { count, end: End::Fine });
                        }
                    }
                    Err(error) => return Ok(Moved { count, end: end_of(&error) }),
                }
            }
        }
        Ok(Moved { count, end: End::Fine })
    }
}

fn end_of(error: &VolatileMemoryError) -> End {
    match error {
        VolatileMemoryError::IOError(error) if error.kind() == ErrorKind::WouldBlock => End::Blocked,
        // Looked at again, as after any other turn.
        VolatileMemoryError::IOError(error) if error.kind() == ErrorKind::Interrupted => End::Fine,
        _ => End::Closed,
    }
}

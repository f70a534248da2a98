//! The entropy source's queue, on its thread.

use std::fs::File;
use std::io::ErrorKind;

use memory::{Bytes, DmaView, GuestAddress, GuestMemoryError};
use virtio::{Chain, Context, Fault, Handler};

/// Bytes given per chain: a driver asks for a few dozen, and more would keep the thread from its mail.
const CHAIN_LIMIT: usize = 64 << 10;

pub(super) struct Source(pub(super) File);

impl Source {
    fn fill(&mut self, chain: Chain<'_>, ram: &DmaView) -> Result<u32, Fault> {
        let mut given = 0;
        for buffer in chain.writable() {
            let len = usize::try_from(buffer.len()).unwrap_or(usize::MAX).min(CHAIN_LIMIT - given);
            let count = self.read(ram, buffer.addr(), len)?;
            given += count;
            if count < len {
                break;
            }
        }
        Ok(u32::try_from(given).unwrap_or(0))
    }

    /// Reads at most `len` bytes; less if the source has no more now.
    fn read(&mut self, ram: &DmaView, address: GuestAddress, len: usize) -> Result<usize, Fault> {
        match ram.read_volatile_from(address, &mut self.0, len) {
            Ok(count) => Ok(count),
            Err(GuestMemoryError::IOError(e))
                if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(0)
            }
            Err(GuestMemoryError::IOError(e)) => Err(e.into()),
            Err(_) => Err(Fault::Protocol("an entropy buffer is not in RAM")),
        }
    }
}

impl Handler for Source {
    fn queue(&mut self, position: usize, context: &mut Context<'_>) -> Result<(), Fault> {
        let Some(queue) = context.queues.get_mut(position) else { return Ok(()) };
        queue.serve(context.ram, |chain| self.fill(chain, context.ram).map(Some))
    }
}

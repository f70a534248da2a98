//! A persistent memory device's queue, on its thread: flushes (§5.19.6).

use std::fs::File;

use memory::{Bytes, DmaView};
use virtio::{Chain, Context, Fault, Handler};

/// Requests answered together. All that are there when the file is synchronised are served by that.
const BATCH: usize = 256;
/// `VIRTIO_PMEM_REQ_TYPE_FLUSH`.
const FLUSH: u32 = 0;
/// Answers: done, and not done (`EIO`).
const OK: u32 = 0;
const FAILED: u32 = 1;

const OUTSIDE: Fault = Fault::Protocol("a flush request is not in RAM");

pub(super) struct Flusher {
    /// `None` if the guest's writes reach no file.
    file: Option<File>,
    has_warned: bool,
}

/// A request that waits for its answer.
struct Request<'a> {
    chain: Chain<'a>,
    /// What is asked for; `None` if the chain is too short to say.
    kind: Option<u32>,
}

impl Flusher {
    pub(super) fn new(file: Option<File>) -> Self {
        Self { file, has_warned: false }
    }

    /// Waits until all that the guest has written is on the file's disk. The guest's pages need no call of their own: the kernel knows
    /// which of them are dirty.
    fn flush(&mut self) -> u32 {
        let Some(Err(error)) = self.file.as_ref().map(File::sync_all) else { return OK };
        if !self.has_warned {
            self.has_warned = true;
            tracing::warn!("A flush of persistent memory failed, and later ones may too: {error}");
        }
        FAILED
    }
}

impl Handler for Flusher {
    fn queue(&mut self, position: usize, context: &mut Context<'_>) -> Result<(), Fault> {
        let ram = context.ram;
        let Some(queue) = context.queues.get_mut(position) else { return Ok(()) };
        let mut requests = Vec::new();
        while requests.len() < BATCH
            && let Some(chain) = queue.pop_or_listen(ram)?
        {
            let kind = kind(chain.clone(), ram)?;
            requests.push(Request { chain, kind });
        }
        if requests.len() == BATCH {
            // There may be more, and nobody rings for them. A full counter wakes the thread as well.
            let _ = queue.kick.write(1);
        }
        let is_wanted = requests.iter().any(|request| request.kind == Some(FLUSH));
        let flushed = if is_wanted { self.flush() } else { FAILED };
        for Request { chain, kind } in requests {
            let head = chain.head_index();
            let len = match kind {
                Some(FLUSH) => answer(chain, ram, flushed)?,
                Some(_) => answer(chain, ram, FAILED)?,
                None => 0,
            };
            queue.push(ram, head, len)?;
        }
        queue.notify(ram)
    }
}

/// Reads the request's type, in as many pieces as the driver likes.
fn kind(chain: Chain<'_>, ram: &DmaView) -> Result<Option<u32>, Fault> {
    let mut bytes = [0; 4];
    let mut rest = &mut bytes[..];
    for buffer in chain.readable() {
        let (now, later) = rest.split_at_mut(rest.len().min(buffer.len() as usize));
        ram.read_slice(now, buffer.addr()).map_err(|_| OUTSIDE)?;
        rest = later;
    }
    Ok(rest.is_empty().then_some(u32::from_le_bytes(bytes)))
}

/// Writes the answer and tells its length; nothing if there is no room for it.
fn answer(chain: Chain<'_>, ram: &DmaView, answer: u32) -> Result<u32, Fault> {
    let bytes = answer.to_le_bytes();
    let room = chain.clone().writable().fold(0u64, |room, buffer| room + u64::from(buffer.len()));
    if room < bytes.len() as u64 {
        return Ok(0);
    }
    let mut rest = &bytes[..];
    for buffer in chain.writable() {
        let (now, later) = rest.split_at(rest.len().min(buffer.len() as usize));
        ram.write_slice(now, buffer.addr()).map_err(|_| OUTSIDE)?;
        rest = later;
    }
    Ok(bytes.len() as u32)
}

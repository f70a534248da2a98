//! One piece of RAM: what of it is zero, and the requests that bring it over.

use super::{SendError, link, machine};
use crate::connection::{CHUNK_LEN, Connection, Limit, LinkError};
use crate::limits::Limits;
use crate::ranges::{PAGE_LEN, Range, total};
use crate::sides::SourceMemory;
use crate::wire::{Command, Request, encode_ranges};

/// Bytes of RAM in one piece.
pub(super) const PIECE_LEN: u64 = 64 << 20;
/// Ranges in one piece. Pages that are zero may make twice as many.
pub(super) const PIECE_RANGES: usize = 8 << 10;

/// What may be done about pages that are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zeroes {
    /// Nothing need be said: the destination has never had anything else there.
    Skip,
    /// A table says it.
    Tell,
    /// The destination takes bytes only.
    Send,
}

/// Bytes of RAM that went over the wire, and those that were zero and did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) sent: u64,
    pub(super) zero: u64,
}

/// Sends `ranges` as they are now. Pages that the guest writes meanwhile will be in the next pass.
pub(super) fn send_piece(
    connection: &mut Connection,
    memory: &dyn SourceMemory,
    ranges: &[Range],
    zeroes: Zeroes,
    limits: &Limits,
) -> Result<Amount, SendError> {
    let (full, zero) = match zeroes {
        Zeroes::Send => (ranges.to_vec(), Vec::new()),
        Zeroes::Skip | Zeroes::Tell => sort(memory, ranges)?,
    };
    let amount = Amount { sent: total(&full), zero: total(&zero) };
    if zeroes == Zeroes::Tell && !zero.is_empty() {
        let table = encode_ranges(&zero);
        let tell = |connection: &mut Connection| {
            connection.ask(Request::memory(table.len() as u64, true))?;
            connection.write(&table, Limit::for_bytes(table.len() as u64))?;
            connection.answer(Limit::Within(limits.memory)).map(drop)
        };
        tell(connection).map_err(broken(connection))?;
    }
    if !full.is_empty() {
        send_bytes(connection, memory, &full)?;
        connection.answer(Limit::Within(limits.memory)).map_err(link(STEP))?;
    }
    Ok(amount)
}

const STEP: &str = "send the memory";

fn broken(connection: &mut Connection) -> impl FnOnce(LinkError) -> SendError {
    |error| link(STEP)(connection.explain(error))
}

fn send_bytes(
    connection: &mut Connection,
    memory: &dyn SourceMemory,
    ranges: &[Range],
) -> Result<(), SendError> {
    let table = encode_ranges(ranges);
    let head = Request::new(Command::Memory, table.len() as u64).encode();
    let limit = Limit::for_bytes(total(ranges));
    connection.write(&[&head[..], &table].concat(), limit).map_err(broken(connection))?;
    let mut chunk = vec![0; CHUNK_LEN];
    for &range in ranges {
        for (base, len) in chunks(range) {
            let bytes = chunk.get_mut(..len).unwrap_or_default();
            memory.read(base, bytes).map_err(machine("read the machine's memory"))?;
            connection.write(bytes, limit).map_err(broken(connection))?;
        }
    }
    Ok(())
}

/// Tells what holds something from what is all zero, page by page.
fn sort(memory: &dyn SourceMemory, ranges: &[Range]) -> Result<(Vec<Range>, Vec<Range>), SendError> {
    let (mut full, mut zero) = (Vec::new(), Vec::new());
    let mut chunk = vec![0; CHUNK_LEN];
    for &range in ranges {
        for (base, len) in chunks(range) {
            let bytes = chunk.get_mut(..len).unwrap_or_default();
            memory.read(base, bytes).map_err(machine("read the machine's memory"))?;
            let mut at = base;
            for page in bytes.chunks(usize::try_from(PAGE_LEN).unwrap_or(CHUNK_LEN)) {
                let list = if is_zero(page) { &mut zero } else { &mut full };
                append(list, (at, page.len() as u64));
                at += page.len() as u64;
            }
        }
    }
    Ok((full, zero))
}

/// `range` in parts that fit into a chunk, so that each but the last ends at a page's end if the range begins at one.
fn chunks((base, len): Range) -> impl Iterator<Item = (u64, usize)> {
    (0..len).step_by(CHUNK_LEN).map(move |at| {
        let part = (len - at).min(CHUNK_LEN as u64);
        (base + at, usize::try_from(part).unwrap_or(CHUNK_LEN))
    })
}

fn append(list: &mut Vec<Range>, (base, len): Range) {
    match list.last_mut() {
        Some((last, last_len)) if *last + *last_len == base => *last_len += len,
        _ => list.push((base, len)),
    }
}

/// In words of 16 bytes, which the compiler makes vectors of.
fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// Reads what the destination sends instead of taking more: its reason, if it has refused.
impl Connection {
    pub(crate) fn explain(&mut self, error: LinkError) -> LinkError {
        if !matches!(error, LinkError::Closed | LinkError::Broken(_)) {
            return error;
        }
        match self.answer(Limit::Within(std::time::Duration::from_secs(1))) {
            Err(refused @ LinkError::Refused(_)) => refused,
            _ => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sides::MachineError;

    struct Bytes(Vec<u8>);

    impl SourceMemory for Bytes {
        fn read(&self, gpa: u64, bytes: &mut [u8]) -> Result<(), MachineError> {
            let from = usize::try_from(gpa)?;
            bytes.copy_from_slice(self.0.get(from..from + bytes.len()).ok_or("no RAM")?);
            Ok(())
        }
    }

    #[test]
    fn pages_are_sorted_across_chunks() {
        let mut bytes = vec![0; CHUNK_LEN + 0x4000];
        for page in [1, CHUNK_LEN / 0x1000 - 1, CHUNK_LEN / 0x1000] {
            bytes[page * 0x1000 + 0xfff] = 1;
        }
        let end = bytes.len() as u64;
        let chunk = CHUNK_LEN as u64;
        let (full, zero) = sort(&Bytes(bytes), &[(0, end)]).unwrap();
        assert_eq!(full, [(0x1000, 0x1000), (chunk - 0x1000, 0x2000)]);
        assert_eq!(zero, [(0, 0x1000), (0x2000, chunk - 0x3000), (chunk + 0x1000, 0x3000)]);
    }

    #[test]
    fn a_part_of_a_page_is_looked_at_to_its_last_byte() {
        assert!(is_zero(&[0; 37]));
        for at in [0, 15, 16, 31, 36] {
            let mut bytes = [0; 37];
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "{at}");
        }
    }
}

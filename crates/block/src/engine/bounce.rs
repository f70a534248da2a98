//! Direct I/O for transfers that are not aligned as the host demands: through a buffer that is, a piece at a time.
//!
//! Guests rarely do this (firmware does), so it need not be fast: the calling thread waits. Going through the page cache instead would
//! be shorter, but would leave stale pages behind on storage that other hosts write.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use super::Kind;
use super::transfer::Transfer;
use crate::geometry::{Alignment, MAX_ALIGNMENT};

/// Bytes of a piece, a multiple of every alignment.
const PIECE: usize = 256 << 10;

/// Two queues may write different sectors of one block, so updates of parts of blocks take turns. One lock for all images: these are
/// too rare to meet.
static TURN: Mutex<()> = Mutex::new(());

/// Moves all that is left of `transfer`, a read or write, between guest RAM and `file`.
///
/// # Errors
/// The kernel's, or the end of the file.
pub(super) fn run(file: &File, alignment: Alignment, transfer: &mut Transfer) -> io::Result<()> {
    // The memory lives only as long as the transfer: misalignment is not worth keeping any.
    let mut memory = vec![0; PIECE + MAX_ALIGNMENT];
    let skip = memory.as_ptr().align_offset(MAX_ALIGNMENT);
    let piece = memory.get_mut(skip..skip + PIECE).unwrap_or_default();
    let block = alignment.offset as usize;
    while transfer.len > 0 {
        let head = (transfer.offset % alignment.offset) as usize;
        let start = transfer.offset - head as u64;
        let end = head + transfer.len.min((piece.len() - head) as u64) as usize;
        let Some(span) = piece.get_mut(..end.next_multiple_of(block)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        match transfer.kind {
            Kind::Read => {
                if read(file, span, start, block)? < end {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                transfer.copy_in(span.get(head..end).unwrap_or_default());
            }
            _ if head == 0 && end == span.len() => {
                transfer.copy_out(span);
                file.write_all_at(span, start)?;
            }
            _ => update(file, span, start, head..end, transfer)?,
        }
        transfer.advance(end - head);
    }
    Ok(())
}

/// Writes `part` of the blocks in `span`, which lie at `start`, and leaves the rest of them as it was.
fn update(
    file: &File,
    span: &mut [u8],
    start: u64,
    part: std::ops::Range<usize>,
    transfer: &Transfer,
) -> io::Result<()> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = read(file, span, start, span.len())?;
    let end = part.end;
    transfer.copy_out(span.get_mut(part).unwrap_or_default());
    file.write_all_at(span, start)?;
    if known < span.len() {
        // The file ends within a block, and must go on ending there.
        file.set_len(start + known.max(end) as u64)?;
    }
    Ok(())
}

/// Fills `span` from the file, or as much of it as there is, followed by zeroes.
fn read(file: &File, span: &mut [u8], start: u64, block: usize) -> io::Result<usize> {
    let mut known = 0;
    // A read that stops within a block has met the end of the file; direct I/O could not go on from there.
    while known < span.len() && known.is_multiple_of(block) {
        match file.read_at(span.get_mut(known..).unwrap_or_default(), start + known as u64) {
            Ok(0) => break,
            Ok(n) => known += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    span.get_mut(known..).unwrap_or_default().fill(0);
    Ok(known)
}

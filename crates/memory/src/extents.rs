//! Where a file holds data. What lies between are holes, which read as zeroes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Bytes that are looked at in one piece.
const PIECE: usize = 64 << 10;

/// The parts of `within` that may hold anything but zeroes, in ascending order. No page of the file comes to be by that. Where the kernel
/// does not tell, all of it may. Threads that give RAM back ask too, so seeking is all that this does.
pub(crate) fn data(file: &File, within: Range<u64>) -> Vec<Range<u64>> {
    let mut all = Vec::new();
    let mut at = within.start;
    while at < within.end {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) if start < within.end => start.max(at),
            // No more data: the rest is a hole, or lies beyond the end of the file.
            Ok(_) | Err(Errno::NXIO) => break,
            Err(_) => at,
        };
        let end = seek(file, SeekFrom::Hole(start)).unwrap_or(within.end).min(within.end);
        // A file system whose answers do not move on is not asked again.
        let end = if end > start { end } else { within.end };
        all.push(start..end);
        at = end;
    }
    all
}

/// Bytes of a page, if `file` lies on a file system of huge pages: the only ones whose blocks are as large as these.
pub(crate) fn huge_page(file: &File) -> Option<u64> {
    const SMALLEST: u64 = 2 << 20;
    file.metadata().ok().map(|metadata| metadata.blksize()).filter(|size| *size >= SMALLEST)
}

/// Whether `file` is one of huge pages and has none yet.
pub(crate) fn is_empty_of_huge(file: &File) -> bool {
    huge_page(file).is_some() && file.metadata().is_ok_and(|metadata| metadata.blocks() == 0)
}

/// As [`data`], for a file of huge pages of `page` bytes: those call all of themselves data. Reading one, as opposed to touching its mapping,
/// makes no pages for its holes.
pub(crate) fn data_of_huge(file: &File, within: Range<u64>, page: u64) -> Vec<Range<u64>> {
    let mut buffer = vec![0; PIECE];
    let mut all: Vec<Range<u64>> = Vec::new();
    let mut at = within.start;
    while at < within.end {
        let end = (at / page + 1).saturating_mul(page).min(within.end);
        if !is_zero(file, at..end, &mut buffer).unwrap_or(false) {
            match all.last_mut() {
                Some(last) if last.end == at => last.end = end,
                _ => all.push(at..end),
            }
        }
        at = end;
    }
    all
}

/// Whether all of `within` reads as zeroes.
fn is_zero(file: &File, within: Range<u64>, buffer: &mut [u8]) -> io::Result<bool> {
    let mut at = within.start;
    while at < within.end {
        let wanted = buffer.len().min((within.end - at).try_into().unwrap_or(usize::MAX));
        let piece = buffer.get_mut(..wanted).ok_or(io::ErrorKind::InvalidInput)?;
        file.read_exact_at(piece, at)?;
        if piece.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += wanted as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    fn memory_file(pages: u64) -> File {
        let file = File::from(rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.set_len(pages * PAGE).unwrap();
        file
    }

    #[test]
    fn data_lies_between_holes() {
        let file = memory_file(16);
        assert!(data(&file, 0..16 * PAGE).is_empty());
        for page in [3, 4, 9] {
            file.write_all_at(b"data", page * PAGE).unwrap();
        }
        assert_eq!(data(&file, 0..16 * PAGE), [3 * PAGE..5 * PAGE, 9 * PAGE..10 * PAGE]);
        assert_eq!(data(&file, 4 * PAGE..9 * PAGE), std::slice::from_ref(&(4 * PAGE..5 * PAGE)));
        assert!(data(&file, 10 * PAGE..1 << 40).is_empty());
        let blocks = file.metadata().unwrap().blocks();
        assert_eq!(blocks, 3 * PAGE / 512, "nobody made pages by asking");
    }

    #[test]
    fn pages_that_read_as_zeroes_are_no_data() {
        // Ordinary pages in the place of huge ones: what is asked of them is the same.
        let file = memory_file(16);
        file.write_all_at(b"data", 5 * PAGE + 17).unwrap();
        file.write_all_at(&[0; 9], 8 * PAGE).unwrap();
        assert_eq!(data_of_huge(&file, 0..16 * PAGE, 4 * PAGE), std::slice::from_ref(&(4 * PAGE..8 * PAGE)));
        let beyond = data_of_huge(&file, 12 * PAGE..20 * PAGE, 4 * PAGE);
        assert_eq!(
            beyond,
            std::slice::from_ref(&(16 * PAGE..20 * PAGE)),
            "what cannot be read may be anything"
        );
    }
}

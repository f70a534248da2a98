//! Files with holes: finding them, making them, and telling pages that need none of the disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use crate::PAGE;

/// A page of zeroes.
pub(crate) static ZERO_PAGE: [u8; PAGE as usize] = [0; PAGE as usize];

/// The first bytes of `file` in `offset..end` that are not in a hole: (where, how many). A file system that does not know its holes has none.
pub(crate) fn data(file: &File, offset: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
    let start = match seek(file, SeekFrom::Data(offset)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // A file system that has never heard of holes.
        Err(Errno::INVAL) => offset,
        Err(errno) => return Err(errno.into()),
    };
    if start >= end {
        return Ok(None);
    }
    let hole = match seek(file, SeekFrom::Hole(start)) {
        Ok(hole) => hole,
        Err(Errno::INVAL) => end,
        Err(errno) => return Err(errno.into()),
    };
    // Others may change the file between the two calls.
    Ok((hole > start).then(|| (start, hole.min(end) - start)))
}

/// Fills `buf` with what is at `offset`; holes are not read, so that the host caches no page of them.
///
/// # Errors
/// The kernel's, and `UnexpectedEof` if the file is too short.
pub(crate) fn read(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    let end = offset.saturating_add(buf.len() as u64);
    let (mut buf, mut offset) = (buf, offset);
    while !buf.is_empty() {
        let (start, len) = data(file, offset, end)?.unwrap_or((end, 0));
        if len == 0 && file.metadata()?.len() < end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (hole, rest) = split(buf, start - offset);
        hole.fill(0);
        let (full, rest) = split(rest, len);
        file.read_exact_at(full, start)?;
        (buf, offset) = (rest, start.saturating_add(len));
    }
    Ok(())
}

/// The first `len` bytes, or all, and the rest.
fn split(buf: &mut [u8], len: u64) -> (&mut [u8], &mut [u8]) {
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(buf.len());
    buf.split_at_mut(len)
}

/// Makes `len` bytes at `offset` zero, by a hole where there can be one.
pub(crate) fn punch(file: &File, offset: u64, len: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            for page in 0..len.div_ceil(PAGE) {
                file.write_all_at(&ZERO_PAGE, offset.saturating_add(page.saturating_mul(PAGE)))?;
            }
            Ok(())
        }
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_found_made_and_read_as_zeroes() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(16 * PAGE).unwrap();
        for page in [2, 3, 9] {
            file.write_all_at(&[page as u8; PAGE as usize], page * PAGE).unwrap();
        }
        assert_eq!(data(&file, 0, 16 * PAGE).unwrap(), Some((2 * PAGE, 2 * PAGE)));
        assert_eq!(data(&file, 3 * PAGE + 5, 16 * PAGE).unwrap(), Some((3 * PAGE + 5, PAGE - 5)));
        assert_eq!(data(&file, 4 * PAGE, 9 * PAGE).unwrap(), None);
        assert_eq!(data(&file, 10 * PAGE, 16 * PAGE).unwrap(), None);
        let mut buf = vec![7; 9 * PAGE as usize];
        read(&file, &mut buf, PAGE + 1).unwrap();
        let expected: Vec<u8> = (PAGE + 1..10 * PAGE + 1)
            .map(|at| if [2, 3, 9].contains(&(at / PAGE)) { (at / PAGE) as u8 } else { 0 })
            .collect();
        assert!(buf == expected);
        punch(&file, 2 * PAGE, PAGE).unwrap();
        assert_eq!(data(&file, 0, 16 * PAGE).unwrap(), Some((3 * PAGE, PAGE)));
    }

    #[test]
    fn what_is_not_there_is_an_error_and_no_zeroes() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(PAGE).unwrap();
        let mut buf = vec![7; 2 * PAGE as usize];
        assert_eq!(read(&file, &mut buf, 0).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(read(&file, &mut buf, 1 << 40).is_err());
    }
}

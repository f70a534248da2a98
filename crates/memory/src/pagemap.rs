//! Which pages of its memory this process has (`/proc/self/pagemap`, Documentation/admin-guide/mm/pagemap.rst).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use crate::part::PAGE;

/// One for the whole process, since a confined thread can open none any more.
static FILE: OnceLock<Option<File>> = OnceLock::new();

/// Bytes of an entry, and how many entries are read at once.
const ENTRY: usize = size_of::<u64>();
const PIECE: usize = 8192;

/// Page is a file's or shared, is swapped out, is there.
const OF_FILE: u64 = 1 << 61;
const SWAPPED: u64 = 1 << 62;
const PRESENT: u64 = 1 << 63;

/// Opens the kernel's list of this process's pages, before Landlock and filters forbid it. Without it all memory counts as occupied, and
/// snapshots take longer.
pub fn open_pagemap() {
    file();
}

fn file() -> Option<&'static File> {
    FILE.get_or_init(|| File::open("/proc/self/pagemap").ok()).as_ref()
}

/// The pages among `pages`, counted from `start` on, that hold what this process has written: private ones, in memory or swapped out. A page
/// that was only read may be among them, if it holds zeroes.
///
/// # Errors
/// The kernel's, or that it may not be asked.
pub(crate) fn own(start: *const u8, pages: Range<usize>) -> io::Result<Vec<Range<usize>>> {
    let file = file().ok_or(io::ErrorKind::PermissionDenied)?;
    let mut buffer = vec![0; PIECE.min(pages.len()) * ENTRY];
    let mut all: Vec<Range<usize>> = Vec::new();
    let mut first = pages.start;
    while first < pages.end {
        let count = PIECE.min(pages.end - first);
        let piece = buffer.get_mut(..count * ENTRY).ok_or(io::ErrorKind::InvalidInput)?;
        file.read_exact_at(piece, ((start.addr() / PAGE + first) * ENTRY) as u64)?;
        for (page, entry) in (first..).zip(piece.as_chunks::<ENTRY>().0) {
            let entry = u64::from_ne_bytes(*entry);
            if entry & (PRESENT | SWAPPED) == 0 || entry & OF_FILE != 0 {
                continue;
            }
            match all.last_mut() {
                Some(last) if last.end == page => last.end += 1,
                _ => all.push(page..page + 1),
            }
        }
        first += count;
    }
    Ok(all)
}

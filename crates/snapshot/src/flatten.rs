//! Making a full snapshot of an incremental one, so that its parents need not be kept.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::copy_file_range;
use rustix::io::Errno;

use crate::memory::DataRun;
use crate::{Error, Snapshot, Summary, Writer};

/// Bytes that are copied between two reports of progress.
const STEP: u64 = 64 << 20;
/// Bytes that are copied at a time where the kernel does not copy by itself.
const BUFFER: u64 = 1 << 20;

/// Makes a full snapshot in the directory `out` of the one in `dir`, with the same id: those that lie on `dir` may lie on `out` instead, if
/// it takes its place. `progress` is told how many bytes of RAM are done and how many there are. Where the file system can share blocks
/// between files, it does.
///
/// # Errors
/// Those of [`Snapshot::open`] and [`Writer::create`]; [`Error::Stopped`] if `progress` says so. Nothing is left in `out` then.
pub fn flatten(
    dir: &Path,
    out: &Path,
    mut progress: impl FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Summary, Error> {
    let snapshot = Snapshot::open(dir)?;
    let writer = Writer::create(out, snapshot.ranges(), None)?;
    let total = snapshot.ranges().iter().map(|(_, len)| len).sum();
    let mut done = 0;
    let mut report = |done| match progress(done, total) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Stopped),
    };
    report(done)?;
    for run in snapshot.data() {
        let mut run = run.map_err(Error::io("read", dir))?;
        while run.len > 0 {
            let step = run.len.min(STEP);
            writer.copy(&DataRun { len: step, ..run })?;
            (run.gpa, run.offset) = (run.gpa.saturating_add(step), run.offset.saturating_add(step));
            run.len -= step;
            // Holes are done as soon as they are passed.
            done = passed(snapshot.ranges(), run.gpa);
            report(done)?;
        }
    }
    if done != total {
        report(total)?;
    }
    snapshot.check_unchanged()?;
    writer.finish_as(snapshot.uuid(), snapshot.config(), snapshot.state().clone())
}

/// Bytes of RAM below `gpa`.
fn passed(ranges: &[(u64, u64)], gpa: u64) -> u64 {
    ranges.iter().map(|&(base, len)| gpa.saturating_sub(base).min(len)).sum()
}

/// Copies `len` bytes from one file to another; the kernel does it, or shares them, where it can.
pub(crate) fn copy(from: &File, from_offset: u64, to: &File, to_offset: u64, len: u64) -> io::Result<()> {
    let (mut from_offset, mut to_offset, mut len) = (from_offset, to_offset, len);
    while len > 0 {
        let step = usize::try_from(len).unwrap_or(usize::MAX);
        // It moves the offsets on.
        match copy_file_range(from, Some(&mut from_offset), to, Some(&mut to_offset), step) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => len = len.saturating_sub(count as u64),
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return copy_through(from, from_offset, to, to_offset, len);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// The same through a buffer of ours.
fn copy_through(from: &File, from_offset: u64, to: &File, to_offset: u64, len: u64) -> io::Result<()> {
    let mut buffer = vec![0; usize::try_from(BUFFER.min(len)).unwrap_or(usize::MAX)];
    let mut done = 0;
    while done < len {
        let step = usize::try_from(len - done).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..step).unwrap_or_default();
        from.read_exact_at(part, from_offset.saturating_add(done))?;
        to.write_all_at(part, to_offset.saturating_add(done))?;
        done += step as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_copied_with_and_without_the_kernels_help() {
        let [from, to] = [(); 2].map(|()| tempfile::tempfile().unwrap());
        let bytes: Vec<u8> = (0..3 * BUFFER + 5).map(|at| (at % 251) as u8).collect();
        from.write_all_at(&bytes, 0).unwrap();
        for copy in [copy, copy_through] {
            to.set_len(0).unwrap();
            copy(&from, 3, &to, 10, bytes.len() as u64 - 3).unwrap();
            let mut copied = vec![0; bytes.len() + 7];
            to.read_exact_at(&mut copied, 0).unwrap();
            assert!(copied[..10] == [0; 10] && copied[10..] == bytes[3..]);
            let short = copy(&from, bytes.len() as u64 - 1, &to, 0, 2).unwrap_err();
            assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}

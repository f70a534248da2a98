//! A descriptor to write lines to without ever waiting for its reader for long: a log, or a list of events. Who has passed it on may have
//! forgotten to read it, and no thread of a VMM may stop for that.
//!
//! Whether a write waits is a property of the open file, which standard error shares with the shell that started the program. So its pipe or
//! terminal is opened once more for this process alone; what cannot be opened again, such as a socket, is asked whether it has room.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// What pipes take whole, and sockets that have room take without waiting.
const PIECE: usize = 4096;
/// How long a reader that has kept up so far may take to make room, in nanoseconds.
const PATIENCE_NS: i64 = 10_000_000;

/// The descriptor, and the rest of a line that it did not take whole.
#[derive(Debug)]
pub struct Outlet {
    file: File,
    /// A write may wait, so the descriptor is asked first.
    asks: bool,
    /// What comes before all else, so that no line is torn.
    rest: Vec<u8>,
    /// The last line went through: the reader is worth a short wait.
    is_read: bool,
}

impl Outlet {
    /// Creates the file, or empties it. A FIFO is opened whether somebody reads it or not.
    ///
    /// # Errors
    /// The file system's.
    pub fn create(path: &Path) -> io::Result<Self> {
        let is_fifo = path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo());
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(!is_fifo).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        // Without a reader a FIFO could not be opened for writing alone.
        options.read(is_fifo);
        Ok(Self::new(options.open(path)?, false))
    }

    /// Writes to what `descriptor` shows, whoever else does, and leaves its flags alone.
    ///
    /// # Errors
    /// The kernel's, if nothing is open there or no descriptor is left.
    pub fn shared(descriptor: BorrowedFd<'_>) -> io::Result<Self> {
        let file = File::from(rustix::io::fcntl_dupfd_cloexec(descriptor, 3)?);
        let kind = file.metadata()?.file_type();
        if kind.is_file() {
            return Ok(Self::new(file, false));
        }
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        match options.open(again) {
            Ok(own) if kind.is_fifo() || kind.is_char_device() => Ok(Self::new(own, false)),
            _ => Ok(Self::new(file, true)),
        }
    }

    fn new(file: File, asks: bool) -> Self {
        Self { file, asks, rest: Vec::new(), is_read: true }
    }

    /// Another descriptor for the same.
    ///
    /// # Errors
    /// The kernel's, if no descriptor is left.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }

    /// Writes `line` whole, or not at all. Whether it was written; an error is a line that was not.
    ///
    /// Waits 10 ms at most, and only for a reader that took the last line.
    pub fn put(&mut self, line: &[u8]) -> bool {
        let rest = std::mem::take(&mut self.rest);
        let left = self.write(&rest);
        if left < rest.len() {
            self.rest = rest.get(left..).unwrap_or_default().to_vec();
            return false;
        }
        let written = self.write(line);
        if written > 0 {
            self.rest = line.get(written..).unwrap_or_default().to_vec();
        }
        written > 0 || line.is_empty()
    }

    /// Writes as much as there is room for, and tells how much.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while let Some(piece) = bytes.get(written..).filter(|piece| !piece.is_empty()) {
            let piece = piece.get(..PIECE).unwrap_or(piece);
            let result = if self.asks && !self.has_room(0) {
                Err(io::ErrorKind::WouldBlock.into())
            } else {
                self.file.write(piece)
            };
            match result {
                Ok(count) if count > 0 => {
                    written = written.saturating_add(count);
                    self.is_read = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_read = self.is_read && self.has_room(PATIENCE_NS);
                    if !self.is_read {
                        return written;
                    }
                }
                // The reader is gone, or the disk is full.
                Ok(_) | Err(_) => {
                    self.is_read = false;
                    return written;
                }
            }
        }
        written
    }

    fn has_room(&self, nanoseconds: i64) -> bool {
        let mut polled = [PollFd::new(&self.file, PollFlags::OUT)];
        let timeout = Timespec { tv_sec: 0, tv_nsec: nanoseconds };
        loop {
            match poll(&mut polled, Some(&timeout)) {
                Ok(count) => {
                    return count > 0 && polled.iter().all(|fd| fd.revents().contains(PollFlags::OUT));
                }
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use rustix::fs::{Mode, OFlags, fcntl_getfl, mkfifoat};

    use super::*;

    const LINE: &[u8] = b"0123456789abcdef0123456789abcde\n";

    /// Fills what nobody reads, makes room, and goes on.
    fn fill_and_drain(outlet: &mut Outlet, reader: &mut impl Read) {
        let full = (0..1 << 20).position(|_| !outlet.put(LINE)).unwrap();
        assert!(!outlet.put(LINE) && full > 0);
        assert!(!outlet.is_read, "the next line would wait, too");
        let mut room = vec![0; 8192];
        assert_eq!(reader.read(&mut room).unwrap(), room.len());
        assert!(outlet.put(LINE));
    }

    fn lines(bytes: &[u8]) -> usize {
        assert!(bytes.chunks(LINE.len()).all(|line| line == LINE));
        bytes.len() / LINE.len()
    }

    #[test]
    fn a_full_pipe_loses_whole_lines_and_keeps_its_flags() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut outlet = Outlet::shared(writer.as_fd()).unwrap();
        fill_and_drain(&mut outlet, &mut reader);
        assert!(!fcntl_getfl(&writer).unwrap().contains(OFlags::NONBLOCK));
        drop((outlet, writer));
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        assert!(lines(&rest) > 0);
    }

    #[test]
    fn a_socket_that_nobody_reads() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let mut outlet = Outlet::shared(writer.as_fd()).unwrap();
        let full = (0..1 << 20).position(|_| !outlet.put(LINE)).unwrap();
        assert!(full > 0 && !fcntl_getfl(&writer).unwrap().contains(OFlags::NONBLOCK));
        drop((outlet, writer));
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        assert_eq!(lines(&rest), full);
    }

    #[test]
    fn a_fifo_needs_no_reader() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let mut outlet = Outlet::create(&path).unwrap();
        assert!(outlet.put(LINE));
        let mut reader = File::open(&path).unwrap();
        fill_and_drain(&mut outlet, &mut reader);
    }

    #[test]
    fn long_lines_are_not_torn() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut outlet = Outlet::shared(writer.as_fd()).unwrap();
        drop(writer);
        let line = [vec![b'x'; 100_000], vec![b'\n']].concat();
        // More than a pipe holds: the rest waits for its time.
        assert!(outlet.put(&line));
        assert!(!outlet.put(LINE));
        let mut head = vec![0; 65536];
        reader.read_exact(&mut head).unwrap();
        assert!(outlet.put(LINE));
        drop(outlet);
        let mut text = Vec::new();
        reader.read_to_end(&mut text).unwrap();
        assert_eq!([head, text].concat(), [line, LINE.to_vec()].concat());
    }

    #[test]
    fn files_are_emptied_or_shared_at_their_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "old").unwrap();
        let mut outlet = Outlet::create(&path).unwrap();
        assert!(outlet.put(LINE));
        let mut shared = Outlet::shared(outlet.file.as_fd()).unwrap();
        assert!(shared.put(LINE) && outlet.put(LINE));
        assert_eq!(lines(&std::fs::read(&path).unwrap()), 3);
        assert!(!Outlet::create(Path::new("/dev/full")).unwrap().put(LINE));
        assert!(Outlet::create(&dir.path().join("none/log")).is_err());
    }
}

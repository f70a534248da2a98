//! Writing a snapshot: nothing has its name before all of it is on the disk.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde_json::Value;
use uuid::Uuid;

use crate::bitmap::Bitmap;
use crate::directory::{CONFIG, Directory, FILES, MEMORY, PAGES, STATE};
use crate::error::Damage;
use crate::flatten;
use crate::manifest::{self, Checksums, Manifest, Parent};
use crate::memory::{self, DataRun, Hashing};
use crate::ranges::{Place, Ranges};
use crate::sparse::{self, ZERO_PAGE};
use crate::{Error, MAX_CONFIG, MAX_DEPTH, PAGE, Snapshot};

/// Bytes that are compared with the parent's at a time.
const STEP: u64 = 1 << 20;

/// What a finished snapshot takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its id.
    pub id: String,
    /// Bytes of pages that are stored: neither zero nor the parent's.
    pub stored_bytes: u64,
    /// Bytes of all RAM.
    pub total_bytes: u64,
}

/// A snapshot that is being written. Dropped before it is finished, it leaves nothing.
#[derive(Debug)]
pub struct Writer {
    directory: Directory,
    ranges: Ranges,
    parent: Option<(Parent, Snapshot)>,
    memory: File,
    pages: Mutex<Pages>,
    /// Files to remove if it is not finished, in the order in which they were made.
    made: Vec<String>,
}

/// What is known of the pages of the file of memory.
#[derive(Debug)]
struct Pages {
    /// Those that are looked for here and not in the parent.
    stored: Bitmap,
    /// Those that are no holes.
    data: Bitmap,
    /// Those that somebody has written at all.
    written: Bitmap,
}

impl Pages {
    fn new(count: u64) -> Self {
        let none = Bitmap::new(count);
        Self { stored: none.clone(), data: none.clone(), written: none }
    }

    /// Makes those of `count` pages from `page` on zero that nobody has written.
    fn zero_unwritten(&mut self, page: u64, count: u64) {
        let (mut page, mut count) = (page, count);
        while count > 0 {
            let (written, run) = self.written.run(page, count);
            if !written {
                self.stored.set(page, run, true);
            }
            (page, count) = (page.saturating_add(run), count.saturating_sub(run));
        }
    }
}

/// What becomes of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The parent has it.
    Inherited,
    /// A hole.
    Zero,
    /// Bytes.
    Data,
}

impl Writer {
    /// Begins a snapshot of the RAM in `ranges`, (guest-physical address, bytes) in ascending order, in the directory `dir`. With a
    /// `parent`, only what differs from that snapshot will be stored. What is never written is zero, whatever the parent has.
    ///
    /// # Errors
    /// `dir` is no directory, has a snapshot already or just gets one; the parent cannot be used; the ranges cannot be.
    pub fn create(dir: &Path, ranges: &[(u64, u64)], parent: Option<&Path>) -> Result<Self, Error> {
        let unstorable = |source| Error::Unstorable { dir: dir.to_owned(), source };
        let directory = Directory::to_write(dir)?;
        check_free(&directory)?;
        let ranges = Ranges::new(ranges).map_err(unstorable)?;
        let parent = parent.map(|parent| open_parent(dir, parent)).transpose()?;
        let part = partial(MEMORY);
        let memory = lock(&directory, &part)?;
        let pages = ranges.total() / PAGE;
        let pages = Mutex::new(Pages::new(pages));
        let writer = Self { directory, ranges, parent, memory, pages, made: vec![part] };
        // Only now is it sure that nobody else finishes one.
        check_free(&writer.directory)?;
        let path = writer.directory.path_of(MEMORY);
        // What an interrupted one left is no content.
        let sized = writer.memory.set_len(0).and_then(|()| writer.memory.set_len(writer.ranges.total()));
        sized.map_err(Error::io("give its length to", &path))?;
        Ok(writer)
    }

    /// Stores whole pages from the guest-physical address `gpa` on, and tells how many bytes of them had to be stored. Pages may be
    /// written again, and the last time counts. Threads may write different pages at the same time.
    ///
    /// # Errors
    /// The pages are not in the ranges, or the disk does not take them. They may be written again after an error.
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> Result<u64, Error> {
        let len = bytes.len() as u64;
        if !gpa.is_multiple_of(PAGE) || !len.is_multiple_of(PAGE) || !self.ranges.cover(gpa, len) {
            return Err(Error::Outside { gpa, len });
        }
        let (mut gpa, mut bytes, mut stored) = (gpa, bytes, 0);
        while let Place::Stored { offset, left } = self.ranges.find(gpa)
            && !bytes.is_empty()
        {
            let step = usize::try_from(left.min(STEP)).unwrap_or(usize::MAX).min(bytes.len());
            let (now, rest) = bytes.split_at(step);
            let written = self.write_step(gpa, offset, now);
            stored += written.map_err(Error::io("write", &self.directory.path_of(MEMORY)))?;
            (gpa, bytes) = (gpa.saturating_add(step as u64), rest);
        }
        Ok(stored)
    }

    fn write_step(&self, gpa: u64, offset: u64, bytes: &[u8]) -> io::Result<u64> {
        let mut inherited = Vec::new();
        if let Some((_, parent)) = &self.parent {
            inherited.resize(bytes.len(), 0);
            memory::fill(parent.layers(), gpa, &mut inherited)?;
        }
        let page = usize::try_from(PAGE).unwrap_or(usize::MAX);
        let mut parents = inherited.chunks(page);
        let verdicts: Vec<_> = bytes.chunks(page).map(|page| judge(page, parents.next())).collect();
        let (mut offset, mut bytes, mut stored) = (offset, bytes, 0);
        for run in verdicts.chunk_by(|a, b| a == b) {
            let len = run.len() * page;
            let (now, rest) = bytes.split_at(len);
            let verdict = run.first().copied().unwrap_or(Verdict::Data);
            match verdict {
                Verdict::Data => {
                    self.memory.write_all_at(now, offset)?;
                    stored += len as u64;
                }
                Verdict::Zero | Verdict::Inherited => {
                    let pages = run.len() as u64;
                    let (first, count) = self.pages().data.run(offset / PAGE, pages);
                    if first || count < pages {
                        sparse::punch(&self.memory, offset, len as u64)?;
                    }
                }
            }
            let mut pages = self.pages();
            pages.data.set(offset / PAGE, run.len() as u64, verdict == Verdict::Data);
            pages.stored.set(offset / PAGE, run.len() as u64, verdict != Verdict::Inherited);
            pages.written.set(offset / PAGE, run.len() as u64, true);
            (offset, bytes) = (offset.saturating_add(len as u64), rest);
        }
        Ok(stored)
    }

    /// Stores pages of another snapshot that are in one range of this one, which has no parent.
    pub(crate) fn copy(&self, run: &DataRun<'_>) -> Result<(), Error> {
        let Place::Stored { offset, .. } = self.ranges.find(run.gpa) else {
            return Err(Error::Outside { gpa: run.gpa, len: run.len });
        };
        let copied = flatten::copy(run.file, run.offset, &self.memory, offset, run.len);
        copied.map_err(Error::io("write", &self.directory.path_of(MEMORY)))?;
        self.pages().data.set(offset / PAGE, run.len / PAGE, true);
        Ok(())
    }

    /// What was never written must not be looked for in the parent. Only where that has something does it make a difference.
    fn zero_unwritten(&self, parent: &Snapshot) -> io::Result<()> {
        for run in parent.data() {
            let run = run?;
            let (mut gpa, mut len) = (run.gpa, run.len);
            while len > 0 {
                let step = match self.ranges.find(gpa) {
                    Place::Gap(gap) => gap.min(len),
                    Place::Stored { offset, left } => {
                        let step = left.min(len);
                        self.pages().zero_unwritten(offset / PAGE, step / PAGE);
                        step
                    }
                };
                (gpa, len) = (gpa.saturating_add(step), len.saturating_sub(step));
            }
        }
        Ok(())
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the snapshot with a configuration and the machine's state. When this returns, all of it is on the disk.
    ///
    /// # Errors
    /// The disk does not take it, or the texts are larger than a reader allows. Nothing is left.
    pub fn finish(self, config: &[u8], state: Value) -> Result<Summary, Error> {
        self.finish_as(Uuid::new_v4(), config, state)
    }

    /// The same with an id that is known.
    pub(crate) fn finish_as(mut self, id: Uuid, config: &[u8], state: Value) -> Result<Summary, Error> {
        let len = config.len() as u64;
        if len > MAX_CONFIG {
            let source = Damage::TooLarge { len, limit: MAX_CONFIG };
            return Err(Error::Unstorable { dir: self.directory.path_of(CONFIG), source });
        }
        self.memory.sync_all().map_err(Error::io("write", &self.directory.path_of(MEMORY)))?;
        if let Some((_, parent)) = &self.parent {
            self.zero_unwritten(parent).map_err(Error::io("read the parent of", self.directory.path()))?;
        }
        let (stored, data) = {
            let pages = self.pages();
            (pages.stored.clone(), pages.data.count())
        };
        let parent = self.parent.as_ref().map(|(parent, _)| parent.clone());
        let pages = parent.as_ref().map(|_| self.add(PAGES, |file| stored.write(file))).transpose()?;
        let config = self.add(CONFIG, |file| file.write_all(config))?;
        let manifest = Manifest::new(id, parent, &self.ranges, Checksums { config, pages }, state);
        let state = manifest.to_bytes();
        let state =
            state.map_err(|source| Error::Unstorable { dir: self.directory.path_of(STATE), source })?;
        self.add(STATE, |file| file.write_all(&state))?;
        self.name_all()?;
        self.made.clear();
        let total_bytes = self.ranges.total();
        Ok(Summary { id: id.to_string(), stored_bytes: data.saturating_mul(PAGE), total_bytes })
    }

    /// Writes a file that waits for its name, and tells its checksum.
    fn add(
        &mut self,
        name: &'static str,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<String, Error> {
        let part = partial(name);
        let file = self.directory.create(&part)?;
        self.made.push(part);
        let mut writer =
            Hashing { inner: io::BufWriter::with_capacity(1 << 20, &file), hash: Default::default() };
        // An interrupted one may have left some.
        let written = file.set_len(0).and_then(|()| write(&mut writer)).and_then(|()| writer.flush());
        let hash = writer.hash.clone();
        drop(writer);
        written.and_then(|()| file.sync_all()).map_err(Error::io("write", &self.directory.path_of(name)))?;
        Ok(manifest::hexadecimal(hash))
    }

    /// Gives all files their names, the one that makes a snapshot of them last.
    fn name_all(&mut self) -> Result<(), Error> {
        for name in FILES {
            let part = partial(name);
            let Some(made) = self.made.iter_mut().find(|made| **made == part) else { continue };
            if name == STATE {
                self.directory.sync()?;
            }
            self.directory.rename(&part, name)?;
            *made = name.to_owned();
        }
        self.directory.sync()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The last first: without it, the others are no snapshot.
        for name in self.made.iter().rev() {
            // What cannot be removed is overwritten the next time.
            let _ = self.directory.remove(name);
        }
    }
}

/// The name of a file until it is complete. It is the same each time, so that what a process that was killed leaves is found and overwritten.
fn partial(name: &str) -> String {
    format!(".{name}.partial")
}

fn check_free(directory: &Directory) -> Result<(), Error> {
    for name in FILES {
        if directory.inode(name)?.is_some() {
            return Err(Error::Exists(directory.path_of(name)));
        }
    }
    Ok(())
}

/// Opens the first file, for one process at a time.
fn lock(directory: &Directory, part: &str) -> Result<File, Error> {
    let file = directory.create(part)?;
    let path = directory.path_of(part);
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Err(Error::Busy(directory.path().to_owned())),
        // Some network file systems have no locks; names are still given away only once.
        Ok(()) | Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS) => {}
        Err(errno) => return Err(Error::io("lock", &path)(errno)),
    }
    // Who had the lock before may have given this file its last name, or removed it.
    let inode = file.metadata().map_err(Error::io("examine", &path))?.ino();
    if directory.inode(part)? == Some(inode) {
        Ok(file)
    } else {
        Err(Error::Busy(directory.path().to_owned()))
    }
}

fn open_parent(dir: &Path, parent: &Path) -> Result<(Parent, Snapshot), Error> {
    let real = |path: &Path| std::fs::canonicalize(path).map_err(Error::io("find", path));
    let snapshot = Snapshot::open(parent)?;
    if snapshot.layers().len() >= MAX_DEPTH {
        return Err(Error::TooDeep);
    }
    let path = manifest::relative(&real(dir)?, &real(parent)?);
    let path = path.into_os_string().into_string();
    let path = path.map_err(|_| Error::Unstorable { dir: parent.to_owned(), source: Damage::ParentPath })?;
    Ok((Parent { path, id: snapshot.uuid() }, snapshot))
}

fn judge(page: &[u8], parent: Option<&[u8]>) -> Verdict {
    if parent == Some(page) {
        Verdict::Inherited
    } else if page == ZERO_PAGE {
        Verdict::Zero
    } else {
        Verdict::Data
    }
}

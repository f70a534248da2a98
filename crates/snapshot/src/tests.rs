//! Snapshots written and read back, compared with plain bytes in memory.

mod chains;
mod copies;
mod damage;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

use crate::bitmap::Bitmap;
use crate::directory::{CONFIG, FILES, MEMORY, PAGES, STATE};
use crate::{Error, PAGE, Snapshot, Writer, sparse};

pub(crate) const MIB: u64 = 1 << 20;
/// Two that touch each other, and one behind a gap.
pub(crate) const RANGES: &[(u64, u64)] = &[(0, MIB), (MIB, 3 * MIB), (16 * MIB, MIB)];

/// RAM as it should be: `RANGES`, with a byte for each.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) ranges: Vec<(u64, u64)>,
    bytes: Vec<Vec<u8>>,
    seed: u64,
}

impl Model {
    pub(crate) fn new(seed: u64) -> Self {
        let bytes = RANGES.iter().map(|&(_, len)| vec![0; len as usize]).collect();
        Self { ranges: RANGES.to_vec(), bytes, seed }
    }

    /// A number that is the same each time.
    fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % below
    }

    pub(crate) fn slice(&mut self, gpa: u64, len: u64) -> &mut [u8] {
        let index =
            self.ranges.iter().position(|&(base, size)| gpa >= base && gpa + len <= base + size).unwrap();
        let at = (gpa - self.ranges[index].0) as usize;
        &mut self.bytes[index][at..at + len as usize]
    }

    /// Changes some pages, a fifth of them to zeroes, and writes each change.
    pub(crate) fn change(&mut self, writer: &Writer, count: usize) {
        for _ in 0..count {
            let index = self.random(self.ranges.len() as u64) as usize;
            let (base, size) = self.ranges[index];
            let first = self.random(size / PAGE);
            let pages = (1 + self.random(9)).min(size / PAGE - first);
            let value = [0, 1, 2, 3, 4][self.random(5) as usize];
            let (gpa, len) = (base + first * PAGE, pages * PAGE);
            self.slice(gpa, len).fill(value);
            writer.write(gpa, self.slice(gpa, len)).unwrap();
        }
    }

    /// Everything, as a first pass.
    pub(crate) fn write_all(&mut self, writer: &Writer) -> u64 {
        let ranges = self.ranges.clone();
        ranges.iter().map(|&(base, len)| writer.write(base, self.slice(base, len)).unwrap()).sum()
    }

    /// Only pages that are not zero, as whoever knows where the holes of RAM are.
    pub(crate) fn write_occupied(&mut self, writer: &Writer) {
        for (base, len) in self.ranges.clone() {
            for gpa in (base..base + len).step_by(PAGE as usize) {
                let page = self.slice(gpa, PAGE);
                if page.iter().any(|byte| *byte != 0) {
                    writer.write(gpa, page).unwrap();
                }
            }
        }
    }

    /// Compares every way of reading `snapshot` with what it should have.
    pub(crate) fn check(&mut self, snapshot: &Snapshot) {
        let ranges = self.ranges.clone();
        assert_eq!(snapshot.ranges(), ranges);
        for &(base, len) in &ranges {
            let mut whole = vec![9; len as usize];
            snapshot.read(base, &mut whole).unwrap();
            assert!(whole == self.slice(base, len), "read at {base:#x}");
            let mut odd = vec![9; 5000];
            snapshot.read(base + 3, &mut odd).unwrap();
            assert!(odd == self.slice(base + 3, 5000));
        }
        let mut sparse = Self::new(0);
        sparse.ranges.clone_from(&ranges);
        sparse.bytes = ranges.iter().map(|&(_, len)| vec![0; len as usize]).collect();
        for run in snapshot.data_runs() {
            let (gpa, len) = run.unwrap();
            snapshot.read(gpa, sparse.slice(gpa, len)).unwrap();
        }
        assert!(sparse.bytes == self.bytes, "data_runs");
        let mut layered = sparse.clone();
        for &(base, len) in &ranges {
            let (file, offset) = snapshot.base_file(base, len).unwrap();
            file.read_exact_at(layered.slice(base, len), offset).unwrap();
        }
        for (gpa, len) in snapshot.stored_above_base() {
            snapshot.read(gpa, layered.slice(gpa, len)).unwrap();
        }
        assert!(layered.bytes == self.bytes, "the base with what is above it");
    }
}

/// A directory `name` in `root`.
pub(crate) fn new_dir(root: &TempDir, name: &str) -> PathBuf {
    let dir = root.path().join(name);
    std::fs::create_dir(&dir).unwrap();
    dir
}

/// A full snapshot of `model`, or an incremental one.
pub(crate) fn store(dir: &Path, parent: Option<&Path>, model: &mut Model) -> crate::Summary {
    let writer = Writer::create(dir, &model.ranges, parent).unwrap();
    model.write_all(&writer);
    writer.finish(b"{}", json!({})).unwrap()
}

/// Bytes of a file that are not in holes.
pub(crate) fn data_bytes(path: &Path) -> u64 {
    let file = File::open(path).unwrap();
    let (mut at, mut sum, end) = (0, 0, file.metadata().unwrap().len());
    while let Some((start, len)) = sparse::data(&file, at, end).unwrap() {
        (at, sum) = (start + len, sum + len);
    }
    sum
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_full_snapshot_is_read_as_it_was_written_last() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::new(1);
    let writer = Writer::create(dir.path(), RANGES, None).unwrap();
    for _ in 0..4 {
        model.change(&writer, 100);
    }
    let summary = writer.finish(b"{\"cpus\":{}}", json!({"nodes": [1, 2.5]})).unwrap();
    assert_eq!(names(dir.path()), [CONFIG, MEMORY, STATE]);
    let snapshot = Snapshot::open(dir.path()).unwrap();
    model.check(&snapshot);
    assert_eq!((snapshot.config(), snapshot.state()), (&b"{\"cpus\":{}}"[..], &json!({"nodes": [1, 2.5]})));
    assert_eq!((snapshot.chain().len(), snapshot.chain()[0].id()), (1, summary.id));
    assert_eq!(summary.total_bytes, 5 * MIB);
    assert_eq!(data_bytes(&dir.path().join(MEMORY)), summary.stored_bytes);
    assert_eq!(snapshot.stored_above_base().count(), 0);
}

#[test]
fn pages_of_zeroes_take_no_room_whatever_they_were_before() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::create(dir.path(), RANGES, None).unwrap();
    let full = vec![1; 4 * PAGE as usize];
    assert_eq!(writer.write(MIB - 2 * PAGE, &full).unwrap(), 4 * PAGE, "across two ranges");
    assert_eq!(writer.write(0, &vec![0; MIB as usize]).unwrap(), 0);
    let summary = writer.finish(b"{}", json!({})).unwrap();
    assert_eq!((summary.stored_bytes, data_bytes(&dir.path().join(MEMORY))), (2 * PAGE, 2 * PAGE));
}

#[test]
fn threads_write_pages_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::create(dir.path(), &[(0, 4 * MIB)], None).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let writer = &writer;
            scope.spawn(move || {
                for page in (thread..1024).step_by(4) {
                    writer.write(page * PAGE, &vec![page as u8; PAGE as usize]).unwrap();
                }
            });
        }
    });
    assert_eq!(writer.finish(b"{}", json!({})).unwrap().stored_bytes, (1024 - 4) * PAGE);
    let mut bytes = vec![0; 4 * MIB as usize];
    Snapshot::open(dir.path()).unwrap().read(0, &mut bytes).unwrap();
    assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == (at as u64 / PAGE) as u8));
}

#[test]
fn what_is_no_ram_is_neither_written_nor_read() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::create(dir.path(), RANGES, None).unwrap();
    for (gpa, len) in
        [(4 * MIB, PAGE), (4 * MIB - PAGE, 2 * PAGE), (1, PAGE), (0, 100), (u64::MAX - 4095, PAGE)]
    {
        let refused = writer.write(gpa, &vec![1; len as usize]);
        assert!(matches!(refused, Err(Error::Outside { gpa: g, len: l }) if (g, l) == (gpa, len)));
    }
    writer.finish(b"{}", json!({})).unwrap();
    let snapshot = Snapshot::open(dir.path()).unwrap();
    for gpa in [4 * MIB, 16 * MIB - 1, 17 * MIB - 1, u64::MAX] {
        assert_eq!(snapshot.read(gpa, &mut [0; 2]).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    }
    assert!(snapshot.base_file(0, 4 * MIB).is_none(), "these are two ranges");
}

#[test]
fn a_snapshot_may_have_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    Writer::create(dir.path(), &[], None).unwrap().finish(b"{}", json!(null)).unwrap();
    let snapshot = Snapshot::open(dir.path()).unwrap();
    assert_eq!((snapshot.ranges().len(), snapshot.data_runs().count()), (0, 0));
}

#[test]
fn an_unfinished_snapshot_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::create(dir.path(), RANGES, None).unwrap();
    writer.write(0, &[1; PAGE as usize]).unwrap();
    let busy = Writer::create(dir.path(), RANGES, None).unwrap_err();
    assert!(matches!(busy, Error::Busy(_)), "{busy}");
    assert_eq!(names(dir.path()).len(), 1);
    drop(writer);
    assert!(names(dir.path()).is_empty());
    // Refused when it is nearly done.
    let writer = Writer::create(dir.path(), RANGES, None).unwrap();
    std::fs::write(dir.path().join(STATE), "other").unwrap();
    let error = writer.finish(b"{}", json!({})).unwrap_err();
    assert!(matches!(&error, Error::Exists(path) if path.ends_with(STATE)), "{error}");
    assert_eq!(names(dir.path()), [STATE]);
    let error = Writer::create(dir.path(), RANGES, None).unwrap_err();
    assert!(error.to_string().contains("exists already"));
    assert_eq!(std::fs::read(dir.path().join(STATE)).unwrap(), b"other");
}

#[test]
fn what_a_killed_process_left_is_no_snapshot_and_in_nobodys_way() {
    let root = tempfile::tempdir().unwrap();
    let base = new_dir(&root, "base");
    let mut model = Model::new(2);
    store(&base, None, &mut model);
    let dir = new_dir(&root, "killed");
    let writer = Writer::create(&dir, RANGES, Some(&base)).unwrap();
    writer.write(0, &[7; PAGE as usize]).unwrap();
    std::mem::forget(writer.finish(b"{}", json!({})).unwrap());
    // It was killed after each of the renames in turn, the last of which was not reached.
    for unnamed in [&FILES[3..], &FILES[2..], &FILES[1..], &FILES[..]] {
        let name = unnamed[0];
        std::fs::rename(dir.join(name), dir.join(format!(".{name}.partial"))).unwrap();
        assert!(matches!(Snapshot::open(&dir), Err(Error::Missing { name: STATE, .. })));
        if name != MEMORY {
            assert!(matches!(Writer::create(&dir, RANGES, None), Err(Error::Exists(_))));
        }
    }
    assert_eq!(names(&dir).len(), 4);
    store(&dir, Some(&base), &mut model);
    assert_eq!(names(&dir), [CONFIG, PAGES, MEMORY, STATE]);
    model.check(&Snapshot::open(&dir).unwrap());
    let mut bits = Vec::new();
    File::open(dir.join(PAGES)).unwrap().read_to_end(&mut bits).unwrap();
    assert_eq!(bits.len() as u64, Bitmap::file_len(5 * MIB / PAGE));
}

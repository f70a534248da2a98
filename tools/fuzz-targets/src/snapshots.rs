//! A snapshot's files, of any bytes, on top of a chain of two that are as they should be. The first byte chooses what the others are:
//! `state.json` itself; `state.json` without its checksums, which are made to fit, and so are the other files' lengths; or `memory-pages`.
//!
//! The snapshot is refused with words, or all ways of reading it tell the same: by address, by runs of data, as pages over the full one at
//! the bottom, and flattened.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use snapshot::{MAX_DEPTH, PAGE, Snapshot, flatten, inspect};
use tempfile::TempDir;

const CONFIG: &[u8] = b"{}";
/// RAM of the good snapshots; (base, len).
const RANGES: [(u64, u64); 2] = [(0, 16 * PAGE), (1 << 20, 8 * PAGE)];
const PAGES: usize = 24;
/// Pages that the second stores. It is zero at an even one of them, and everywhere else it has what the full one has.
const MIDDLE: [usize; 4] = [1, 2, 3, 20];
/// RAM that is read as a whole.
const SMALL: u64 = 1 << 20;

pub(crate) fn run(data: &[u8]) {
    is_opened(data);
}

fn is_opened(data: &[u8]) -> bool {
    let root = directory();
    let dir = root.path().join("top");
    chain(root.path());
    std::fs::create_dir(&dir).unwrap();
    let (choice, rest) = data.split_first().unwrap_or((&0, &[]));
    match choice % 3 {
        0 => write(&dir, rest, &[], Some(PAGES as u64 * PAGE)),
        1 => write_fitting(&dir, rest),
        _ => write_pages(&dir, rest),
    }
    let opened = Snapshot::open(&dir);
    match &opened {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(snapshot) => check(snapshot, &dir, &root.path().join("flat")),
    }
    if let (Ok(snapshot), 2) = (&opened, choice % 3) {
        check_pages(snapshot, rest);
    }
    opened.is_ok()
}

/// In memory, where nothing waits for a disk.
fn directory() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

fn id(number: u8) -> String {
    let digits = |count| char::from(b'0' + number).to_string().repeat(count);
    [8, 4, 4, 4, 12].map(digits).join("-")
}

fn sha(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `state.json`: `text` is an object.
fn sealed(text: &str) -> Vec<u8> {
    let open = text.strip_suffix('}').unwrap_or(text);
    format!("{open},\"checksum\":\"{}\"}}\n", sha(open.as_bytes())).into_bytes()
}

fn manifest(number: u8, parent: Option<&str>, pages: &[u8]) -> Value {
    let mut checksums = json!({"config.json": sha(CONFIG)});
    if parent.is_some() {
        checksums["memory-pages"] = sha(pages).into();
    }
    let parent = parent.map(|path| json!({"path": path, "id": id(number - 1)}));
    let ranges = RANGES.map(|(base, len)| json!({"base": base, "len": len}));
    let memory = json!({"ranges": ranges});
    json!({"format": 1, "id": id(number), "parent": parent, "memory": memory, "checksums": checksums, "state": {}})
}

/// The files of a snapshot; that of RAM is all holes.
fn write(dir: &Path, state: &[u8], pages: &[u8], memory: Option<u64>) {
    std::fs::write(dir.join("config.json"), CONFIG).unwrap();
    std::fs::write(dir.join("state.json"), state).unwrap();
    std::fs::write(dir.join("memory-pages"), pages).unwrap();
    // Whoever asks for more than there can be gets none.
    let file = File::create(dir.join("memory-ranges")).unwrap();
    let _ = file.set_len(memory.unwrap_or_default());
}

fn store(dir: &Path, page: usize, byte: u8) {
    let file = File::options().write(true).open(dir.join("memory-ranges")).unwrap();
    file.write_all_at(&[byte; PAGE as usize], page as u64 * PAGE).unwrap();
}

/// What the full one has in `page`: nothing in some.
fn bottom(page: usize) -> u8 {
    if page.is_multiple_of(5) { 0 } else { page as u8 }
}

/// What the second has in `page`.
fn middle(page: usize) -> u8 {
    match MIDDLE.contains(&page) {
        true if page.is_multiple_of(2) => 0,
        true => 100 + page as u8,
        false => bottom(page),
    }
}

/// The full snapshot `base`, and `middle` on it.
fn chain(root: &Path) {
    let [base, second] = ["base", "middle"].map(|name| root.join(name));
    let mut pages = [0; PAGES / 8];
    MIDDLE.iter().for_each(|page| pages[page / 8] |= 1 << (page % 8));
    for (dir, number, parent) in [(&base, 1, None), (&second, 2, Some("../base"))] {
        std::fs::create_dir(dir).unwrap();
        let state = sealed(&manifest(number, parent, &pages).to_string());
        write(dir, &state, &pages, Some(PAGES as u64 * PAGE));
    }
    (0..PAGES).filter(|page| bottom(*page) != 0).for_each(|page| store(&base, page, bottom(page)));
    MIDDLE.iter().filter(|page| middle(**page) != 0).for_each(|page| store(&second, *page, middle(*page)));
}

/// Any `state.json` with files that fit it as far as possible.
fn write_fitting(dir: &Path, text: &[u8]) {
    let Ok(mut state) = serde_json::from_slice::<Value>(text) else {
        return write(dir, &sealed(&String::from_utf8_lossy(text)), &[], None);
    };
    let ranges = state["memory"]["ranges"].as_array().into_iter().flatten();
    let lens = ranges.map(|range| range["len"].as_u64().unwrap_or_default());
    let total = lens.fold(0, u64::saturating_add);
    // What is larger would take long, and be refused or not as the smaller.
    let count = usize::try_from(total / PAGE).unwrap().min(1 << 19);
    let mut pages = vec![0; count.div_ceil(8)];
    (0..count).step_by(2).for_each(|page| pages[page / 8] |= 1 << (page % 8));
    if let Some(checksum) = state.pointer_mut("/checksums/memory-pages") {
        *checksum = sha(&pages).into();
    }
    write(dir, &sealed(&state.to_string()), &pages, Some(total));
}

/// Any page map. `page` has the byte 200 + `page`, if it is odd.
fn write_pages(dir: &Path, pages: &[u8]) {
    let state = sealed(&manifest(3, Some("../middle"), pages).to_string());
    write(dir, &state, pages, Some(PAGES as u64 * PAGE));
    (1..PAGES).step_by(2).for_each(|page| store(dir, page, 200 + page as u8));
}

fn check_pages(snapshot: &Snapshot, pages: &[u8]) {
    let all = RANGES.iter().flat_map(|&(base, len)| (0..len / PAGE).map(move |page| base + page * PAGE));
    for (page, gpa) in all.enumerate() {
        let mut bytes = [7; PAGE as usize];
        snapshot.read(gpa, &mut bytes).unwrap();
        let expected = match pages[page / 8] >> (page % 8) & 1 {
            0 => middle(page),
            _ if page % 2 == 1 => 200 + page as u8,
            _ => 0,
        };
        assert!(bytes == [expected; PAGE as usize], "page {page}: {} for {expected}", bytes[0]);
    }
}

fn check(snapshot: &Snapshot, dir: &Path, flat: &Path) {
    assert!((1..=MAX_DEPTH).contains(&snapshot.chain().len()));
    assert_eq!(snapshot.config(), CONFIG);
    let found = inspect(dir).unwrap();
    assert_eq!((found.chain.len(), found.id), (snapshot.chain().len(), snapshot.chain()[0].id()));
    let mut end = 0;
    for &(base, len) in snapshot.ranges() {
        assert!(base >= end && len > 0 && (base | len).is_multiple_of(PAGE));
        end = base.checked_add(len).unwrap();
    }
    snapshot.check_unchanged().unwrap();
    if found.memory_bytes > SMALL {
        return;
    }
    let whole = |snapshot: &Snapshot| -> Vec<Vec<u8>> {
        let read = |&(base, len)| {
            let mut bytes = vec![7; usize::try_from(len).unwrap()];
            snapshot.read(base, &mut bytes).unwrap();
            bytes
        };
        snapshot.ranges().iter().map(read).collect()
    };
    let expected = whole(snapshot);
    let runs = snapshot.data_runs().map(Result::unwrap);
    for (&(base, len), expected) in snapshot.ranges().iter().zip(&expected) {
        let mut bytes = vec![0; expected.len()];
        lay_over(snapshot, snapshot.data_runs().map(Result::unwrap), base, &mut bytes);
        assert!(bytes == *expected, "runs of data at {base:#x}");
        if let Some((file, offset)) = snapshot.base_file(base, len) {
            file.read_exact_at(&mut bytes, offset).unwrap();
            lay_over(snapshot, snapshot.stored_above_base(), base, &mut bytes);
            assert!(bytes == *expected, "pages over the full one at {base:#x}");
        }
    }
    assert!(runs.map(|(gpa, len)| gpa + len).is_sorted());
    std::fs::create_dir(flat).unwrap();
    flatten(dir, flat, |_, _| ControlFlow::Continue(())).unwrap();
    assert!(whole(&Snapshot::open(flat).unwrap()) == expected, "flattened");
}

/// Reads those of `runs` that are in the range at `base`.
fn lay_over(snapshot: &Snapshot, runs: impl Iterator<Item = (u64, u64)>, base: u64, bytes: &mut [u8]) {
    let range = base..base + bytes.len() as u64;
    for (gpa, len) in runs.filter(|(gpa, _)| range.contains(gpa)) {
        let at = usize::try_from(gpa - base).unwrap();
        snapshot.read(gpa, &mut bytes[at..at + usize::try_from(len).unwrap()]).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A corpus of refused files would test little.
    #[test]
    fn good_files_of_each_kind_are_opened() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/snapshots");
        for (name, opened) in [
            ("state", true),
            ("full", true),
            ("incremental", true),
            ("more-ram", true),
            ("pages", true),
            ("no-pages", true),
            ("itself", false),
            ("pages-short", false),
            ("raw", false),
        ] {
            assert_eq!(is_opened(&std::fs::read(format!("{dir}/{name}")).unwrap()), opened, "{name}");
        }
    }
}

//! Snapshots that lie on others.

use std::path::Path;

use serde_json::json;

use super::{MIB, Model, RANGES, data_bytes, new_dir, store};
use crate::directory::{Directory, MEMORY, STATE};
use crate::manifest::{Manifest, Parent};
use crate::{Error, MAX_DEPTH, PAGE, Snapshot, Writer};

/// The manifest of `dir`, changed.
fn edit(dir: &Path, change: impl FnOnce(&mut Manifest)) {
    let mut manifest = Manifest::read(&Directory::to_read(dir).unwrap()).unwrap();
    change(&mut manifest);
    std::fs::write(dir.join(STATE), manifest.to_bytes().unwrap()).unwrap();
}

fn parent(dir: &Path, change: impl FnOnce(&mut Parent)) {
    edit(dir, |manifest| change(manifest.parent.as_mut().unwrap()));
}

/// An error and its sources, a line each.
fn text(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(|error| format!("{error}\n")).collect()
}

#[test]
fn a_chain_is_read_as_it_was_written_last() {
    let root = tempfile::tempdir().unwrap();
    let mut model = Model::new(3);
    let mut dirs: Vec<std::path::PathBuf> = Vec::new();
    for number in 0..5 {
        let dir = new_dir(&root, &format!("snapshot{number}"));
        let writer = Writer::create(&dir, RANGES, dirs.last().map(|dir| &**dir)).unwrap();
        match number % 2 {
            0 => drop(model.write_all(&writer)),
            _ => model.write_occupied(&writer),
        }
        model.change(&writer, 40);
        let summary = writer.finish(b"{}", json!({})).unwrap();
        assert_eq!(data_bytes(&dir.join(MEMORY)), summary.stored_bytes);
        dirs.push(dir);
        let snapshot = Snapshot::open(dirs.last().unwrap()).unwrap();
        model.check(&snapshot);
        assert_eq!(snapshot.chain().len(), number + 1);
    }
}

#[test]
fn the_last_write_of_a_page_counts_whatever_it_and_the_others_were() {
    const BYTES: u64 = 3 * 27 * PAGE;
    let root = tempfile::tempdir().unwrap();
    let (base, child) = (new_dir(&root, "base"), new_dir(&root, "child"));
    let byte_page = |byte: u8| vec![byte; PAGE as usize];
    // The parent's byte, then what is written in three passes: all there is of zero, two others, and one of the others is the parent's.
    let cases: Vec<[u8; 4]> = (0..81).map(|n| [n / 27 % 3, n / 9 % 3, n / 3 % 3, n % 3]).collect();
    let writer = Writer::create(&base, &[(0, BYTES)], None).unwrap();
    for (page, case) in (0..).zip(&cases) {
        writer.write(page * PAGE, &byte_page(case[0])).unwrap();
    }
    writer.finish(b"{}", json!({})).unwrap();
    let writer = Writer::create(&child, &[(0, BYTES)], Some(&base)).unwrap();
    for pass in 1..4 {
        for (page, case) in (0..).zip(&cases) {
            writer.write(page * PAGE, &byte_page(case[pass])).unwrap();
        }
    }
    let stored = writer.finish(b"{}", json!({})).unwrap().stored_bytes;
    let different = cases.iter().filter(|case| case[3] != 0 && case[3] != case[0]).count() as u64;
    assert_eq!((stored, data_bytes(&child.join(MEMORY))), (different * PAGE, different * PAGE));
    let snapshot = Snapshot::open(&child).unwrap();
    for (page, case) in (0..).zip(&cases) {
        let mut bytes = byte_page(9);
        snapshot.read(page * PAGE, &mut bytes).unwrap();
        assert!(bytes == byte_page(case[3]), "{case:?}");
    }
    let above: u64 = snapshot.stored_above_base().map(|(_, len)| len / PAGE).sum();
    assert_eq!(above, cases.iter().filter(|case| case[3] != case[0]).count() as u64);
}

#[test]
fn what_is_not_written_is_zero_and_not_the_parents() {
    let root = tempfile::tempdir().unwrap();
    let [base, child] = ["base", "child"].map(|name| new_dir(&root, name));
    let mut model = Model::new(8);
    model.slice(0, MIB).fill(1);
    model.slice(16 * MIB, PAGE).fill(2);
    store(&base, None, &mut model);
    // The guest has given most of it back.
    model.slice(0, MIB).fill(0);
    let writer = Writer::create(&child, RANGES, Some(&base)).unwrap();
    model.write_occupied(&writer);
    assert_eq!(writer.finish(b"{}", json!({})).unwrap().stored_bytes, 0);
    let snapshot = Snapshot::open(&child).unwrap();
    model.check(&snapshot);
    assert_eq!(
        snapshot.stored_above_base().collect::<Vec<_>>(),
        [(0, MIB)],
        "nothing where the parent is zero too"
    );
}

#[test]
fn ram_that_the_parent_has_not_is_zero_there() {
    let root = tempfile::tempdir().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| new_dir(&root, name));
    let page = [1; PAGE as usize];
    let make = |dir: &Path, ranges: &[(u64, u64)], parent: Option<&Path>, gpa| {
        let writer = Writer::create(dir, ranges, parent).unwrap();
        for gpa in [0, gpa] {
            writer.write(gpa, &page).unwrap();
        }
        writer.finish(b"{}", json!({})).unwrap()
    };
    make(&a, &[(0, MIB), (2 * MIB, MIB)], None, 2 * MIB);
    make(&b, &[(0, MIB)], Some(&a), 0);
    // What a has at 2 MiB is of no concern any more.
    make(&c, &[(0, MIB), (2 * MIB, 2 * MIB)], Some(&b), 3 * MIB);
    let snapshot = Snapshot::open(&c).unwrap();
    let runs: Vec<_> = snapshot.data_runs().map(Result::unwrap).collect();
    assert_eq!(runs, [(0, PAGE), (3 * MIB, PAGE)]);
    assert!(snapshot.base_file(0, MIB).is_some());
    assert!(snapshot.base_file(2 * MIB, MIB).is_none(), "one in between has it not");
    let mut bytes = page;
    snapshot.read(2 * MIB, &mut bytes).unwrap();
    assert_eq!(bytes, [0; PAGE as usize]);
}

#[test]
fn a_chain_may_be_moved_as_a_whole() {
    let root = tempfile::tempdir().unwrap();
    let all = new_dir(&root, "all");
    let [base, child] = ["base", "child"].map(|name| all.join(name));
    std::fs::create_dir(&base).unwrap();
    std::fs::create_dir(&child).unwrap();
    let mut model = Model::new(4);
    store(&base, None, &mut model);
    store(&child, Some(&base), &mut model);
    let moved = root.path().join("moved");
    std::fs::rename(&all, &moved).unwrap();
    model.check(&Snapshot::open(&moved.join("child")).unwrap());
    // One of them alone may not.
    std::fs::rename(moved.join("base"), moved.join("elsewhere")).unwrap();
    let error = text(&Snapshot::open(&moved.join("child")).unwrap_err());
    assert!(error.contains("by parent.path in ") && error.contains("child/../base"), "{error}");
    std::fs::create_dir(moved.join("base")).unwrap();
    store(&moved.join("base"), None, &mut model);
    let error = text(&Snapshot::open(&moved.join("child")).unwrap_err());
    assert!(error.contains("put the parent back where it was"), "{error}");
    parent(&moved.join("child"), |parent| parent.path = moved.join("elsewhere").to_str().unwrap().into());
    model.check(&Snapshot::open(&moved.join("child")).unwrap());
}

#[test]
fn no_snapshot_is_its_own_ancestor() {
    let root = tempfile::tempdir().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| new_dir(&root, name));
    let mut model = Model::new(5);
    store(&a, None, &mut model);
    store(&b, Some(&a), &mut model);
    let id = store(&c, Some(&b), &mut model).id.parse().unwrap();
    parent(&b, |parent| *parent = Parent { path: "../c".into(), id });
    let error = text(&Snapshot::open(&c).unwrap_err());
    assert!(error.contains("its own ancestor"), "{error}");
    parent(&c, |parent| parent.path = ".".into());
    assert!(matches!(Snapshot::open(&c), Err(Error::Parent { .. })), "it has another id than its parent");
}

#[test]
fn a_chain_has_a_limit_that_no_writer_exceeds() {
    let root = tempfile::tempdir().unwrap();
    let dirs: Vec<_> = (0..=MAX_DEPTH).map(|number| new_dir(&root, &number.to_string())).collect();
    let page = [(0, PAGE)];
    for (number, dir) in dirs[..MAX_DEPTH].iter().enumerate() {
        let parent = number.checked_sub(1).map(|parent| &*dirs[parent]);
        Writer::create(dir, &page, parent).unwrap().finish(b"{}", json!({})).unwrap();
    }
    let last = &dirs[MAX_DEPTH];
    let deepest = &dirs[MAX_DEPTH - 1];
    assert_eq!(Snapshot::open(deepest).unwrap().chain().len(), MAX_DEPTH);
    assert!(matches!(Writer::create(last, &page, Some(deepest)), Err(Error::TooDeep)));
    // Made by hand, it is refused all the same.
    Writer::create(last, &page, Some(&dirs[0])).unwrap().finish(b"{}", json!({})).unwrap();
    let id = Snapshot::open(deepest).unwrap().uuid();
    parent(last, |parent| *parent = Parent { path: format!("../{}", MAX_DEPTH - 1), id });
    let error = text(&Snapshot::open(last).unwrap_err());
    assert!(error.contains("ch-remote snapshot flatten"), "{error}");
}

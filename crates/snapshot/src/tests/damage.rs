//! Files that are not as they were written.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use super::{Model, new_dir, store};
use crate::directory::{CONFIG, Directory, MEMORY, PAGES, STATE};
use crate::manifest::{Manifest, sha256};
use crate::{Damage, Error, Snapshot, Writer};

/// A full snapshot and one on it.
fn two(root: &tempfile::TempDir) -> [std::path::PathBuf; 2] {
    let [base, child] = ["base", "child"].map(|name| new_dir(root, name));
    let mut model = Model::new(6);
    let writer = Writer::create(&base, &model.ranges, None).unwrap();
    model.change(&writer, 50);
    writer.finish(b"{}", serde_json::json!({})).unwrap();
    store(&child, Some(&base), &mut model);
    [base, child]
}

#[test]
fn a_changed_or_shortened_file_is_named() {
    let root = tempfile::tempdir().unwrap();
    let [_, child] = two(&root);
    for name in [CONFIG, PAGES, MEMORY, STATE] {
        let path = child.join(name);
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let len = file.metadata().unwrap().len();
        let mut content = vec![0; len as usize];
        file.read_exact_at(&mut content, 0).unwrap();
        for len in [len - 1, len + 1] {
            file.set_len(len).unwrap();
            let error = Snapshot::open(&child).unwrap_err();
            assert!(matches!(&error, Error::Damaged { path: p, .. } if *p == path), "{name}: {error}");
        }
        file.set_len(len).unwrap();
        file.write_all_at(&content, 0).unwrap();
        Snapshot::open(&child).unwrap();
        if name != MEMORY {
            file.write_all_at(&[content[0] ^ 1], 0).unwrap();
            let error = Snapshot::open(&child).unwrap_err();
            assert!(matches!(&error, Error::Damaged { path: p, .. } if *p == path), "{name}: {error}");
            file.write_all_at(&content, 0).unwrap();
        }
        std::fs::rename(&path, child.join("away")).unwrap();
        assert!(matches!(Snapshot::open(&child), Err(Error::Missing { name: n, .. }) if n == name));
        std::fs::rename(child.join("away"), &path).unwrap();
    }
}

#[test]
fn a_fault_of_a_parent_is_told_as_its_own() {
    let root = tempfile::tempdir().unwrap();
    let [base, child] = two(&root);
    OpenOptions::new().write(true).open(base.join(MEMORY)).unwrap().set_len(4096).unwrap();
    let Error::Parent { source, .. } = Snapshot::open(&child).unwrap_err() else { unreachable!() };
    let Error::Damaged { path, source } = *source else { unreachable!() };
    assert!(path.ends_with("base/memory-ranges"));
    assert!(matches!(source, Damage::Length { len: 4096, .. }));
    // A parent's configuration is nobody's concern.
    let root = tempfile::tempdir().unwrap();
    let [base, child] = two(&root);
    std::fs::remove_file(base.join(CONFIG)).unwrap();
    Snapshot::open(&child).unwrap();
}

#[test]
fn pages_beyond_the_end_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let [base, child] = ["base", "child"].map(|name| new_dir(&root, name));
    let end = [(0, 4096 * 9)];
    for (dir, parent) in [(&base, None), (&child, Some(&*base))] {
        Writer::create(dir, &end, parent).unwrap().finish(b"{}", serde_json::json!({})).unwrap();
    }
    std::fs::write(child.join(PAGES), [0, 2]).unwrap();
    let mut manifest = Manifest::read(&Directory::to_read(&child).unwrap()).unwrap();
    manifest.checksums.pages = Some(sha256(&[0, 2]));
    std::fs::write(child.join(STATE), manifest.to_bytes().unwrap()).unwrap();
    let error = Snapshot::open(&child).unwrap_err();
    assert!(matches!(error, Error::Damaged { source: Damage::StrayPages, .. }), "{error}");
}

#[test]
fn a_file_that_changes_while_it_is_read_is_noticed() {
    let root = tempfile::tempdir().unwrap();
    let [base, child] = two(&root);
    let snapshot = Snapshot::open(&child).unwrap();
    snapshot.check_unchanged().unwrap();
    let file = OpenOptions::new().write(true).open(base.join(MEMORY)).unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH;
    file.set_times(std::fs::FileTimes::new().set_modified(old)).unwrap();
    let error = snapshot.check_unchanged().unwrap_err();
    assert!(
        matches!(&error, Error::Damaged { path, source: Damage::Changed } if path.ends_with("base/memory-ranges"))
    );
    file.set_len(0).unwrap();
    let mut bytes = [0; 4096];
    let short = (0..1024).map(|page| snapshot.read(page * 4096, &mut bytes)).find_map(Result::err).unwrap();
    assert_eq!(short.kind(), std::io::ErrorKind::UnexpectedEof);
}

#[test]
fn texts_that_no_reader_would_take_are_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::create(dir.path(), &[(0, 4096)], None).unwrap();
    let config = vec![b' '; crate::MAX_CONFIG as usize + 1];
    let error = writer.finish(&config, serde_json::json!({})).unwrap_err();
    assert!(matches!(error, Error::Unstorable { source: Damage::TooLarge { .. }, .. }), "{error}");
    assert!(super::names(dir.path()).is_empty());
}

//! Flattened and inspected snapshots.

use std::ops::ControlFlow;

use serde_json::json;

use super::{MIB, Model, RANGES, data_bytes, names, new_dir, store};
use crate::directory::MEMORY;
use crate::{Error, Snapshot, Writer, flatten, inspect};

/// A full snapshot, one on it that has devices, and the RAM of the latter.
fn two(root: &tempfile::TempDir) -> ([std::path::PathBuf; 2], Model) {
    let [base, child] = ["base", "child"].map(|name| new_dir(root, name));
    let mut model = Model::new(7);
    let state = json!({"nodes": {"_disk0": {"kind": "virtio-pci", "version": 3, "state": []}, "x": 1}});
    for (dir, parent) in [(&base, None), (&child, Some(&*base))] {
        let writer = Writer::create(dir, RANGES, parent).unwrap();
        model.write_all(&writer);
        model.change(&writer, 60);
        writer.finish(b"{\"a\":1}", state.clone()).unwrap();
    }
    ([base, child], model)
}

#[test]
fn a_flat_snapshot_takes_the_place_of_its_chain() {
    let root = tempfile::tempdir().unwrap();
    let ([base, child], mut model) = two(&root);
    let [flat, grandchild] = ["flat", "grandchild"].map(|name| new_dir(&root, name));
    store(&grandchild, Some(&child), &mut model);
    let mut reports = Vec::new();
    let report = |done, total| {
        reports.push((done, total));
        ControlFlow::Continue(())
    };
    let summary = flatten(&child, &flat, report).unwrap();
    assert!(reports.is_sorted() && reports.len() > 2, "{reports:?}");
    assert_eq!((reports[0], *reports.last().unwrap()), ((0, 5 * MIB), (5 * MIB, 5 * MIB)));
    let snapshot = Snapshot::open(&flat).unwrap();
    model.check(&snapshot);
    let original = Snapshot::open(&child).unwrap();
    assert_eq!((snapshot.config(), snapshot.state()), (original.config(), original.state()));
    assert_eq!((snapshot.chain().len(), summary.id), (1, original.chain()[0].id()));
    assert_eq!(data_bytes(&flat.join(MEMORY)), summary.stored_bytes);
    for old in [base, child.clone()] {
        std::fs::remove_dir_all(old).unwrap();
    }
    std::fs::rename(&flat, &child).unwrap();
    let grandchild = Snapshot::open(&grandchild).unwrap();
    model.check(&grandchild);
    assert_eq!(grandchild.chain().len(), 2);
}

#[test]
fn a_copy_that_is_given_up_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let ([base, child], _) = two(&root);
    let flat = new_dir(&root, "flat");
    let stop = |done, _| if done > 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    assert!(matches!(flatten(&child, &flat, stop), Err(Error::Stopped)));
    assert!(names(&flat).is_empty());
    let go = |_, _| ControlFlow::Continue(());
    assert!(matches!(flatten(&child, &base, go), Err(Error::Exists(_))), "no snapshot is overwritten");
    assert!(matches!(flatten(&flat, &flat, go), Err(Error::Missing { .. })));
}

#[test]
fn an_inspection_tells_sizes_chain_and_devices() {
    let root = tempfile::tempdir().unwrap();
    let ([base, child], _) = two(&root);
    let found = inspect(&child).unwrap();
    assert_eq!(
        (found.memory_bytes, found.ranges.len(), found.format, found.config_bytes),
        (5 * MIB, 3, 1, 7)
    );
    let links: Vec<_> = found.chain.iter().map(|link| (link.path.clone(), link.full)).collect();
    let real = |path| std::fs::canonicalize(path).unwrap();
    assert_eq!(links, [(real(&child), false), (real(&base), true)]);
    assert_eq!((found.chain[0].id.clone(), found.chain[1].own_bytes), (found.id.clone(), 5 * MIB));
    assert!(found.chain[0].own_bytes >= data_bytes(&child.join(MEMORY)));
    assert!(found.chain.iter().all(|link| (1..5 * MIB).contains(&link.disk_bytes)), "{found:?}");
    let device = serde_json::to_value(&found).unwrap()["devices"].clone();
    assert_eq!(device, json!([{"id": "_disk0", "kind": "virtio-pci", "version": 3}]));
}

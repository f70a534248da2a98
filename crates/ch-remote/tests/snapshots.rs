//! What `ch-remote snapshot` does with files, without a VMM.

#![cfg(test)]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use snapshot::{PAGE, Snapshot, Writer};

/// Runs `ch-remote snapshot`: code, standard output, standard error.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_ch-remote")).arg("snapshot").args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A full snapshot, one on it, and an empty directory.
fn directories(root: &tempfile::TempDir) -> [PathBuf; 3] {
    let dirs = ["base", "child", "out"].map(|name| root.path().join(name));
    dirs.iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
    let state = json!({"nodes": {"__rng": {"kind": "virtio-pci", "version": 2, "state": null}}});
    for (dir, parent, byte) in [(&dirs[0], None, 1), (&dirs[1], Some(&*dirs[0]), 2)] {
        let writer = Writer::create(dir, &[(0, 1 << 20), (1 << 32, 1 << 20)], parent).unwrap();
        writer.write(0, &[byte; 2 * PAGE as usize]).unwrap();
        writer.finish(b"{}", state.clone()).unwrap();
    }
    dirs
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn an_inspection_is_a_table_or_json() {
    let root = tempfile::tempdir().unwrap();
    let [_, child, out] = directories(&root);
    let (code, json, _) = run(&["inspect", text(&child)]);
    let found: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &found["memory_bytes"], &found["format"]), (Some(0), &json!(2 << 20), &json!(1)));
    let full: Vec<_> = found["chain"].as_array().unwrap().iter().map(|link| &link["full"]).collect();
    assert_eq!(full, [&json!(false), &json!(true)]);
    let (code, table, _) = run(&["inspect", text(&child), "--output", "table"]);
    let rows: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(code, Some(0));
    for row in [&["Memory", "2", "MiB"][..], &["0x100000000", "1", "MiB"], &["__rng", "virtio-pci", "2"]] {
        assert!(rows.iter().any(|found| found == row), "{row:?} in {table}");
    }
    assert!(rows.iter().any(|row| row.contains(&"incremental") && row.contains(&"8")), "{table}");
    let (code, none, why) = run(&["inspect", text(&out)]);
    assert_eq!((code, none.as_str()), (Some(1), ""));
    assert!(why.contains("0: Error in a snapshot's files\n  1: There is no finished snapshot in "), "{why}");
}

#[test]
fn a_chain_is_flattened_into_an_empty_directory() {
    let root = tempfile::tempdir().unwrap();
    let [base, child, out] = directories(&root);
    let (code, made, _) = run(&["flatten", text(&child), text(&out)]);
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!((code, &made["stored_bytes"], &made["total_bytes"]), (Some(0), &json!(8192), &json!(2 << 20)));
    std::fs::remove_dir_all(base).unwrap();
    let mut page = [0; PAGE as usize];
    Snapshot::open(&out).unwrap().read(PAGE, &mut page).unwrap();
    assert_eq!(page, [2; PAGE as usize]);
    let (code, _, why) = run(&["flatten", text(&child), text(&out)]);
    assert_eq!(code, Some(1));
    assert!(why.contains("Cannot use the parent of the snapshot in "), "{why}");
    let (_, _, why) = run(&["flatten", text(&out), text(&out)]);
    assert!(why.contains("memory-ranges exists already: name an empty directory"), "{why}");
}

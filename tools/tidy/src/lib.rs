//! The style of this project, as tests (`cargo test -p tidy`): sizes, layers, `unsafe`, panics. The rules are the table in
//! [`rules`]; [`source`] applies those that one file can break, [`layers`] those that a dependency can break, and [`devices`] keeps each device to
//! its folder.

pub mod devices;
pub mod layers;
pub mod rules;
pub mod source;

use std::path::{Path, PathBuf};

/// The workspace this crate was built in.
pub fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every `.rs` file under `crates/`, `tools/` and `fuzz/`, sorted, relative to `root`.
///
/// # Errors
/// A directory cannot be listed.
pub fn rust_files(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut pending: Vec<PathBuf> = ["crates", "tools", "fuzz"].iter().map(PathBuf::from).collect();
    while let Some(dir) = pending.pop() {
        let absolute = root.join(&dir);
        if !absolute.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(absolute)? {
            let entry = entry?;
            let path = dir.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                if entry.file_name() != "target" {
                    pending.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

//! Where things lie.

use crate::error::{AtPath, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The workspace's directories.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// The workspace.
    pub(crate) root: PathBuf,
    /// Cargo's target directory.
    pub(crate) target: PathBuf,
    /// What the lab caches: packages, kernels, initramfs, disks.
    pub(crate) images: PathBuf,
}

impl Places {
    /// Finds the directories and makes the ones of the lab.
    ///
    /// # Errors
    /// A directory cannot be made.
    pub(crate) fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let root = fs::canonicalize(&manifest).at(&manifest)?;
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => root.join(dir),
            None => root.join("target"),
        };
        // Not `target/lab`: that is where cargo puts what it builds with the profile of that name.
        let images = target.join("lab-images");
        fs::create_dir_all(&images).at(&images)?;
        Ok(Self { root, target, images })
    }

    /// What the profile `lab` built.
    pub(crate) fn lab_binary(&self, name: &str) -> PathBuf {
        self.target.join("lab").join(name)
    }

    /// What the profile `release` built.
    pub(crate) fn release_binary(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }

    /// What the profile `dev` built.
    pub(crate) fn dev_binary(&self, name: &str) -> PathBuf {
        self.target.join("debug").join(name)
    }
}

/// True if `output` was made from exactly these inputs before.
pub(crate) fn is_fresh(output: &Path, inputs: &str) -> bool {
    output.exists() && fs::read_to_string(stamp(output)).is_ok_and(|old| old == inputs)
}

/// Records that `output` was made from these inputs. Called last, so an interrupted build is never taken for a whole one.
///
/// # Errors
/// The stamp cannot be written.
pub(crate) fn set_fresh(output: &Path, inputs: &str) -> Result<()> {
    let stamp = stamp(output);
    fs::write(&stamp, inputs).at(&stamp)
}

fn stamp(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".inputs");
    name.into()
}

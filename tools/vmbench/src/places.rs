//! Where things lie, as `cargo xtask bench` says in the environment.

use crate::error::{Error, Result};
use std::fs;
use std::path::PathBuf;

/// Programs, images and a directory to write in.
#[derive(Debug)]
pub(crate) struct Places {
    /// This VMM's program.
    pub(crate) vmm: PathBuf,
    /// Files of this run; gone with this value.
    pub(crate) scratch: PathBuf,
    images: PathBuf,
}

impl Places {
    /// Reads `VMBENCH_VMM` and `VMBENCH_IMAGES`; makes a directory below `TMPDIR`.
    ///
    /// # Errors
    /// A variable is missing, the directory cannot be made.
    pub(crate) fn find() -> Result<Self> {
        let variable = |name| std::env::var_os(name).map(PathBuf::from).ok_or(Error::Variable(name));
        let scratch = std::env::temp_dir().join(format!("vmbench-{}", std::process::id()));
        fs::create_dir_all(&scratch).map_err(|source| Error::File { path: scratch.clone(), source })?;
        Ok(Self { vmm: variable("VMBENCH_VMM")?, images: variable("VMBENCH_IMAGES")?, scratch })
    }

    /// `bzImage`, `vmlinux`, `initramfs` or `tools.img`.
    pub(crate) fn image(&self, name: &str) -> PathBuf {
        self.images.join(name)
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

//! Where things lie, as `cargo xtask bench` says in the environment.

use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};
use vmbench::results::Contestant;

/// Programs, images and a directory to write in.
#[derive(Debug)]
pub(crate) struct Places {
    vmm: PathBuf,
    /// The program of another commit, if that is what is measured against.
    before: Option<PathBuf>,
    /// Files of this run; gone with this value.
    pub(crate) scratch: PathBuf,
    images: PathBuf,
}

impl Places {
    /// Reads `VMBENCH_VMM`, `VMBENCH_IMAGES` and perhaps `VMBENCH_BEFORE`; makes a directory below `TMPDIR`.
    ///
    /// # Errors
    /// A variable is missing, the directory cannot be made.
    pub(crate) fn find() -> Result<Self> {
        let variable = |name| std::env::var_os(name).map(PathBuf::from).ok_or(Error::Variable(name));
        let scratch = std::env::temp_dir().join(format!("vmbench-{}", std::process::id()));
        fs::create_dir_all(&scratch).map_err(|source| Error::File { path: scratch.clone(), source })?;
        let before = std::env::var_os("VMBENCH_BEFORE").map(PathBuf::from);
        Ok(Self { vmm: variable("VMBENCH_VMM")?, before, images: variable("VMBENCH_IMAGES")?, scratch })
    }

    /// The program of this VMM, of the commit that `who` is.
    pub(crate) fn vmm(&self, who: Contestant) -> &Path {
        self.before.as_deref().filter(|_| who == Contestant::Before).unwrap_or(&self.vmm)
    }

    /// Who is measured, in the order of round `number`: who comes first changes, as it may matter.
    pub(crate) fn contestants(&self, others: &[Contestant], number: usize) -> Vec<Contestant> {
        let mut contestants = if self.before.is_some() { Contestant::OURS.to_vec() } else { others.to_vec() };
        if self.before.is_some() && number.is_multiple_of(2) {
            contestants.reverse();
        }
        contestants
    }

    /// In how many of `rounds` rounds to do what takes long: against another commit in each, because noise has to be told from change.
    pub(crate) fn long_rounds(&self, rounds: usize) -> usize {
        if self.before.is_some() { rounds } else { (rounds / 2).max(1) }
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

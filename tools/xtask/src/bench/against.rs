//! The program of another commit, built as it shipped: `cargo xtask bench --against REV`.

use crate::error::{AtPath, Result};
use crate::places::Places;
use crate::step::{cargo, loud, quiet, step};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program of the commit `revision`; built once.
///
/// # Errors
/// There is no such commit, or it does not build.
pub(crate) fn build(places: &Places, revision: &str) -> Result<PathBuf> {
    let commit = quiet(git(places).args(["rev-parse", "--verify", &format!("{revision}^{{commit}}")]))?;
    let dir = places.target.join("against");
    let program = dir.join(format!("cloud-hypervisor-{}", commit.trim()));
    if program.exists() {
        return Ok(program);
    }
    fs::create_dir_all(&dir).at(&dir)?;
    let tree = dir.join("tree");
    remove_tree(places, &tree);
    step(&format!("building cloud-hypervisor of {revision}"), || {
        quiet(git(places).args(["worktree", "add", "--detach"]).arg(&tree).arg(commit.trim()))?;
        let mut build = cargo();
        build.args(["build", "--quiet", "--release", "--locked", "-p", "cloud-hypervisor"]);
        // The libraries that both have in the same version are compiled once; the program itself is built anew for this tree afterwards.
        let built = loud(build.current_dir(&tree).env("CARGO_TARGET_DIR", &places.target));
        remove_tree(places, &tree);
        built?;
        let output = places.release_binary("cloud-hypervisor");
        fs::copy(&output, &program).at(&output).map(drop)
    })?;
    Ok(program)
}

fn git(places: &Places) -> Command {
    let mut git = Command::new("git");
    git.arg("-C").arg(&places.root);
    git
}

/// Also one that an interrupted run left behind.
fn remove_tree(places: &Places, tree: &Path) {
    let _ = quiet(git(places).args(["worktree", "remove", "--force"]).arg(tree));
}

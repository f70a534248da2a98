//! Debian packages: those the tasks need installed, and kernels that are only unpacked.

use crate::error::{AtPath, Error, Result};
use crate::step::{quiet, step};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Installs what is missing of `names`; says nothing when all is there.
///
/// # Errors
/// apt-get fails (no network, not root).
pub(crate) fn install(names: &[&str]) -> Result<()> {
    let missing: Vec<&str> = names.iter().copied().filter(|name| !is_installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    step(&format!("installing {}", missing.join(" ")), || {
        update()?;
        let mut apt = apt_get();
        apt.args(["install", "-y", "-qq", "--no-install-recommends"]).args(&missing);
        quiet(&mut apt).map(drop)
    })
}

fn is_installed(name: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${db:Status-Status}", name]);
    quiet(&mut query).is_ok_and(|status| status == "installed")
}

fn apt_get() -> Command {
    let mut apt = Command::new("apt-get");
    // Downloads land in our own directories, which the user `_apt` may not enter.
    apt.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "APT::Sandbox::User=root"]);
    // Another task may be installing: it is waited for, ten minutes at most.
    apt.args(["-o", "DPkg::Lock::Timeout=600"]);
    apt
}

fn update() -> Result<()> {
    let mut apt = apt_get();
    apt.args(["update", "-qq"]);
    // A third party's source in the list may be out of reach; what matters fails later, at the package itself.
    match quiet(&mut apt) {
        Ok(_) | Err(Error::Failed { .. }) => Ok(()),
        Err(e) => Err(e),
    }
}

/// The newest package file of the kernel that the metapackage `meta` stands for, downloaded once into `dir`.
///
/// # Errors
/// apt-get cannot find or fetch it.
pub(crate) fn kernel_package(meta: &str, dir: &Path) -> Result<PathBuf> {
    let dir = dir.join(meta);
    fs::create_dir_all(&dir).at(&dir)?;
    if let Some(found) = package_in(&dir)? {
        return Ok(found);
    }
    step(&format!("fetching {meta}"), || {
        if kernel_name(meta).is_err() {
            update()?;
        }
        let name = kernel_name(meta)?;
        let mut apt = apt_get();
        apt.args(["download", "-qq", &name]).current_dir(&dir);
        // A list that is too old names a version that the mirror has dropped.
        if quiet(&mut apt).is_err() {
            update()?;
            quiet(apt_get().args(["download", "-qq", &kernel_name(meta)?]).current_dir(&dir))?;
        }
        package_in(&dir)?
            .ok_or_else(|| Error::Content { path: dir.clone(), what: "apt-get left no package".to_owned() })
    })
}

fn package_in(dir: &Path) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir).at(dir)? {
        let path = entry.at(dir)?.path();
        if path.extension().is_some_and(|e| e == "deb") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn kernel_name(meta: &str) -> Result<String> {
    let mut cache = Command::new("apt-cache");
    cache.args(["depends", "--important", meta]);
    let text = quiet(&mut cache)?;
    let name = text.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    name.map(|rest| format!("linux-image-{rest}"))
        .ok_or_else(|| Error::Content { path: meta.into(), what: "not a kernel metapackage".to_owned() })
}

/// Unpacks a package into a new directory.
///
/// # Errors
/// dpkg fails.
pub(crate) fn unpack(package: &Path, into: &Path) -> Result<()> {
    if into.exists() {
        fs::remove_dir_all(into).at(into)?;
    }
    fs::create_dir_all(into).at(into)?;
    quiet(Command::new("dpkg").arg("-x").arg(package).arg(into)).map(drop)
}

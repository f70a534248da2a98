//! What a measured guest boots from: the test guests' kernel, an initramfs with little in it, a disk with fio and iperf3.

use crate::error::{AtPath, Error, Result};
use crate::guest;
use crate::initramfs;
use crate::packages;
use crate::places::{Places, is_fresh, set_fresh};
use crate::step::{quiet, step};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

const INIT: &str = include_str!("../guest-bench.sh");
const JOBS: &str = include_str!("../bench.fio");
const MODULES: &[&str] = &["virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net", "crc32c_generic"];
/// What comes to a running guest also needs these. Apart, so that they are not in the boots that are timed.
const HOTPLUG_MODULES: &[&str] = &["virtio_pci", "virtio_blk", "virtio_net", "virtio_mem"];
const TOOLS: &[&str] = &["/usr/bin/fio", "/usr/bin/iperf3"];

/// Builds the images; returns the directory with `bzImage`, `vmlinux`, `initramfs`, `initramfs-hotplug` and `tools.img`.
///
/// # Errors
/// Packages cannot be fetched, files not written.
pub(crate) fn prepare(places: &Places) -> Result<PathBuf> {
    packages::install(&["qemu-system-x86", "seabios", "fio", "iperf3", "iproute2"])?;
    let (kernel, dir) = guest::kernel(places, "bench")?;
    initramfs::build(&kernel.with_modules(MODULES)?, &[("init", INIT)], &[], &dir.join("initramfs"))?;
    let program = guest::program(places)?;
    let hotplug = kernel.with_modules(HOTPLUG_MODULES)?;
    initramfs::build(&hotplug, &[("init", INIT)], &[&program], &dir.join("initramfs-hotplug"))?;
    tools_disk(&dir)?;
    Ok(dir)
}

/// The tools with the libraries they are linked to, in an ext4 made without mounting anything.
fn tools_disk(dir: &Path) -> Result<()> {
    let image = dir.join("tools.img");
    let versions = quiet(Command::new("dpkg-query").args(["-W", "fio", "iperf3", "libc6"]))?;
    let inputs = format!("{versions}{JOBS}");
    if is_fresh(&image, &inputs) {
        return Ok(());
    }
    step("building the disk with fio and iperf3", || {
        let tree = dir.join("tools-tree");
        if tree.exists() {
            fs::remove_dir_all(&tree).at(&tree)?;
        }
        for name in ["dev", "proc", "sys", "tmp", "etc", "usr/bin", "usr/lib", "usr/lib64"] {
            let path = tree.join(name);
            fs::create_dir_all(&path).at(&path)?;
        }
        for name in ["bin", "lib", "lib64"] {
            let path = tree.join(name);
            symlink(format!("usr/{name}"), &path).at(&path)?;
        }
        for tool in TOOLS {
            copy(Path::new(tool), &tree)?;
            for library in libraries(tool)? {
                copy(&library, &tree)?;
            }
        }
        let jobs = tree.join("bench.fio");
        fs::write(&jobs, JOBS).at(&jobs)?;
        let _ = fs::remove_file(&image);
        let mut make = Command::new("mke2fs");
        quiet(
            make.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d"])
                .arg(&tree)
                .arg(&image)
                .arg("256M"),
        )?;
        fs::remove_dir_all(&tree).at(&tree)?;
        set_fresh(&image, &inputs)
    })
}

/// The shared objects a program loads, the dynamic linker included, by the paths it looks for them under.
fn libraries(program: &str) -> Result<Vec<PathBuf>> {
    let text = quiet(Command::new("ldd").arg(program))?;
    let paths: Vec<PathBuf> =
        text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect();
    if paths.is_empty() {
        return Err(Error::Content { path: program.into(), what: "not dynamically linked".to_owned() });
    }
    Ok(paths)
}

/// Copies a file to the same path below `tree`, following symbolic links.
fn copy(from: &Path, tree: &Path) -> Result<()> {
    let to = tree.join(from.strip_prefix("/").unwrap_or(from));
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).at(parent)?;
    }
    fs::copy(from, &to).at(from).map(drop)
}

//! What the guests boot from: Debian's cloud kernel (bzImage and the ELF inside), an initramfs with the test agent, a Debian
//! root disk.

use crate::error::{AtPath, Result};
use crate::initramfs;
use crate::kernel::Kernel;
use crate::packages;
use crate::places::{Places, is_fresh, set_fresh};
use crate::step::{cargo, loud, quiet, step};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const INIT: &str = include_str!("guest-init.sh");
const AGENT: &str = include_str!("guest-agent.sh");
const DEMO: &str = include_str!("guest-demo.sh");
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    "virtio_balloon",
    "virtio_mem",
    "virtio_pmem",
    "nd_pmem",
    "vmw_vsock_virtio_transport",
    "virtiofs",
    "pvpanic_pci",
    "button",
    "evdev",
    "crc32c_generic",
];
const SUITE: &str = "bookworm";
const MIRROR: &str = "http://deb.debian.org/debian";

/// Puts the guests' kernel into the images' directory `name`, as `bzImage` and `vmlinux`; returns it and the directory.
///
/// # Errors
/// Packages cannot be fetched, files not written.
pub(crate) fn kernel(places: &Places, name: &str) -> Result<(Kernel, PathBuf)> {
    packages::install(&["busybox-static", "e2fsprogs"])?;
    let kernel = Kernel::prepare(places, "linux-image-cloud-amd64", MODULES, true)?;
    let dir = places.images.join(name);
    fs::create_dir_all(&dir).at(&dir)?;
    for name in ["bzImage", "vmlinux"] {
        let (from, to) = (kernel.dir.join(name), dir.join(name));
        if !is_fresh(&to, &kernel.version) {
            fs::copy(&from, &to).at(&from)?;
            set_fresh(&to, &kernel.version)?;
        }
    }
    Ok((kernel, dir))
}

/// Builds everything; returns the directory with `bzImage`, `vmlinux`, `initramfs` and, if `disk`, `debian.img`.
///
/// # Errors
/// Packages cannot be fetched, files not written.
pub(crate) fn prepare(places: &Places, disk: bool) -> Result<PathBuf> {
    let (kernel, dir) = kernel(places, "guest")?;
    let program = program(places)?;
    initramfs::build(&kernel, &[("init", INIT), ("agent.sh", AGENT)], &[&program], &dir.join("initramfs"))?;
    if disk {
        debian_disk(&dir)?;
    }
    Ok(dir)
}

/// `tools/vmguest`, which needs no libraries. With a target of its own, because it is compiled for another C library than all else.
///
/// # Errors
/// It does not build.
pub(crate) fn program(places: &Places) -> Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    step("building the program for guests", || {
        let mut build = cargo();
        build.args(["build", "--quiet", "--release", "-p", "vmguest", "--target", TARGET]);
        loud(build.env("RUSTFLAGS", "-C target-feature=+crt-static").current_dir(&places.root))
    })?;
    Ok(places.target.join(TARGET).join("release/vmguest"))
}

/// A minimal Debian with systemd; root logs in on any console without a password.
fn debian_disk(dir: &Path) -> Result<()> {
    const PACKAGES: &str = "systemd-sysv,udev,login,passwd,iproute2,e2fsprogs";
    // What `mmdebstrap` runs with the new root as $1.
    const SET_UP: &str = r#"
        echo guest >"$1/etc/hostname"
        echo "/dev/vda / ext4 defaults 0 1" >"$1/etc/fstab"
        chroot "$1" passwd -d root
        chroot "$1" systemctl mask systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer
        chroot "$1" systemctl mask e2scrub_reap.service e2scrub_all.timer
        rm -rf "$1/usr/share/doc" "$1/usr/share/man" "$1/usr/share/locale" "$1/var/cache/apt"
    "#;
    let image = dir.join("debian.img");
    let inputs = format!("{SUITE} {MIRROR} {PACKAGES}\n{SET_UP}");
    if is_fresh(&image, &inputs) {
        return Ok(());
    }
    packages::install(&["mmdebstrap"])?;
    step("building a Debian root disk", || {
        let tree = dir.join("debian-tree");
        if tree.exists() {
            fs::remove_dir_all(&tree).at(&tree)?;
        }
        let mut bootstrap = Command::new("mmdebstrap");
        bootstrap.args(["--quiet", "--mode=root", "--variant=minbase"]);
        bootstrap.arg(format!("--include={PACKAGES}")).arg(format!("--customize-hook={SET_UP}"));
        quiet(bootstrap.arg(SUITE).arg(&tree).arg(MIRROR))?;
        let mut make = Command::new("mke2fs");
        make.args(["-q", "-F", "-t", "ext4", "-L", "root", "-d"]).arg(&tree).arg(&image).arg("1G");
        quiet(&mut make)?;
        fs::remove_dir_all(&tree).at(&tree)?;
        set_fresh(&image, &inputs)
    })
}

/// The demo's root disk: busybox and one script, in an ext4 made without mounting anything.
///
/// # Errors
/// A file cannot be written or `mke2fs` fails.
pub(crate) fn demo_disk(dir: &Path) -> Result<()> {
    let image = dir.join("demo.img");
    let inputs = format!("{DEMO}{AGENT}");
    if is_fresh(&image, &inputs) {
        return Ok(());
    }
    step("building the demo's root disk", || {
        let tree = dir.join("demo-tree");
        for name in ["bin", "dev", "etc", "proc", "root", "run", "sbin", "sys", "tmp"] {
            let path = tree.join(name);
            fs::create_dir_all(&path).at(&path)?;
        }
        let busybox = Path::new("/bin/busybox");
        fs::copy(busybox, tree.join("bin/busybox")).at(busybox)?;
        for (name, script) in [("sbin/init", DEMO), ("sbin/agent.sh", AGENT)] {
            let path = tree.join(name);
            fs::write(&path, script).at(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).at(&path)?;
        }
        let shell = tree.join("bin/sh");
        if !shell.exists() {
            symlink("busybox", &shell).at(&shell)?;
        }
        let mut make = Command::new("mke2fs");
        quiet(make.args(["-q", "-F", "-t", "ext4", "-L", "demo", "-d"]).arg(&tree).arg(&image).arg("64M"))?;
        fs::remove_dir_all(&tree).at(&tree)?;
        set_fresh(&image, &inputs)
    })
}

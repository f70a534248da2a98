//! The files that a machine may use once it is confined (`spec/config.md` §15). Computed, not applied: nothing here looks at the host.
//!
//! The hypervisor's device is not among them: it is open by then. Neither are VFIO devices, which nothing builds yet and whose rule
//! depends on what the host says of them.

use std::path::{Path, PathBuf};

use crate::consoles::{ConsoleMode, SerialConfig};
use crate::disk::DiskConfig;
use crate::net::NetConfig;
use crate::small::LandlockConfig;
use crate::vm::VmConfig;

/// What a file is granted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// `r`: reading, listing, executing.
    Read,
    /// `w`: writing, truncating, making and removing.
    Write,
    /// `rw`.
    ReadWrite,
    /// Sockets come and go in this directory.
    Bind,
}

/// A file, or all below a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// Where it is.
    pub path: PathBuf,
    /// What for.
    pub access: Access,
}

fn grant(path: impl AsRef<Path>, access: Access) -> Grant {
    Grant { path: path.as_ref().into(), access }
}

/// What the whole configuration needs, in its order and perhaps twice.
pub(super) fn list(vm: &VmConfig) -> Vec<Grant> {
    let read_write = |path: &PathBuf| grant(path, Access::ReadWrite);
    let zones = vm.memory.zones.iter().flatten();
    let mut grants: Vec<Grant> = zones.filter_map(|zone| zone.file.as_ref()).map(read_write).collect();
    grants.extend(payload(vm).into_iter().map(|path| grant(path, Access::Read)));
    grants.extend(vm.disks.iter().flatten().filter_map(disk));
    grants.extend(vm.net.iter().flatten().filter_map(net));
    grants.push(grant(&vm.rng.src, Access::Read));
    grants.extend(vm.generic_vhost_user.iter().flatten().map(|device| read_write(&device.socket)));
    grants.extend(vm.fs.iter().flatten().map(|fs| read_write(&fs.socket)));
    for pmem in vm.pmem.iter().flatten() {
        let access = if pmem.discard_writes { Access::Read } else { Access::ReadWrite };
        grants.push(grant(&pmem.file, access));
    }
    grants.extend(console(&vm.serial));
    grants.extend(console(&vm.console.device));
    let debug = &vm.debug_console;
    grants.extend(console(&SerialConfig { mode: debug.mode, file: debug.file.clone(), socket: None }));
    grants.extend(vm.user_devices.iter().flatten().map(|device| read_write(&device.socket)));
    grants.extend(vm.vdpa.iter().flatten().map(|device| read_write(&device.path)));
    grants.extend(vm.vsock.as_ref().map(|vsock| grant(directory(&vsock.socket), Access::Bind)));
    grants.extend(vm.tpm.as_ref().map(|tpm| read_write(&tpm.socket)));
    grants.extend(vm.ivshmem.as_ref().map(|ivshmem| read_write(&ivshmem.path)));
    grants.extend(vm.landlock_rules.iter().flatten().map(rule));
    grants
}

fn payload(vm: &VmConfig) -> Vec<&PathBuf> {
    let Some(payload) = &vm.payload else { return Vec::new() };
    [&payload.firmware, &payload.kernel, &payload.initramfs].into_iter().flatten().collect()
}

fn disk(disk: &DiskConfig) -> Option<Grant> {
    if let (true, Some(socket)) = (disk.vhost_user, &disk.vhost_socket) {
        return Some(grant(socket, Access::ReadWrite));
    }
    let access = if disk.readonly { Access::Read } else { Access::ReadWrite };
    disk.path.as_ref().map(|path| grant(path, access))
}

fn net(net: &NetConfig) -> Option<Grant> {
    match (net.vhost_user, &net.vhost_socket, &net.fds) {
        (true, Some(socket), _) => Some(grant(socket, Access::ReadWrite)),
        (false, _, None) => Some(grant("/dev/net/tun", Access::ReadWrite)),
        // An open descriptor needs no leave.
        _ => None,
    }
}

fn console(config: &SerialConfig) -> Vec<Grant> {
    match (config.mode, &config.file, &config.socket) {
        (ConsoleMode::Pty, ..) => ["/dev/ptmx", "/dev/pts"].map(|path| grant(path, Access::ReadWrite)).into(),
        (ConsoleMode::File, Some(file), _) => vec![grant(file, Access::ReadWrite)],
        // A reboot binds it anew: the one that a rule could name is gone by then.
        (ConsoleMode::Socket, _, Some(socket)) => vec![grant(directory(socket), Access::Bind)],
        _ => Vec::new(),
    }
}

fn rule(rule: &LandlockConfig) -> Grant {
    let access = match (rule.access.contains('r'), rule.access.contains('w')) {
        (true, true) => Access::ReadWrite,
        (true, false) => Access::Read,
        _ => Access::Write,
    };
    grant(&rule.path, access)
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

//! One rule for every path in a configuration: it names something. An empty one would mean an error without a field much later, or, for
//! a socket, a name without a file that every user of the host may connect to. Addresses of UNIX sockets have less room for a path than
//! files have.

use std::ffi::OsStr;
use std::path::Path;

use super::Scope;
use crate::consoles::ConsoleMode;
use crate::vm::VmConfig;

/// Bytes of a path that fit `sockaddr_un` (`unix(7)`), with the NUL that closes it.
const ROOM: usize = 108;

/// A path's place in the configuration, and what stands there.
type Found<'c> = (String, Option<&'c OsStr>);

impl VmConfig {
    /// Every path that something is opened or bound at, with its field, such as `disks[1].path`.
    pub fn paths(&self) -> impl Iterator<Item = (String, &Path)> {
        all(self).into_iter().filter_map(|(field, path)| Some((field, Path::new(path?))))
    }
}

/// Reports paths that are there and cannot name anything.
pub(super) fn check(at: &mut Scope<'_, '_>) {
    for (field, path) in at.vm.paths() {
        let path = path.as_os_str();
        if path.is_empty() {
            at.invalid(&field, "The path is empty", "name a file, or leave the field out");
        } else if path.as_encoded_bytes().contains(&0) {
            at.invalid(&field, "The path contains a zero byte", "use a path without it");
        } else if field.ends_with("socket") && path.len() >= ROOM {
            let text = format!("The path of a UNIX socket has {} bytes, and {} fit", path.len(), ROOM - 1);
            at.invalid(&field, text, "use a shorter path, or a symbolic link to the directory");
        }
    }
}

/// Every path that something is opened at. Those of consoles belong to a mode, and those of back ends in other processes to `vhost_user`;
/// they mean nothing without. Fields of sockets are named so.
fn all(vm: &VmConfig) -> Vec<Found<'_>> {
    let mut found = payload(vm);
    found.extend(consoles(vm));
    found.push(("rng.src".into(), Some(vm.rng.src.as_os_str())));
    found.push(("tpm.socket".into(), vm.tpm.as_ref().map(|tpm| tpm.socket.as_os_str())));
    found.push(("vsock.socket".into(), vm.vsock.as_ref().map(|vsock| vsock.socket.as_os_str())));
    found.push(("ivshmem.path".into(), vm.ivshmem.as_ref().map(|ivshmem| ivshmem.path.as_os_str())));
    each(&mut found, "memory.zones", "file", vm.memory.zones.as_ref(), |zone| opt(zone.file.as_ref()));
    each(&mut found, "disks", "path", vm.disks.as_ref(), |disk| opt(disk.path.as_ref()));
    each(&mut found, "disks", "vhost_socket", vm.disks.as_ref(), |disk| {
        opt(disk.vhost_socket.as_ref().filter(|_| disk.vhost_user))
    });
    each(&mut found, "net", "vhost_socket", vm.net.as_ref(), |net| {
        opt(net.vhost_socket.as_ref().filter(|_| net.vhost_user))
    });
    each(&mut found, "fs", "socket", vm.fs.as_ref(), |fs| Some(fs.socket.as_os_str()));
    let generic = vm.generic_vhost_user.as_ref();
    each(&mut found, "generic_vhost_user", "socket", generic, |device| Some(device.socket.as_os_str()));
    each(&mut found, "pmem", "file", vm.pmem.as_ref(), |pmem| Some(pmem.file.as_os_str()));
    each(&mut found, "devices", "path", vm.devices.as_ref(), |device| opt(device.path.as_ref()));
    let user_devices = vm.user_devices.as_ref();
    each(&mut found, "user_devices", "socket", user_devices, |device| Some(device.socket.as_os_str()));
    each(&mut found, "vdpa", "path", vm.vdpa.as_ref(), |vdpa| Some(vdpa.path.as_os_str()));
    let rules = vm.landlock_rules.as_ref();
    each(&mut found, "landlock_rules", "path", rules, |rule| Some(rule.path.as_os_str()));
    found
}

fn payload(vm: &VmConfig) -> Vec<Found<'_>> {
    let Some(payload) = &vm.payload else { return Vec::new() };
    let mut found = vec![
        ("payload.firmware".into(), opt(payload.firmware.as_ref())),
        ("payload.kernel".into(), opt(payload.kernel.as_ref())),
        ("payload.initramfs".into(), opt(payload.initramfs.as_ref())),
    ];
    let items = payload.fw_cfg_config.as_ref().and_then(|fw_cfg| fw_cfg.items.as_ref());
    let items = items.map(|items| &items.item_list);
    each(&mut found, "payload.fw_cfg_config.items", "file", items, |item| opt(item.file.as_ref()));
    found
}

fn consoles(vm: &VmConfig) -> Vec<Found<'_>> {
    let ends = [("serial", &vm.serial), ("console", &*vm.console)];
    let mut found: Vec<Found<'_>> = Vec::new();
    for (section, end) in ends {
        match end.mode {
            ConsoleMode::File => found.push((format!("{section}.file"), opt(end.file.as_ref()))),
            ConsoleMode::Socket => found.push((format!("{section}.socket"), opt(end.socket.as_ref()))),
            _ => {}
        }
    }
    if vm.debug_console.mode == ConsoleMode::File {
        found.push(("debug_console.file".into(), opt(vm.debug_console.file.as_ref())));
    }
    found
}

fn each<'c, T>(
    found: &mut Vec<Found<'c>>,
    section: &str,
    field: &str,
    items: Option<&'c Vec<T>>,
    path: impl Fn(&'c T) -> Option<&'c OsStr>,
) {
    let items = items.into_iter().flatten().enumerate();
    found.extend(items.map(|(i, item)| (format!("{section}[{i}].{field}"), path(item))));
}

fn opt(path: Option<&impl AsRef<OsStr>>) -> Option<&OsStr> {
    path.map(AsRef::as_ref)
}

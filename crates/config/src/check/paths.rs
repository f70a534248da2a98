//! One rule for every path in a configuration: it names something. An empty one would mean an error without a field much later, or, for
//! a socket, a name without a file that every user of the host may connect to. Addresses of UNIX sockets have less room for a path than
//! files have.

use std::ffi::OsStr;
use std::path::Path;

use super::Scope;
use crate::consoles::ConsoleMode;
use crate::devices::{self, Section};
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
    found.push(("tpm.socket".into(), vm.tpm.as_ref().map(|tpm| tpm.socket.as_os_str())));
    each(&mut found, "memory.zones", "file", vm.memory.zones.as_ref(), |zone| opt(zone.file.as_ref()));
    let rules = vm.landlock_rules.as_ref();
    each(&mut found, "landlock_rules", "path", rules, |rule| Some(rule.path.as_os_str()));
    found.extend(devices::paths(vm).map(|(field, path)| (field, Some(path.as_os_str()))));
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
    let fields = vm.serial.paths().into_iter();
    let mut found: Vec<Found<'_>> =
        fields.map(|(field, path)| (format!("serial.{field}"), Some(path.as_os_str()))).collect();
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

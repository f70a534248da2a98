//! UNIX sockets: their addresses have less room for a path than files have.

use std::path::Path;

use super::Scope;
use crate::consoles::ConsoleMode;
use crate::vm::VmConfig;

/// Bytes of a path that fit `sockaddr_un` (`unix(7)`), with the NUL that closes it.
const ROOM: usize = 108;

/// All sockets that are listened on or connected to.
pub(super) fn check(at: &mut Scope<'_, '_>) {
    for (field, path) in all(at.vm) {
        let length = path.as_os_str().len();
        if length >= ROOM {
            let text = format!("The path of a UNIX socket has {length} bytes, and {} fit", ROOM - 1);
            at.invalid(&field, text, "use a shorter path, or a symbolic link to the directory");
        }
    }
}

fn all(vm: &VmConfig) -> Vec<(String, &Path)> {
    let mut sockets: Vec<(String, &Path)> = Vec::new();
    if let (ConsoleMode::Socket, Some(path)) = (vm.serial.mode, &vm.serial.socket) {
        sockets.push(("serial.socket".into(), path));
    }
    for (i, disk) in vm.disks.iter().flatten().enumerate() {
        if let (true, Some(path)) = (disk.vhost_user, &disk.vhost_socket) {
            sockets.push((format!("disks[{i}].vhost_socket"), path.as_ref()));
        }
    }
    for (i, net) in vm.net.iter().flatten().enumerate() {
        if let (true, Some(path)) = (net.vhost_user, &net.vhost_socket) {
            sockets.push((format!("net[{i}].vhost_socket"), path.as_ref()));
        }
    }
    for (i, fs) in vm.fs.iter().flatten().enumerate() {
        sockets.push((format!("fs[{i}].socket"), &fs.socket));
    }
    for (i, device) in vm.generic_vhost_user.iter().flatten().enumerate() {
        sockets.push((format!("generic_vhost_user[{i}].socket"), &device.socket));
    }
    for (i, device) in vm.user_devices.iter().flatten().enumerate() {
        sockets.push((format!("user_devices[{i}].socket"), &device.socket));
    }
    sockets.extend(vm.vsock.iter().map(|vsock| ("vsock.socket".into(), vsock.socket.as_ref())));
    sockets.extend(vm.tpm.iter().map(|tpm| ("tpm.socket".into(), tpm.socket.as_ref())));
    sockets
}

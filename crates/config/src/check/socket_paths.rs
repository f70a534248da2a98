//! UNIX sockets: their addresses have less room for a path than files have.

use std::path::Path;

use super::Scope;
use crate::consoles::ConsoleMode;
use crate::devices;
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
    sockets.extend(devices::sockets(vm));
    sockets.extend(vm.tpm.iter().map(|tpm| ("tpm.socket".into(), tpm.socket.as_ref())));
    sockets
}

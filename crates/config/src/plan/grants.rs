//! The files that a machine may use once it is confined (`spec/config.md` §15). Computed, not applied: nothing here looks at the host.
//!
//! The hypervisor's device is not among them: it is open by then. Neither are VFIO devices, which nothing builds yet and whose rule
//! depends on what the host says of them.

use std::path::PathBuf;

use sandbox::{Access, Grant};

use crate::consoles::SerialConfig;
use crate::devices;
use crate::small::LandlockConfig;
use crate::vm::VmConfig;

/// What the whole configuration needs, perhaps twice.
pub(super) fn list(vm: &VmConfig) -> Vec<Grant> {
    let read_write = |path: &PathBuf| Grant::new(path, Access::ReadWrite);
    let zones = vm.memory.zones.iter().flatten();
    let mut grants: Vec<Grant> = zones.filter_map(|zone| zone.file.as_ref()).map(read_write).collect();
    grants.extend(payload(vm).into_iter().map(|path| Grant::new(path, Access::Read)));
    grants.extend(vm.serial.files());
    let debug = &vm.debug_console;
    grants.extend(SerialConfig { mode: debug.mode, file: debug.file.clone(), socket: None }.files());
    grants.extend(vm.tpm.as_ref().map(|tpm| read_write(&tpm.socket)));
    grants.extend(devices::grants(vm));
    grants.extend(vm.landlock_rules.iter().flatten().map(rule));
    grants
}

fn payload(vm: &VmConfig) -> Vec<&PathBuf> {
    let Some(payload) = &vm.payload else { return Vec::new() };
    [&payload.firmware, &payload.kernel, &payload.initramfs].into_iter().flatten().collect()
}

fn rule(rule: &LandlockConfig) -> Grant {
    let access = match (rule.access.contains('r'), rule.access.contains('w')) {
        (true, true) => Access::ReadWrite,
        (true, false) => Access::Read,
        _ => Access::Write,
    };
    Grant::new(&rule.path, access)
}

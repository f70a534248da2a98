//! The files that a machine may use once it is confined (`spec/config.md` §15). Computed, not applied: nothing here looks at the host.
//!
//! The hypervisor's device is not among them: it is open by then. Neither are VFIO devices, which nothing builds yet and whose rule
//! depends on what the host says of them.

use std::path::{Path, PathBuf};

use crate::consoles::SerialConfig;
use crate::devices;
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

impl Grant {
    pub(crate) fn new(path: impl AsRef<Path>, access: Access) -> Self {
        Self { path: path.as_ref().into(), access }
    }
}

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

/// Where a socket comes and goes.
pub(crate) fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

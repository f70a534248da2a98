//! The one list of what a configuration can ask for and nothing builds yet. A line goes when its mechanism
//! comes.

use crate::consoles::ConsoleMode;
use crate::disk::{DiskConfig, ImageType};
use crate::net::NetConfig;
use crate::vm::VmConfig;

/// Names of the sections and fields, as paths.
pub(crate) fn list(vm: &VmConfig) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    names.extend(sections(vm).into_iter().filter(|(asked, _)| *asked).map(|(_, name)| name.to_owned()));
    for (i, disk) in vm.disks.iter().flatten().enumerate() {
        let asked = disk_fields(disk).into_iter().filter(|(asked, _)| *asked);
        names.extend(asked.map(|(_, field)| format!("disks[{i}].{field}")));
    }
    for (i, net) in vm.net.iter().flatten().enumerate() {
        let asked = net_fields(net).into_iter().filter(|(asked, _)| *asked);
        names.extend(asked.map(|(_, field)| format!("net[{i}].{field}")));
    }
    names
}

fn any<T>(list: Option<&Vec<T>>) -> bool {
    list.is_some_and(|list| !list.is_empty())
}

fn sections(vm: &VmConfig) -> Vec<(bool, &'static str)> {
    let platform = vm.platform();
    vec![
        (vm.payload.as_ref().is_some_and(|payload| payload.fw_cfg_config.is_some()), "payload.fw_cfg_config"),
        (any(vm.rate_limit_groups.as_ref()), "rate_limit_groups"),
        (any(vm.generic_vhost_user.as_ref()), "generic_vhost_user"),
        (any(vm.fs.as_ref()), "fs"),
        (vm.debug_console.mode != ConsoleMode::Off, "debug_console"),
        (any(vm.devices.as_ref()), "devices"),
        (any(vm.user_devices.as_ref()), "user_devices"),
        (any(vm.vdpa.as_ref()), "vdpa"),
        (vm.pvmemcontrol.is_some(), "pvmemcontrol"),
        (vm.iommu, "iommu"),
        (vm.rtc.is_some(), "rtc"),
        (platform.iommufd, "platform.iommufd"),
        (vm.tpm.is_some(), "tpm"),
        (vm.ivshmem.is_some(), "ivshmem"),
    ]
}

fn disk_fields(disk: &DiskConfig) -> [(bool, &'static str); 5] {
    let raw = matches!(disk.image_type, ImageType::Raw | ImageType::Unknown);
    [
        (disk.vhost_user, "vhost_user"),
        (disk.rate_limit_group.is_some(), "rate_limit_group"),
        (disk.rate_limiter_config.is_some(), "rate_limiter_config"),
        (disk.backing_files, "backing_files"),
        (!raw, "image_type"),
    ]
}

fn net_fields(net: &NetConfig) -> [(bool, &'static str); 2] {
    [(net.vhost_user, "vhost_user"), (net.rate_limiter_config.is_some(), "rate_limiter_config")]
}

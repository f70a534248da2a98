//! `devices` and `--device`: host PCI devices handed to the guest (`spec/config.md` §8).

use std::path::{Path, PathBuf};

use keyval::Syntax;
use serde::{Deserialize, Serialize};

use crate::check::Scope;
use crate::devices::{Name, Section};
use crate::flag::{self, FlagError};
use crate::pci::Placed;

/// The highest BAR of a PCI device.
const LAST_BAR: u64 = 5;

/// A VFIO device.
pub type DeviceConfig = Placed<Device>;

/// A VFIO device's own fields: exactly one of `path` and `fd`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Device {
    /// The device in sysfs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// An open VFIO character device.
    #[serde(deserialize_with = "crate::fds::one", skip_serializing_if = "Option::is_none")]
    pub fd: Option<i32>,
    /// NVIDIA GPUDirect clique.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x_nv_gpudirect_clique: Option<u8>,
    /// BARs, 0 to 5, that the guest reaches through exits only.
    pub x_exclude_mmap_bars: Vec<u64>,
}

impl DeviceConfig {
    /// Options of `--device`.
    pub const SYNTAX: Syntax = Syntax::new(
        "path=<device_path>,fd=<fd>,x_nv_gpudirect_clique=<clique_id>,x_exclude_mmap_bars=<list of bars>,\
         iommu=on|off,id=<device_id>,pci_segment=<segment_id>,pci_device_id=<slot>",
    );

    /// Reads one `--device`.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        flag::read("--device", &Self::SYNTAX, text)
    }

    pub(crate) fn check(&self, at: &mut Scope<'_, '_>) {
        let platform = at.vm.platform();
        match (&self.path, self.fd) {
            (None, None) => {
                let text = "VFIO device config must specify `path=` or `fd=`";
                at.invalid("", text, "give the device's path in sysfs");
            }
            (Some(_), Some(_)) => {
                let text = "VFIO device config must specify at most one of `path=` or `fd=`";
                at.invalid("", text, "leave out one of the two");
            }
            _ => {}
        }
        if self.fd.is_some() && platform.iommufd_fd.is_none() {
            let text = "VFIO device `fd=` requires platform `iommufd_fd=<fd>`";
            at.invalid("fd", text, "give --platform iommufd_fd, or path instead of fd");
        }
        if self.x_nv_gpudirect_clique.is_some() && !platform.vfio_p2p_dma {
            let text = "Device with x_nv_gpudirect_clique requires vfio_p2p_dma=on";
            at.invalid("x_nv_gpudirect_clique", text, "set --platform vfio_p2p_dma=on");
        }
        for bar in self.x_exclude_mmap_bars.iter().filter(|bar| **bar > LAST_BAR) {
            let text = format!("Invalid VFIO excluded-mmap BAR index: {bar}");
            at.invalid("x_exclude_mmap_bars", text, "use numbers from 0 to 5");
        }
        at.place(&self.pci);
    }
}

impl Section for Device {
    fn name(&self) -> Name {
        Name::Prefix("_vfio")
    }

    fn paths(&self) -> Vec<(&'static str, &Path)> {
        self.path.iter().map(|path| ("path", path.as_ref())).collect()
    }
}

/// No host device twice.
pub(crate) fn check_paths(devices: &[DeviceConfig], at: &mut Scope<'_, '_>) {
    let mut seen = std::collections::HashSet::new();
    for (i, device) in devices.iter().enumerate() {
        let Some(path) = &device.path else { continue };
        if !seen.insert(path) {
            let text = format!("Duplicated device path: {}", path.display());
            at.duplicate(&format!("devices[{i}].path"), text, "name each device once");
        }
    }
}

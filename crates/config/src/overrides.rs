//! What a restore puts in the place of the host's things that a saved configuration names: the files, interfaces and sockets of a clone are
//! not those of its original.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::consoles::{ConsoleConfig, SerialConfig};
use crate::restore::{RestoreConfig, RestoreError};
use crate::vm::VmConfig;

/// Another image for a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DiskPath {
    /// The disk.
    pub id: String,
    /// Its image: with the bytes that the guest knows.
    pub path: PathBuf,
}

/// Another interface for a network device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NetTap {
    /// The device.
    pub id: String,
    /// The tap's name.
    pub tap: String,
}

/// Another address for a network device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NetMac {
    /// The device.
    pub id: String,
    /// The MAC address that it shows from now on. Linux keeps the one it has found until it is told.
    pub mac: String,
}

impl RestoreConfig {
    /// Puts everything that is given in the place of what was saved.
    ///
    /// # Errors
    /// [`RestoreError::Nothing`] names an id that the snapshot does not have, or what cannot be read.
    pub fn apply(&self, saved: &mut VmConfig) -> Result<(), RestoreError> {
        for DiskPath { id, path } in self.disk_paths.iter().flatten() {
            let mut disks = saved.disks.iter_mut().flatten();
            let disk = disks.find(|disk| disk.pci.id.as_ref() == Some(id));
            disk.ok_or_else(|| nothing("disk_paths", id))?.path = Some(path.clone());
        }
        for NetTap { id, tap } in self.net_taps.iter().flatten() {
            find_net(saved, "net_taps", id)?.tap = Some(tap.clone());
        }
        for NetMac { id, mac } in self.net_macs.iter().flatten() {
            let mac = mac.parse().map_err(|_| RestoreError::Mac { id: id.clone(), mac: mac.clone() })?;
            find_net(saved, "net_macs", id)?.mac = Some(mac);
        }
        if self.vsock_cid.is_some() || self.vsock_socket.is_some() {
            let vsock = saved.vsock.as_mut().ok_or_else(|| nothing("vsock_cid and vsock_socket", "vsock"))?;
            vsock.cid = self.vsock_cid.unwrap_or(vsock.cid);
            vsock.socket = self.vsock_socket.clone().unwrap_or_else(|| vsock.socket.clone());
        }
        if let Some(serial) = &self.serial {
            saved.serial = SerialConfig::from_flag(serial).map_err(RestoreError::Console)?;
        }
        if let Some(console) = &self.console {
            let console = ConsoleConfig::from_flag(console).map_err(RestoreError::Console)?;
            saved.console = ConsoleConfig { pci: saved.console.pci.clone(), ..console };
        }
        for update in &self.zone_updates {
            let mut zones = saved.memory.zones.iter_mut().flatten();
            let zone = zones.find(|zone| zone.id == update.id);
            zone.ok_or_else(|| nothing("zone_updates", &update.id))?.host_numa_node = update.host_numa_node;
        }
        Ok(())
    }
}

fn find_net<'a>(
    saved: &'a mut VmConfig,
    field: &'static str,
    id: &str,
) -> Result<&'a mut crate::NetConfig, RestoreError> {
    let mut nets = saved.net.iter_mut().flatten();
    nets.find(|net| net.pci.id.as_deref() == Some(id)).ok_or_else(|| nothing(field, id))
}

fn nothing(field: &'static str, id: &str) -> RestoreError {
    RestoreError::Nothing { field, id: id.into() }
}

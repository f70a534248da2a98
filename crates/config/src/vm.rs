//! `VmConfig`, the body of `vm.create` (`spec/config.md` §1).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::consoles::{ConsoleConfig, ConsoleMode, DebugConsoleConfig, SerialConfig};
use crate::cpus::CpusConfig;
use crate::disk::DiskConfig;
use crate::memory::MemoryConfig;
use crate::net::NetConfig;
use crate::numa::NumaConfig;
use crate::payload::PayloadConfig;
use crate::platform::PlatformConfig;
use crate::rate_limit::RateLimiterGroupConfig;
use crate::small::{
    BalloonConfig, LandlockConfig, PciSegmentConfig, PmemConfig, PvmemcontrolConfig, RngConfig, RtcConfig,
    TpmConfig,
};
use crate::sockets::{
    FsConfig, GenericVhostUserConfig, IvshmemConfig, UserDeviceConfig, VdpaConfig, VsockConfig,
};
use crate::vfio::DeviceConfig;

/// A machine as clients describe it. Nothing here has been checked: see [`crate::check()`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(description = "A virtual machine.", extend("required" = ["payload"])))]
#[serde(default)]
pub struct VmConfig {
    /// Virtual CPUs.
    pub cpus: CpusConfig,
    /// Guest RAM.
    pub memory: MemoryConfig,
    /// What it boots: a kernel or firmware, at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "PayloadConfig"))]
    pub payload: Option<PayloadConfig>,
    /// Limiters that disks share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit_groups: Option<Vec<RateLimiterGroupConfig>>,
    /// Disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disks: Option<Vec<DiskConfig>>,
    /// Network devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net: Option<Vec<NetConfig>>,
    /// Entropy.
    pub rng: RngConfig,
    /// Balloon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balloon: Option<BalloonConfig>,
    /// virtio devices in other processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generic_vhost_user: Option<Vec<GenericVhostUserConfig>>,
    /// Shared directories.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fs: Option<Vec<FsConfig>>,
    /// Persistent memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pmem: Option<Vec<PmemConfig>>,
    /// First serial port.
    #[serde(default = "serial_default")]
    pub serial: SerialConfig,
    /// virtio console.
    #[serde(default = "console_default")]
    pub console: ConsoleConfig,
    /// Debug port.
    pub debug_console: DebugConsoleConfig,
    /// Host PCI devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<DeviceConfig>>,
    /// vfio-user devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_devices: Option<Vec<UserDeviceConfig>>,
    /// vDPA devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vdpa: Option<Vec<VdpaConfig>>,
    /// Virtual sockets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<VsockConfig>,
    /// Guest control over its host pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pvmemcontrol: Option<PvmemcontrolConfig>,
    /// Panic notification device.
    pub pvpanic: bool,
    /// Virtual IOMMU; also set by the check when a device or segment wants it.
    pub iommu: bool,
    /// NUMA nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numa: Option<Vec<NumaConfig>>,
    /// Watchdog.
    pub watchdog: bool,
    /// virtio clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtc: Option<RtcConfig>,
    /// Address space of PCI segments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci_segments: Option<Vec<PciSegmentConfig>>,
    /// The machine as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformConfig>,
    /// TPM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmConfig>,
    /// File sandbox.
    pub landlock_enable: bool,
    /// What the sandbox leaves open besides what the configuration names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub landlock_rules: Option<Vec<LandlockConfig>>,
    /// Memory shared with another process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ivshmem: Option<IvshmemConfig>,
    /// A device for tests.
    #[cfg(feature = "test-devices")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub echo: Option<crate::EchoConfig>,
}

fn serial_default() -> SerialConfig {
    SerialConfig { mode: ConsoleMode::Null, ..SerialConfig::default() }
}

fn console_default() -> ConsoleConfig {
    SerialConfig { mode: ConsoleMode::Tty, ..SerialConfig::default() }.into()
}

impl Default for VmConfig {
    fn default() -> Self {
        Self {
            cpus: CpusConfig::default(),
            memory: MemoryConfig::default(),
            payload: None,
            rate_limit_groups: None,
            disks: None,
            net: None,
            rng: RngConfig::default(),
            balloon: None,
            generic_vhost_user: None,
            fs: None,
            pmem: None,
            serial: serial_default(),
            console: console_default(),
            debug_console: DebugConsoleConfig::default(),
            devices: None,
            user_devices: None,
            vdpa: None,
            vsock: None,
            pvmemcontrol: None,
            pvpanic: false,
            iommu: false,
            numa: None,
            watchdog: false,
            rtc: None,
            pci_segments: None,
            platform: None,
            tpm: None,
            landlock_enable: false,
            landlock_rules: None,
            ivshmem: None,
            #[cfg(feature = "test-devices")]
            echo: None,
        }
    }
}

impl VmConfig {
    /// Reads the body of `vm.create`; the second part holds the paths of unknown fields.
    ///
    /// # Errors
    /// serde_json's own, with line and column.
    pub fn from_json(bytes: &[u8]) -> Result<(Self, Vec<String>), serde_json::Error> {
        crate::from_json(bytes)
    }

    /// The platform section, or its defaults.
    pub fn platform(&self) -> Cow<'_, PlatformConfig> {
        self.platform.as_ref().map_or_else(|| Cow::Owned(PlatformConfig::default()), Cow::Borrowed)
    }
}

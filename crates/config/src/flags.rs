//! The machine's flags, as strings (`spec/cli.md` §1), and the configuration they make.

use std::path::PathBuf;

use crate::consoles::{ConsoleConfig, DebugConsoleConfig, SerialConfig};
use crate::cpus::CpusConfig;
use crate::disk::DiskConfig;
use crate::flag::FlagError;
use crate::memory::{MemoryConfig, MemoryZoneConfig};
use crate::net::NetConfig;
use crate::numa::NumaConfig;
use crate::payload::{FwCfgConfig, PayloadConfig};
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
use crate::vm::VmConfig;

/// What was given for each flag. `None` or empty: not given, so that the section has its default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of the flags")]
pub struct Flags {
    pub kernel: Option<PathBuf>,
    pub firmware: Option<PathBuf>,
    pub initramfs: Option<PathBuf>,
    pub cmdline: Option<String>,
    pub fw_cfg_config: Option<String>,
    pub cpus: Option<String>,
    pub memory: Option<String>,
    pub memory_zone: Vec<String>,
    pub rate_limit_group: Vec<String>,
    pub disk: Vec<String>,
    pub net: Vec<String>,
    pub rng: Option<String>,
    pub balloon: Option<String>,
    pub generic_vhost_user: Vec<String>,
    pub fs: Vec<String>,
    pub pmem: Vec<String>,
    pub serial: Option<String>,
    pub console: Option<String>,
    pub debug_console: Option<String>,
    pub device: Vec<String>,
    pub user_device: Vec<String>,
    pub vdpa: Vec<String>,
    pub vsock: Option<String>,
    pub pvmemcontrol: bool,
    pub pvpanic: bool,
    pub numa: Vec<String>,
    pub watchdog: bool,
    /// `Some("")` for the flag without a value.
    pub rtc: Option<String>,
    pub pci_segment: Vec<String>,
    pub platform: Option<String>,
    pub tpm: Option<String>,
    pub landlock: bool,
    pub landlock_rules: Vec<String>,
    pub ivshmem: Option<String>,
}

type Read<T> = Result<T, FlagError>;

fn each<T>(texts: &[String], read: impl Fn(&str) -> Read<T>) -> Read<Option<Vec<T>>> {
    let items: Vec<T> = texts.iter().map(|text| read(text)).collect::<Read<_>>()?;
    Ok((!items.is_empty()).then_some(items))
}

fn one<T>(text: Option<&String>, read: impl Fn(&str) -> Read<T>) -> Read<Option<T>> {
    text.map(|text| read(text)).transpose()
}

impl Flags {
    /// The configuration, unchecked.
    ///
    /// # Errors
    /// The first flag that does not read, in the order of the fields of [`VmConfig`].
    pub fn into_config(self) -> Read<VmConfig> {
        self.over(VmConfig::default())
    }

    /// `base` with the sections of the given flags instead of its own. The payload and switches are taken one by one.
    ///
    /// # Errors
    /// As [`Flags::into_config`].
    pub fn over(self, base: VmConfig) -> Read<VmConfig> {
        Ok(VmConfig {
            cpus: one(self.cpus.as_ref(), CpusConfig::from_flag)?.unwrap_or(base.cpus),
            memory: self.memory(base.memory)?,
            payload: self.payload(base.payload)?,
            rate_limit_groups: each(&self.rate_limit_group, RateLimiterGroupConfig::from_flag)?
                .or(base.rate_limit_groups),
            disks: each(&self.disk, DiskConfig::from_flag)?.or(base.disks),
            net: each(&self.net, NetConfig::from_flag)?.or(base.net),
            rng: one(self.rng.as_ref(), RngConfig::from_flag)?.unwrap_or(base.rng),
            balloon: one(self.balloon.as_ref(), BalloonConfig::from_flag)?.or(base.balloon),
            generic_vhost_user: each(&self.generic_vhost_user, GenericVhostUserConfig::from_flag)?
                .or(base.generic_vhost_user),
            fs: each(&self.fs, FsConfig::from_flag)?.or(base.fs),
            pmem: each(&self.pmem, PmemConfig::from_flag)?.or(base.pmem),
            serial: one(self.serial.as_ref(), SerialConfig::from_flag)?.unwrap_or(base.serial),
            console: one(self.console.as_ref(), ConsoleConfig::from_flag)?.unwrap_or(base.console),
            debug_console: one(self.debug_console.as_ref(), DebugConsoleConfig::from_flag)?
                .unwrap_or(base.debug_console),
            devices: each(&self.device, DeviceConfig::from_flag)?.or(base.devices),
            user_devices: each(&self.user_device, UserDeviceConfig::from_flag)?.or(base.user_devices),
            vdpa: each(&self.vdpa, VdpaConfig::from_flag)?.or(base.vdpa),
            vsock: one(self.vsock.as_ref(), VsockConfig::from_flag)?.or(base.vsock),
            pvmemcontrol: self.pvmemcontrol.then_some(PvmemcontrolConfig {}).or(base.pvmemcontrol),
            pvpanic: self.pvpanic || base.pvpanic,
            iommu: base.iommu,
            numa: each(&self.numa, NumaConfig::from_flag)?.or(base.numa),
            watchdog: self.watchdog || base.watchdog,
            rtc: one(self.rtc.as_ref(), RtcConfig::from_flag)?.or(base.rtc),
            pci_segments: each(&self.pci_segment, PciSegmentConfig::from_flag)?.or(base.pci_segments),
            platform: one(self.platform.as_ref(), PlatformConfig::from_flag)?.or(base.platform),
            tpm: one(self.tpm.as_ref(), TpmConfig::from_flag)?.or(base.tpm),
            landlock_enable: self.landlock || base.landlock_enable,
            landlock_rules: each(&self.landlock_rules, LandlockConfig::from_flag)?.or(base.landlock_rules),
            ivshmem: one(self.ivshmem.as_ref(), IvshmemConfig::from_flag)?.or(base.ivshmem),
        })
    }

    fn memory(&self, base: MemoryConfig) -> Read<MemoryConfig> {
        let memory = one(self.memory.as_ref(), MemoryConfig::from_flag)?.unwrap_or(base);
        let zones = each(&self.memory_zone, |text| MemoryZoneConfig::from_flag(text, &memory))?;
        Ok(MemoryConfig { zones: zones.or(memory.zones), ..memory })
    }

    fn payload(&self, base: Option<PayloadConfig>) -> Read<Option<PayloadConfig>> {
        let base = base.unwrap_or_default();
        let fw_cfg_config = one(self.fw_cfg_config.as_ref(), FwCfgConfig::from_flag)?;
        let payload = PayloadConfig {
            firmware: self.firmware.clone().or(base.firmware),
            kernel: self.kernel.clone().or(base.kernel),
            cmdline: self.cmdline.clone().or(base.cmdline),
            initramfs: self.initramfs.clone().or(base.initramfs),
            fw_cfg_config: fw_cfg_config.or(base.fw_cfg_config),
        };
        // A command line or a RAM disk without anything to boot is no payload.
        let boots = payload.firmware.is_some() || payload.kernel.is_some() || payload.fw_cfg_config.is_some();
        Ok(boots.then_some(payload))
    }
}

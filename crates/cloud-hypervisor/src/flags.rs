//! The machine's flags (`spec/cli.md` §1), each named once, and the configuration they make. Their values are read by `config`, section by
//! section.

use std::path::PathBuf;

use config::{
    BalloonConfig, ConsoleConfig, CpusConfig, DebugConsoleConfig, DeviceConfig, DiskConfig, FlagError,
    FsConfig, FwCfgConfig, GenericVhostUserConfig, IvshmemConfig, LandlockConfig, MemoryConfig,
    MemoryZoneConfig, NetConfig, NumaConfig, PayloadConfig, PciSegmentConfig, PlatformConfig, PmemConfig,
    PvmemcontrolConfig, RateLimiterGroupConfig, RngConfig, RtcConfig, SerialConfig, TpmConfig,
    UserDeviceConfig, VdpaConfig, VmConfig, VsockConfig,
};

/// What was given for each flag. `None` or empty: not given, so that the section has its default, or what the file says.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Flags {
    /// Kernel: a PVH ELF or a bzImage
    #[arg(long, group = "vm-payload", help_heading = "Payload", value_name = "PATH")]
    pub(crate) kernel: Option<PathBuf>,
    /// Firmware to boot instead of a kernel
    #[arg(long, group = "vm-payload", help_heading = "Payload", value_name = "PATH")]
    pub(crate) firmware: Option<PathBuf>,
    /// What the fw_cfg device shows the firmware
    #[arg(long, value_name = "KEYS", long_help = keys("What the fw_cfg device shows the firmware", FwCfgConfig::SYNTAX), group = "vm-payload", help_heading = "Payload")]
    pub(crate) fw_cfg_config: Option<String>,
    /// Initial RAM disk
    #[arg(long, group = "vm-config", help_heading = "Payload", value_name = "PATH")]
    pub(crate) initramfs: Option<PathBuf>,
    /// Kernel command line
    #[arg(long, group = "vm-config", help_heading = "Payload", value_name = "TEXT")]
    pub(crate) cmdline: Option<String>,
    /// CPUs
    #[arg(long, value_name = "KEYS", long_help = keys("CPUs", CpusConfig::SYNTAX), group = "vm-config", help_heading = "CPUs and memory")]
    pub(crate) cpus: Option<String>,
    /// RAM
    #[arg(long, value_name = "KEYS", long_help = keys("RAM", MemoryConfig::SYNTAX), group = "vm-config", help_heading = "CPUs and memory")]
    pub(crate) memory: Option<String>,
    /// RAM in zones of its own backing
    #[arg(long, value_name = "KEYS", long_help = keys("RAM in zones of its own backing", MemoryZoneConfig::SYNTAX), group = "vm-config", help_heading = "CPUs and memory", num_args = 1..)]
    pub(crate) memory_zone: Vec<String>,
    /// NUMA nodes
    #[arg(long, value_name = "KEYS", long_help = keys("NUMA nodes", NumaConfig::SYNTAX), group = "vm-config", help_heading = "CPUs and memory", num_args = 1..)]
    pub(crate) numa: Vec<String>,
    /// Memory balloon
    #[arg(long, value_name = "KEYS", long_help = keys("Memory balloon", BalloonConfig::SYNTAX), group = "vm-config", help_heading = "CPUs and memory")]
    pub(crate) balloon: Option<String>,
    /// Disks
    #[arg(long, value_name = "KEYS", long_help = keys("Disks", DiskConfig::SYNTAX), group = "vm-config", help_heading = "Devices", num_args = 1..)]
    pub(crate) disk: Vec<String>,
    /// Rate limits that disks share
    #[arg(long, value_name = "KEYS", long_help = keys("Rate limits that disks share", RateLimiterGroupConfig::SYNTAX), group = "vm-config", help_heading = "Devices", num_args = 1..)]
    pub(crate) rate_limit_group: Vec<String>,
    /// Network interfaces
    #[arg(long, value_name = "KEYS", long_help = keys("Network interfaces", NetConfig::SYNTAX), group = "vm-config", help_heading = "Devices", num_args = 1..)]
    pub(crate) net: Vec<String>,
    /// Source of entropy
    #[arg(long, value_name = "KEYS", long_help = keys("Source of entropy", RngConfig::SYNTAX), group = "vm-config", help_heading = "Devices")]
    pub(crate) rng: Option<String>,
    /// Shared directories
    #[arg(long, value_name = "KEYS", long_help = keys("Shared directories", FsConfig::SYNTAX), group = "vm-config", help_heading = "Devices", num_args = 1..)]
    pub(crate) fs: Vec<String>,
    /// Persistent memory
    #[arg(long, value_name = "KEYS", long_help = keys("Persistent memory", PmemConfig::SYNTAX), group = "vm-config", help_heading = "Devices", num_args = 1..)]
    pub(crate) pmem: Vec<String>,
    /// Virtual sockets
    #[arg(long, value_name = "KEYS", long_help = keys("Virtual sockets", VsockConfig::SYNTAX), group = "vm-config", help_heading = "Devices")]
    pub(crate) vsock: Option<String>,
    /// vDPA devices
    #[arg(long, value_name = "KEYS", long_help = keys("vDPA devices", VdpaConfig::SYNTAX), group = "vm-config", help_heading = "Devices", num_args = 1..)]
    pub(crate) vdpa: Vec<String>,
    /// VFIO devices
    #[arg(long, value_name = "KEYS", long_help = keys("VFIO devices", DeviceConfig::SYNTAX), group = "vm-config", help_heading = "Devices", num_args = 1..)]
    pub(crate) device: Vec<String>,
    /// vfio-user devices
    #[arg(long, value_name = "KEYS", long_help = keys("vfio-user devices", UserDeviceConfig::SYNTAX), group = "vm-config", help_heading = "Devices", num_args = 1..)]
    pub(crate) user_device: Vec<String>,
    /// Devices served over vhost-user
    #[arg(long, value_name = "KEYS", long_help = keys("Devices served over vhost-user", GenericVhostUserConfig::SYNTAX), group = "vm-config", help_heading = "Devices", num_args = 1..)]
    pub(crate) generic_vhost_user: Vec<String>,
    /// Memory shared between VMs
    #[arg(long, value_name = "KEYS", long_help = keys("Memory shared between VMs", IvshmemConfig::SYNTAX), group = "vm-config", help_heading = "Devices")]
    pub(crate) ivshmem: Option<String>,
    /// TPM 2.0
    #[arg(long, value_name = "KEYS", long_help = keys("TPM 2.0", TpmConfig::SYNTAX), group = "vm-config", help_heading = "Devices")]
    pub(crate) tpm: Option<String>,
    /// Paravirtual clock
    #[arg(long, value_name = "KEYS", long_help = keys("Paravirtual clock", RtcConfig::SYNTAX), group = "vm-config", help_heading = "Devices", num_args = 0..=1, default_missing_value = "")]
    pub(crate) rtc: Option<String>,
    /// Reset a guest that hangs
    #[arg(long, group = "vm-config", help_heading = "Devices")]
    pub(crate) watchdog: bool,
    /// Report the guest's panics
    #[arg(long, group = "vm-config", help_heading = "Devices")]
    pub(crate) pvpanic: bool,
    /// Let the guest advise on its memory
    #[arg(long, group = "vm-config", help_heading = "Devices")]
    pub(crate) pvmemcontrol: bool,
    /// Serial port [default: null]
    #[arg(long, value_name = "KEYS", long_help = keys("Serial port [default: null]", SerialConfig::SYNTAX), group = "vm-config", help_heading = "Consoles")]
    pub(crate) serial: Option<String>,
    /// Virtio console [default: tty]
    #[arg(long, value_name = "KEYS", long_help = keys("Virtio console [default: tty]", ConsoleConfig::SYNTAX), group = "vm-config", help_heading = "Consoles")]
    pub(crate) console: Option<String>,
    /// Debug port [default: off]
    #[arg(long, value_name = "KEYS", long_help = keys("Debug port [default: off]", DebugConsoleConfig::SYNTAX), group = "vm-config", help_heading = "Consoles")]
    pub(crate) debug_console: Option<String>,
    /// What the machine says it is
    #[arg(long, value_name = "KEYS", long_help = keys("What the machine says it is", PlatformConfig::SYNTAX), group = "vm-config", help_heading = "Platform")]
    pub(crate) platform: Option<String>,
    /// PCI segments
    #[arg(long, value_name = "KEYS", long_help = keys("PCI segments", PciSegmentConfig::SYNTAX), group = "vm-config", help_heading = "Platform", num_args = 1..)]
    pub(crate) pci_segment: Vec<String>,
    /// Confine the VMM to the files it needs
    #[arg(long, group = "vm-config", help_heading = "Platform")]
    pub(crate) landlock: bool,
    /// Files to be allowed besides
    #[arg(long, value_name = "KEYS", long_help = keys("Files to be allowed besides", LandlockConfig::SYNTAX), group = "vm-config", help_heading = "Platform", num_args = 1..)]
    pub(crate) landlock_rules: Vec<String>,
}

/// A flag's help with its keys, apart so that they wrap.
pub(crate) fn keys(what: &str, syntax: keyval::Syntax) -> String {
    format!("{what}: {}", syntax.help.replace(',', ", "))
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
    /// `base` with the sections of the given flags instead of its own. The payload and switches are taken one by one.
    ///
    /// # Errors
    /// The first flag that does not read, in the order of the fields of [`VmConfig`].
    pub(crate) fn over(self, base: VmConfig) -> Read<VmConfig> {
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
            numa: each(&self.numa, NumaConfig::from_flag)?.or(base.numa),
            watchdog: self.watchdog || base.watchdog,
            rtc: one(self.rtc.as_ref(), RtcConfig::from_flag)?.or(base.rtc),
            pci_segments: each(&self.pci_segment, PciSegmentConfig::from_flag)?.or(base.pci_segments),
            platform: one(self.platform.as_ref(), PlatformConfig::from_flag)?.or(base.platform),
            tpm: one(self.tpm.as_ref(), TpmConfig::from_flag)?.or(base.tpm),
            landlock_enable: self.landlock || base.landlock_enable,
            landlock_rules: each(&self.landlock_rules, LandlockConfig::from_flag)?.or(base.landlock_rules),
            ivshmem: one(self.ivshmem.as_ref(), IvshmemConfig::from_flag)?.or(base.ivshmem),
            // What has no flag.
            ..base
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

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    fn config(flags: Flags) -> VmConfig {
        flags.over(VmConfig::default()).unwrap()
    }

    #[test]
    fn no_flags_are_the_defaults() {
        assert_eq!(config(Flags::default()), VmConfig::default());
    }

    #[test]
    fn zones_begin_with_what_the_memory_says() {
        let config = config(Flags {
            memory: Some("size=0,mergeable=on".into()),
            memory_zone: vec!["id=a".into(), "id=b,size=1G,mergeable=off,host_numa_node=1".into()],
            ..Flags::default()
        });
        let zones = config.memory.zones.unwrap();
        assert_eq!((zones[0].size, zones[0].mergeable), (512 << 20, true));
        assert_eq!((zones[1].size, zones[1].mergeable, zones[1].host_numa_node), (1 << 30, false, Some(1)));
    }

    #[test]
    fn all_flags_make_one_configuration() {
        let flags = Flags {
            kernel: Some("/k".into()),
            cmdline: Some("console=hvc0".into()),
            cpus: Some("boot=2".into()),
            disk: vec!["path=/a".into(), "path=/b,readonly=on".into()],
            net: vec![String::new()],
            rtc: Some(String::new()),
            pvpanic: true,
            ..Flags::default()
        };
        let made = config(flags.clone());
        assert_eq!(made.disks.as_ref().map(Vec::len), Some(2));
        assert_eq!(made.net, Some(vec![NetConfig::default()]));
        assert_eq!(made.rtc, Some(RtcConfig::default()));
        assert!(made.pvpanic && config::check(made).is_ok());
        let wrong = Flags { disk: vec!["path=/a".into(), "pth=/b".into()], ..flags };
        let error = wrong.over(VmConfig::default()).unwrap_err();
        assert_eq!(error.to_string(), "Error parsing --disk");
        assert_eq!(error.source().unwrap().to_string(), "Unknown option: pth");
        let nothing = Flags { cmdline: Some("x".into()), ..Flags::default() };
        assert_eq!(config(nothing).payload, None);
    }
}

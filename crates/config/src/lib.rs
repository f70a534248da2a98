//! The configuration of a machine: the wire form that clients write ([`VmConfig`], as JSON or flags) and the
//! checked form that everything later builds from ([`Plan`]). Only [`check()`] makes a plan.
//!
//! One file per section holds its wire type, its flag and its own rules; rules over several sections are in
//! `check`. Specification: `spec/config.md`. Called from the API thread and the control thread alike; the only
//! system calls are those that see whether the files of `landlock_rules` and `ivshmem` exist.

mod check;
mod consoles;
mod cpus;
mod devices;
mod disk;
#[cfg(feature = "test-devices")]
mod echo;
mod fds;
mod flag;
mod json;
mod mac;
mod memory;
mod migration;
mod net;
mod numa;
mod overrides;
mod payload;
mod pci;
pub mod plan;
mod platform;
mod queues;
mod rate_limit;
mod requests;
mod restore;
#[cfg(feature = "schema")]
mod schema;
mod small;
mod sockets;
mod unbuilt;
mod vfio;
mod vm;
mod words;

#[cfg(test)]
mod tests;

pub use check::{Problem, ProblemKind, Problems, check, check_saved};
pub use consoles::{ConsoleConfig, ConsoleMode, DebugConsoleConfig, SerialConfig};
pub use cpus::{CoreScheduling, CpuAffinity, CpuFeatures, CpuProfile, CpuTopology, CpusConfig};
pub use disk::{Disk, DiskConfig, ImageType, LockGranularity, QueueAffinity};
#[cfg(feature = "test-devices")]
pub use echo::{Echo, EchoConfig};
pub use fds::UNKNOWN as UNKNOWN_FD;
pub use flag::FlagError;
pub use json::from_json;
pub use mac::MacAddr;
pub use memory::{HotplugMethod, MemoryConfig, MemoryZoneConfig};
pub use migration::{
    MemoryMode, MigrationUrl, ReceiveError, SendError, TimeoutStrategy, VmReceiveMigrationData,
    VmSendMigrationData,
};
pub use net::{Net, NetConfig, VhostMode};
pub use numa::{NumaConfig, NumaDistance};
pub use overrides::{DiskPath, NetMac, NetTap};
pub use payload::{FwCfgConfig, FwCfgItem, FwCfgItemList, PayloadConfig};
pub use pci::{PciCommon, Placed, TRANSPORT};
pub use plan::{Extra, Plan};
pub use platform::PlatformConfig;
pub use rate_limit::{RateLimiterConfig, RateLimiterGroupConfig, TokenBucketConfig};
pub use requests::{
    VmCancelJob, VmCoredumpData, VmRemoveDevice, VmResize, VmResizeDisk, VmResizeZone, VmSnapshotConfig,
};
pub use restore::{
    Background, MemoryRestoreMode, RestoreConfig, RestoreError, RestoredNetConfig, RestoredVfioConfig,
    ZoneUpdate,
};
pub use small::{
    Balloon, BalloonConfig, LandlockConfig, PciSegmentConfig, Pmem, PmemConfig, PvmemcontrolConfig, Rng,
    RngConfig, Rtc, RtcConfig, TpmConfig,
};
pub use sockets::{
    Fs, FsConfig, GenericVhostUser, GenericVhostUserConfig, Ivshmem, IvshmemConfig, UserDevice,
    UserDeviceConfig, Vdpa, VdpaConfig, Vsock, VsockConfig,
};
pub use vfio::{Device, DeviceConfig};
pub use vm::VmConfig;
pub use words::UnknownWord;

/// Default of fields that are on unless turned off.
fn yes() -> bool {
    true
}

/// For fields that are left out of JSON when off.
fn is_false(flag: &bool) -> bool {
    !*flag
}

//! Option strings of the command line. The first byte chooses the flag, the rest is its value. What is read is the same over JSON.

use config::{
    BalloonConfig, ConsoleConfig, CpusConfig, DebugConsoleConfig, DeviceConfig, DiskConfig, FlagError,
    FsConfig, FwCfgConfig, GenericVhostUserConfig, IvshmemConfig, LandlockConfig, MemoryConfig,
    MemoryZoneConfig, NetConfig, NumaConfig, PciSegmentConfig, PlatformConfig, PmemConfig,
    RateLimiterGroupConfig, RestoreConfig, RngConfig, RtcConfig, SerialConfig, TpmConfig, UserDeviceConfig,
    VdpaConfig, VmReceiveMigrationData, VmSendMigrationData, VsockConfig,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bytes::Bytes;
use crate::json::assert_stable;

macro_rules! flags {
    ($($Type:ident),* $(,)?) => {
        &[$(|text: &str| settle($Type::from_flag(text)),)*]
    };
}

/// Reads one flag's value; tells whether it could.
type Read = fn(&str) -> bool;

const FLAGS: &[Read] = flags![
    BalloonConfig,
    ConsoleConfig,
    CpusConfig,
    DebugConsoleConfig,
    DeviceConfig,
    DiskConfig,
    FsConfig,
    FwCfgConfig,
    GenericVhostUserConfig,
    IvshmemConfig,
    LandlockConfig,
    MemoryConfig,
    MemoryZone,
    NetConfig,
    NumaConfig,
    PciSegmentConfig,
    PlatformConfig,
    PmemConfig,
    RateLimiterGroupConfig,
    RestoreConfig,
    RngConfig,
    RtcConfig,
    SerialConfig,
    TpmConfig,
    UserDeviceConfig,
    VdpaConfig,
    VmReceiveMigrationData,
    VmSendMigrationData,
    VsockConfig,
];

/// A zone, beside a `--memory` that allows zones.
struct MemoryZone;

impl MemoryZone {
    fn from_flag(text: &str) -> Result<MemoryZoneConfig, FlagError> {
        MemoryZoneConfig::from_flag(text, &MemoryConfig { size: 0, ..MemoryConfig::default() })
    }
}

pub(crate) fn run(data: &[u8]) {
    is_read(data);
}

fn is_read(data: &[u8]) -> bool {
    let mut data = Bytes(data);
    let read = data.one_of(FLAGS);
    std::str::from_utf8(data.0).is_ok_and(read)
}

fn settle<T: Serialize + DeserializeOwned>(read: Result<T, FlagError>) -> bool {
    match &read {
        Ok(section) => drop(assert_stable(section)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    read.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A corpus of refused strings would test little: each flag has one that is read, in a file of its number.
    #[test]
    fn every_flag_is_read() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/flags");
        for number in 0..FLAGS.len() {
            let data = std::fs::read(format!("{dir}/{number:02}")).unwrap();
            assert!(is_read(&data), "{}", data.escape_ascii());
        }
    }
}

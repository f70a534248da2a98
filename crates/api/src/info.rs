//! What verbs answer with (`spec/rest-api.md` §2, §4).

use std::collections::BTreeMap;

use config::VmConfig;
use meter::QueueReading;
use serde::{Deserialize, Serialize};

/// Counters by device id, then name.
pub type Counters = BTreeMap<String, BTreeMap<String, u64>>;

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VmmPing {
    /// The version with build details.
    pub build_version: String,
    /// The bare version.
    pub version: String,
    /// The process.
    pub pid: i64,
    /// What was built in.
    pub features: Vec<String>,
}

/// States as `vm.info` tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[allow(missing_docs)]
pub enum VmState {
    Created,
    Running,
    Shutdown,
    Paused,
    BreakPoint,
}

/// A device and what it occupies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeviceNode {
    /// The device's id.
    pub id: String,
    /// What it occupies, such as `{"PciBar": {...}}`.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<serde_json::Value>"))]
    pub resources: Vec<Resource>,
    /// The id of the device it sits behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Ids of the devices behind it.
    pub children: Vec<String>,
    /// Its PCI address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci_bdf: Option<String>,
    /// Set while the guest is asked to let go of the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removal: Option<Removal>,
}

impl DeviceNode {
    /// In front of a virtio device's id: that of the transport it sits behind, a node of its own, which has the address.
    pub const TRANSPORT: &str = config::TRANSPORT;
}

/// How far the guest is in letting go of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Removal {
    /// It was asked a moment ago.
    Pending,
    /// It has not done so in time: `vm.remove-device` asks again.
    Overdue,
}

/// What a device occupies. Clients must expect kinds that they do not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resource {
    /// Addresses of a BAR.
    PciBar(PciBarResource),
    /// Addresses of memory that it brings, such as the file of a persistent memory device.
    MmioAddressRange(MmioAddressRange),
}

/// Addresses that stay where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MmioAddressRange {
    /// The first one.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

/// A BAR and where it was put when the device came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciBarResource {
    /// Its first address.
    pub base: u64,
    /// Which BAR, 0 to 5.
    pub index: usize,
    /// Reads have no side effects.
    pub prefetchable: bool,
    /// Bytes.
    pub size: u64,
    /// How wide its register is.
    #[serde(rename = "type_")]
    pub width: PciBarWidth,
}

/// How wide a memory BAR's register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PciBarWidth {
    /// 32 bits.
    Mmio32,
    /// 64 bits.
    Mmio64,
}

/// The VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VmInfo {
    /// The configuration with what has changed since.
    pub config: VmConfig,
    /// Where it is in its life.
    pub state: VmState,
    /// Bytes of RAM it has now.
    pub memory_actual_size: u64,
    /// Where its RAM came from, if it was restored and has not been rebooted since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restored_memory: Option<Vec<RestoredMemory>>,
    /// Its devices, once booted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_tree: Option<BTreeMap<String, DeviceNode>>,
}

/// A stretch of RAM that was restored, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RestoredMemory {
    /// First guest-physical address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// The memory zone.
    pub zone: String,
    /// How its contents come.
    pub mode: MemorySource,
    /// Why it is not the mode that was asked for, or the quickest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// How the contents of restored RAM come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum MemorySource {
    /// They were read before the VM was there.
    Copy,
    /// Page by page, when the guest touches them or in the background.
    OnDemand,
    /// They stay in the snapshot's file until the guest writes.
    CopyOnWrite,
    /// They are in a file of the user's, which keeps them.
    OwnFile,
    /// They are the memory of the process that handed the VM over.
    Shared,
}

/// Where a hot-plugged device went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PciDeviceInfo {
    /// The device's id.
    pub id: String,
    /// Its PCI address, such as `0000:00:06.0`.
    pub bdf: String,
}

/// What a running machine counts, finer than [`Counters`]: for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meters {
    /// Of each vCPU, by number: how often it came to the VMM, by reason.
    pub vcpu_exits: Vec<Vec<(&'static str, u64)>>,
    /// Of each queue that counts: its device's id, and its reading.
    pub queues: Vec<(String, QueueReading)>,
}

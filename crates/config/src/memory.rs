//! `memory`, `--memory` and `--memory-zone` (`spec/config.md` §3).

use std::path::PathBuf;
use std::str::FromStr;

use keyval::Syntax;
use serde::{Deserialize, Serialize};

use crate::flag::FlagError;
use crate::words::{self, UnknownWord};

/// RAM of a machine that does not say how much.
const DEFAULT_SIZE: u64 = 512 << 20;

/// The zone that all RAM is if the user has made none.
pub(crate) const WHOLE: &str = "mem0";

/// Guest RAM. All sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MemoryConfig {
    /// RAM at boot; 0 if `zones` hold it all.
    #[serde(deserialize_with = "keyval::byte_size")]
    pub size: u64,
    /// The host may merge equal pages (KSM).
    #[serde(default)]
    pub mergeable: bool,
    /// How RAM is added later.
    #[serde(default, deserialize_with = "keyval::spelled")]
    pub hotplug_method: HotplugMethod,
    /// RAM that can be added later.
    #[serde(default, deserialize_with = "keyval::byte_size_opt", skip_serializing_if = "Option::is_none")]
    pub hotplug_size: Option<u64>,
    /// RAM added so far.
    #[serde(default, deserialize_with = "keyval::byte_size_opt", skip_serializing_if = "Option::is_none")]
    pub hotplugged_size: Option<u64>,
    /// Mapped `MAP_SHARED`, so that another process can map it too.
    #[serde(default)]
    pub shared: bool,
    /// Backed by huge pages.
    #[serde(default)]
    pub hugepages: bool,
    /// Size of those; the host's default when absent.
    #[serde(default, deserialize_with = "keyval::byte_size_opt", skip_serializing_if = "Option::is_none")]
    pub hugepage_size: Option<u64>,
    /// All pages are touched before boot.
    #[serde(default)]
    pub prefault: bool,
    /// Swap space is reserved (no `MAP_NORESERVE`).
    #[serde(default)]
    pub reserve: bool,
    /// RAM in parts with settings of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zones: Option<Vec<MemoryZoneConfig>>,
    /// Transparent huge pages are asked for.
    #[serde(default = "crate::yes")]
    pub thp: bool,
}

/// A part of guest RAM. All sizes are in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MemoryZoneConfig {
    /// Name; shares the name space of device ids.
    pub id: String,
    /// RAM at boot.
    #[serde(deserialize_with = "keyval::byte_size")]
    pub size: u64,
    /// Backing file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// As [`MemoryConfig::shared`].
    #[serde(default)]
    pub shared: bool,
    /// As [`MemoryConfig::hugepages`].
    #[serde(default)]
    pub hugepages: bool,
    /// As [`MemoryConfig::hugepage_size`].
    #[serde(default, deserialize_with = "keyval::byte_size_opt", skip_serializing_if = "Option::is_none")]
    pub hugepage_size: Option<u64>,
    /// Host NUMA node the pages come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_numa_node: Option<u32>,
    /// As [`MemoryConfig::hotplug_size`].
    #[serde(default, deserialize_with = "keyval::byte_size_opt", skip_serializing_if = "Option::is_none")]
    pub hotplug_size: Option<u64>,
    /// As [`MemoryConfig::hotplugged_size`].
    #[serde(default, deserialize_with = "keyval::byte_size_opt", skip_serializing_if = "Option::is_none")]
    pub hotplugged_size: Option<u64>,
    /// As [`MemoryConfig::prefault`].
    #[serde(default)]
    pub prefault: bool,
    /// As [`MemoryConfig::reserve`].
    #[serde(default)]
    pub reserve: bool,
    /// As [`MemoryConfig::mergeable`].
    #[serde(default)]
    pub mergeable: bool,
}

/// The device RAM is added through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum HotplugMethod {
    /// ACPI memory devices.
    #[default]
    Acpi,
    /// virtio-mem.
    VirtioMem,
}

impl FromStr for HotplugMethod {
    type Err = UnknownWord;
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        words::any_case(word, &[("acpi", Self::Acpi), ("virtio-mem", Self::VirtioMem)])
    }
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            size: DEFAULT_SIZE,
            mergeable: false,
            hotplug_method: HotplugMethod::default(),
            hotplug_size: None,
            hotplugged_size: None,
            shared: false,
            hugepages: false,
            hugepage_size: None,
            prefault: false,
            reserve: false,
            zones: None,
            thp: true,
        }
    }
}

impl MemoryConfig {
    /// Options of `--memory`.
    pub const SYNTAX: Syntax = Syntax::new(
        "size=<bytes>,mergeable=on|off,shared=on|off,hugepages=on|off,hugepage_size=<bytes>,\
         hotplug_method=acpi|virtio-mem,hotplug_size=<bytes>,hotplugged_size=<bytes>,prefault=on|off,\
         reserve=on|off,thp=on|off",
    )
    .hidden(&["file"]);

    /// Reads `--memory` without its zones.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        let wrong = FlagError::of("--memory");
        let mut options = Self::SYNTAX.parse(text).map_err(&wrong)?;
        // Once the backing file of all RAM; old scripts still name it.
        options.take_word("file");
        options.or("size", &DEFAULT_SIZE.to_string()).read().map_err(&wrong)
    }

    /// Whether another process can map all of guest RAM, as vhost-user and vfio-user back ends must.
    pub fn is_shareable(&self) -> bool {
        let mut zones = self.zones.iter().flatten().peekable();
        let all_zones = zones.peek().is_some() && zones.all(|zone| zone.shared || zone.hugepages);
        self.shared || self.hugepages || (self.size == 0 && all_zones)
    }

    /// The ids of the zones: `mem0` is all RAM if the user has made none.
    pub(crate) fn zone_ids(&self) -> impl Iterator<Item = &str> {
        let zones = self.zones.as_deref().unwrap_or_default();
        let whole = Some(WHOLE).filter(|_| zones.is_empty());
        whole.into_iter().chain(zones.iter().map(|zone| zone.id.as_str()))
    }

    /// RAM with all that was hot-plugged, in bytes; saturates.
    pub fn total(&self) -> u64 {
        let own = self.size.saturating_add(self.hotplugged_size.unwrap_or(0));
        self.zones.iter().flatten().fold(own, |total, zone| {
            total.saturating_add(zone.size).saturating_add(zone.hotplugged_size.unwrap_or(0))
        })
    }
}

impl MemoryZoneConfig {
    /// Options of `--memory-zone`.
    pub const SYNTAX: Syntax = Syntax::new(
        "id=<zone_id>,size=<bytes>,file=<path>,shared=on|off,hugepages=on|off,hugepage_size=<bytes>,\
         host_numa_node=<node_id>,hotplug_size=<bytes>,hotplugged_size=<bytes>,prefault=on|off,reserve=on|off,\
         mergeable=on|off",
    );

    /// Reads one `--memory-zone`; `mergeable` is that of `memory` unless given.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str, memory: &MemoryConfig) -> Result<Self, FlagError> {
        let wrong = FlagError::of("--memory-zone");
        let options = Self::SYNTAX.parse(text).map_err(&wrong)?;
        let mergeable = if memory.mergeable { "on" } else { "off" };
        options.or("size", &DEFAULT_SIZE.to_string()).or("mergeable", mergeable).read().map_err(wrong)
    }
}

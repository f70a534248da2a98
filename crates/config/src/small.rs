//! Sections of a few fields each (`spec/config.md` §8): rng, rtc, balloon, pmem, tpm, pvmemcontrol, PCI
//! segments, Landlock.

use std::path::{Path, PathBuf};

use keyval::Syntax;
use serde::{Deserialize, Serialize};

use crate::check::Scope;
use crate::devices::{Name, Section};
use crate::flag::{self, FlagError};
use crate::pci::{PciCommon, Placed};
use crate::plan::{self, Access, DeviceKind, Grant};

/// The entropy device.
pub type RngConfig = Placed<Rng>;

/// The entropy device's own field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Rng {
    /// Where the bytes come from.
    pub src: PathBuf,
}

impl Default for Rng {
    fn default() -> Self {
        Self { src: PathBuf::from("/dev/urandom") }
    }
}

impl RngConfig {
    /// Options of `--rng`.
    pub const SYNTAX: Syntax =
        Syntax::new("src=<path>,iommu=on|off,id=<device_id>,pci_segment=<segment_id>,pci_device_id=<slot>");

    /// Reads `--rng`.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        let wrong = FlagError::of("--rng");
        Self::SYNTAX.parse(text).and_then(|options| options.or("src", "/dev/urandom").read()).map_err(wrong)
    }
}

impl Section for Rng {
    fn name(&self) -> Name {
        Name::Fixed("__rng")
    }

    fn paths(&self) -> Vec<(&'static str, &Path)> {
        vec![("src", &self.src)]
    }

    fn kind(&self) -> Option<DeviceKind> {
        Some(DeviceKind::Rng(plan::Rng { src: self.src.clone() }))
    }

    fn grants(&self) -> Vec<Grant> {
        vec![Grant::new(&self.src, Access::Read)]
    }
}

/// The virtio clock.
pub type RtcConfig = Placed<Rtc>;

/// The virtio clock has no fields of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Rtc {}

impl RtcConfig {
    /// Options of `--rtc`.
    pub const SYNTAX: Syntax =
        Syntax::new("iommu=on|off,id=<device_id>,pci_segment=<segment_id>,pci_device_id=<slot>");

    /// Reads `--rtc`.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        flag::read("--rtc", &Self::SYNTAX, text)
    }
}

impl Section for Rtc {
    fn name(&self) -> Name {
        Name::Fixed("__rtc")
    }
}

/// The balloon.
pub type BalloonConfig = Placed<Balloon>;

/// The balloon's own fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Balloon {
    /// Bytes taken from the guest; less than its RAM.
    #[serde(deserialize_with = "keyval::byte_size")]
    pub size: u64,
    /// Deflates when the guest runs out of memory.
    #[serde(default)]
    pub deflate_on_oom: bool,
    /// The guest reports free pages.
    #[serde(default)]
    pub free_page_reporting: bool,
}

impl BalloonConfig {
    /// Options of `--balloon`.
    pub const SYNTAX: Syntax = Syntax::new(
        "size=<bytes>,deflate_on_oom=on|off,free_page_reporting=on|off,id=<device_id>,iommu=on|off,\
         pci_segment=<segment_id>,pci_device_id=<slot>",
    );

    /// Reads `--balloon`; the size is 0 unless given.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        let wrong = FlagError::of("--balloon");
        Self::SYNTAX.parse(text).and_then(|options| options.or("size", "0").read()).map_err(wrong)
    }

    pub(crate) fn check(&self, at: &mut Scope<'_, '_>) {
        let (size, ram) = (self.size, at.vm.memory.total());
        if size >= ram {
            let text = format!("Balloon size ({size}) greater than RAM ({ram})");
            at.invalid("size", text, "make the balloon smaller than the guest's RAM");
        }
        at.place(&self.pci);
    }
}

impl Section for Balloon {
    fn name(&self) -> Name {
        Name::Fixed("__balloon")
    }

    fn kind(&self) -> Option<DeviceKind> {
        let Self { size, deflate_on_oom, free_page_reporting } = *self;
        Some(DeviceKind::Balloon(plan::Balloon { size, deflate_on_oom, free_page_reporting }))
    }
}

/// A persistent memory device.
pub type PmemConfig = Placed<Pmem>;

/// A persistent memory device's own fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Pmem {
    /// Backing file, or a directory to make one in. A guest comes no further where the file becomes shorter meanwhile.
    pub file: PathBuf,
    /// Bytes, a multiple of 2 MiB, not more than the file has; the file's size when absent. A directory needs it.
    #[serde(default, deserialize_with = "keyval::byte_size_opt", skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The guest's writes do not reach the file.
    #[serde(default)]
    pub discard_writes: bool,
}

impl Pmem {
    /// Bytes that the guest maps at once; what every size is a multiple of.
    pub const UNIT: u64 = 2 << 20;

    /// Whether a device of `size` bytes can be.
    pub fn is_size(size: u64) -> bool {
        size > 0 && size.is_multiple_of(Self::UNIT)
    }
}

impl PmemConfig {
    /// Options of `--pmem`.
    pub const SYNTAX: Syntax = Syntax::new(
        "file=<path>,size=<bytes>,discard_writes=on|off,iommu=on|off,id=<device_id>,pci_segment=<segment_id>,\
         pci_device_id=<slot>",
    );

    /// Reads one `--pmem`.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        flag::read("--pmem", &Self::SYNTAX, text)
    }
}

impl Section for Pmem {
    fn name(&self) -> Name {
        Name::Prefix("_pmem")
    }

    fn paths(&self) -> Vec<(&'static str, &Path)> {
        vec![("file", &self.file)]
    }

    fn kind(&self) -> Option<DeviceKind> {
        Some(DeviceKind::Pmem(self.clone()))
    }

    /// The reference finds it out when it builds the device.
    fn check(&self, _: &PciCommon, at: &mut Scope<'_, '_>) {
        if self.size.is_some_and(|size| !Self::is_size(size)) {
            let hint = "give a multiple of 2 MiB, or leave it out for the whole file";
            at.invalid("size", "Trying to use a size that is not multiple of 2MiB", hint);
        }
    }

    fn grants(&self) -> Vec<Grant> {
        let access = if self.discard_writes { Access::Read } else { Access::ReadWrite };
        vec![Grant::new(&self.file, access)]
    }
}

/// The TPM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TpmConfig {
    /// swtpm's control socket.
    pub socket: PathBuf,
}

impl TpmConfig {
    /// Options of `--tpm`.
    pub const SYNTAX: Syntax = Syntax::new("socket=<path>");

    /// Reads `--tpm`.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        flag::read("--tpm", &Self::SYNTAX, text)
    }
}

/// The memory control device has no fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PvmemcontrolConfig {}

/// How much of the address space a PCI segment gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct PciSegmentConfig {
    /// Segment number.
    pub pci_segment: u16,
    /// Share of the 32-bit window, from 1.
    pub mmio32_aperture_weight: u32,
    /// Share of the 64-bit window, from 1.
    pub mmio64_aperture_weight: u32,
}

impl Default for PciSegmentConfig {
    fn default() -> Self {
        Self { pci_segment: 0, mmio32_aperture_weight: 1, mmio64_aperture_weight: 1 }
    }
}

impl PciSegmentConfig {
    /// Options of `--pci-segment`.
    pub const SYNTAX: Syntax = Syntax::new(
        "pci_segment=<segment_id>,mmio32_aperture_weight=<weight>,mmio64_aperture_weight=<weight>",
    );

    /// Reads one `--pci-segment`.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        flag::read("--pci-segment", &Self::SYNTAX, text)
    }

    pub(crate) fn check(&self, at: &mut Scope<'_, '_>) {
        at.segment("pci_segment", self.pci_segment);
        let weights = [
            ("mmio32_aperture_weight", self.mmio32_aperture_weight),
            ("mmio64_aperture_weight", self.mmio64_aperture_weight),
        ];
        for (field, _) in weights.into_iter().filter(|(_, weight)| *weight == 0) {
            at.invalid(field, "Invalid PCI segment aperture weight: 0", "use a weight of 1 or more");
        }
    }
}

/// A path the sandbox leaves open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LandlockConfig {
    /// File or directory.
    pub path: PathBuf,
    /// `r`, `w` or both.
    pub access: String,
}

impl LandlockConfig {
    /// Options of `--landlock-rules`.
    pub const SYNTAX: Syntax = Syntax::new("path=<path>,access=r|w|rw");

    /// Reads one `--landlock-rules`.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        let flag = "--landlock-rules";
        let rule: Self = flag::read(flag, &Self::SYNTAX, text)?;
        if rule.access.chars().count() > 2 {
            let source = keyval::Error::Invalid(rule.access);
            return Err(FlagError::Options { flag, source });
        }
        Ok(rule)
    }

    pub(crate) fn check(&self, at: &mut Scope<'_, '_>) {
        if !self.path.exists() {
            let text = format!("Path {:?} provided in landlock-rules does not exist", self.path);
            at.invalid("path", text, "create it or leave the rule out");
        }
        if self.access.is_empty() || !self.access.chars().all(|letter| matches!(letter, 'r' | 'w')) {
            let text = format!("Invalid landlock access: {}", self.access);
            at.invalid("access", text, "use r, w or rw");
        }
    }
}

//! `platform` and `--platform` (`spec/config.md` §11).

use keyval::Syntax;
use serde::{Deserialize, Serialize};

use crate::check::Scope;
use crate::flag::FlagError;
use crate::plan;

/// As many PCI segments as there are address windows for.
const SEGMENT_LIMIT: u16 = 96;
/// SMBIOS counts a structure's strings in a byte.
const OEM_STRING_LIMIT: usize = 255;

/// Properties of the machine as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct PlatformConfig {
    /// PCI segments, 1 to 96.
    pub num_pci_segments: u16,
    /// Segments behind the virtual IOMMU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iommu_segments: Option<Vec<u16>>,
    /// Input address width of the virtual IOMMU in bits, at most 64.
    pub iommu_address_width_bits: u8,
    /// SMBIOS system serial number.
    #[serde(alias = "serial_number", skip_serializing_if = "Option::is_none")]
    pub system_serial_number: Option<String>,
    /// SMBIOS system UUID.
    #[serde(alias = "uuid", skip_serializing_if = "Option::is_none")]
    pub system_uuid: Option<String>,
    /// SMBIOS OEM strings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oem_strings: Option<Vec<String>>,
    /// SMBIOS system manufacturer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_manufacturer: Option<String>,
    /// SMBIOS system product name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_product_name: Option<String>,
    /// SMBIOS system version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_version: Option<String>,
    /// SMBIOS system family.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_family: Option<String>,
    /// SMBIOS system SKU number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_sku_number: Option<String>,
    /// SMBIOS chassis asset tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chassis_asset_tag: Option<String>,
    /// VFIO devices use iommufd.
    pub iommufd: bool,
    /// An open iommufd.
    #[serde(deserialize_with = "crate::fds::one", skip_serializing_if = "Option::is_none")]
    pub iommufd_fd: Option<i32>,
    /// BARs of VFIO devices are mapped for each other.
    pub vfio_p2p_dma: bool,
}

impl Default for PlatformConfig {
    fn default() -> Self {
        Self {
            num_pci_segments: 1,
            iommu_segments: None,
            iommu_address_width_bits: 64,
            system_serial_number: None,
            system_uuid: None,
            oem_strings: None,
            system_manufacturer: None,
            system_product_name: None,
            system_version: None,
            system_family: None,
            system_sku_number: None,
            chassis_asset_tag: None,
            iommufd: false,
            iommufd_fd: None,
            vfio_p2p_dma: true,
        }
    }
}

impl PlatformConfig {
    /// Options of `--platform`.
    pub const SYNTAX: Syntax = Syntax::new(
        "num_pci_segments=<number>,iommu_segments=<list of segments>,iommu_address_width=<bits>,\
         system_serial_number=<text>,system_uuid=<uuid>,oem_strings=<list of texts>,system_manufacturer=<text>,\
         system_product_name=<text>,system_version=<text>,system_family=<text>,system_sku_number=<text>,\
         chassis_asset_tag=<text>,iommufd=on|off,iommufd_fd=<fd>,vfio_p2p_dma=on|off",
    )
    .hidden(&["serial_number", "uuid"])
    .renamed(&[
        ("iommu_address_width", "iommu_address_width_bits"),
        ("serial_number", "system_serial_number"),
        ("uuid", "system_uuid"),
    ]);

    /// Reads `--platform`; `iommufd_fd` turns `iommufd` on.
    ///
    /// # Errors
    /// [`FlagError`].
    pub fn from_flag(text: &str) -> Result<Self, FlagError> {
        let wrong = FlagError::of("--platform");
        let options = Self::SYNTAX.parse(text).map_err(&wrong)?;
        let platform: Self = options.read().map_err(&wrong)?;
        match platform.iommufd_fd {
            Some(_) => options.or("iommufd", "on").read().map_err(&wrong),
            None => Ok(platform),
        }
    }

    pub(crate) fn check(&self, at: &mut Scope<'_, '_>) {
        let segments = self.num_pci_segments;
        if !(1..=SEGMENT_LIMIT).contains(&segments) {
            let text = format!("Number of PCI segments ({segments}) not in range of 1 to {SEGMENT_LIMIT}");
            at.invalid("num_pci_segments", text, "use a number from 1 to 96");
        }
        for segment in self.iommu_segments.iter().flatten() {
            at.segment("iommu_segments", *segment);
        }
        let width = self.iommu_address_width_bits;
        if width > 64 {
            let text = format!("IOMMU address width in bits ({width}) should be less than or equal to 64");
            at.invalid("iommu_address_width_bits", text, "use 64 or less");
        }
        if self.iommufd_fd.is_some() && !self.iommufd {
            let text = "Platform `iommufd_fd=<fd>` requires `iommufd=on`";
            at.invalid("iommufd_fd", text, "set iommufd=on");
        }
    }

    /// What SMBIOS cannot express.
    pub(crate) fn check_identity(&self, at: &mut Scope<'_, '_>) {
        let named = [
            ("system_manufacturer", &self.system_manufacturer),
            ("system_product_name", &self.system_product_name),
            ("system_version", &self.system_version),
            ("system_serial_number", &self.system_serial_number),
            ("system_family", &self.system_family),
            ("system_sku_number", &self.system_sku_number),
            ("chassis_asset_tag", &self.chassis_asset_tag),
        ];
        let named = named.into_iter().filter_map(|(field, text)| Some((field, text.as_ref()?)));
        let oem: Vec<_> = self.oem_strings.iter().flatten().map(|text| ("oem_strings", text)).collect();
        for (field, _) in named.chain(oem.iter().copied()).filter(|(_, text)| text.contains('\0')) {
            at.invalid(field, "SMBIOS string contains a NUL character", "remove it");
        }
        if oem.iter().any(|(_, text)| text.is_empty()) {
            at.invalid("oem_strings", "SMBIOS OEM string is empty", "leave it out");
        }
        if oem.len() > OEM_STRING_LIMIT {
            let text = format!("There are {} SMBIOS OEM strings, more than {OEM_STRING_LIMIT}", oem.len());
            at.invalid("oem_strings", text, "use fewer");
        }
        if let Some(uuid) = self.system_uuid.as_ref().filter(|uuid| !is_uuid(uuid)) {
            let hint = "write it like 01234567-89ab-cdef-0123-456789abcdef";
            at.invalid("system_uuid", format!("Invalid system UUID '{uuid}'"), hint);
        }
    }

    pub(crate) fn smbios(&self) -> plan::Smbios {
        plan::Smbios {
            manufacturer: self.system_manufacturer.clone(),
            product_name: self.system_product_name.clone(),
            version: self.system_version.clone(),
            serial_number: self.system_serial_number.clone(),
            uuid: self.system_uuid.clone(),
            family: self.system_family.clone(),
            sku_number: self.system_sku_number.clone(),
            chassis_asset_tag: self.chassis_asset_tag.clone(),
            oem_strings: self.oem_strings.clone().unwrap_or_default(),
        }
    }
}

/// Thirty-two hexadecimal digits, in the usual groups or in one.
fn is_uuid(text: &str) -> bool {
    let lengths: Vec<_> = text.split('-').map(str::len).collect();
    let formed = matches!(lengths[..], [8, 4, 4, 4, 12] | [32]);
    formed && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

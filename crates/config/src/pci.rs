//! What every PCI device's section has in common (`spec/config.md` §0, PciDeviceCommon): its id and its place
//! on the bus.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use serde::Serialize;
use serde::de::value::{MapAccessDeserializer, StringDeserializer};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, Visitor};

use crate::check::Scope;

/// In front of a virtio device's id: that of the transport it sits behind, a node of its own in the device tree.
pub const TRANSPORT: &str = "_virtio-pci-";

/// Id and place of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(default))]
pub struct PciCommon {
    /// Unique over the whole configuration, not beginning with `__`; generated when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Behind the virtual IOMMU.
    #[serde(skip_serializing_if = "crate::is_false")]
    #[cfg_attr(feature = "schema", schemars(extend("default" = false)))]
    pub iommu: bool,
    /// PCI segment, 0 to `num_pci_segments` - 1.
    pub pci_segment: u16,
    /// Slot, 0 to 31 (0 is taken on segment 0); the first free one when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pci_device_id: Option<u8>,
}

impl PciCommon {
    /// Reads the value of `key` if it is one of the common ones.
    fn accept<'de, M: MapAccess<'de>>(&mut self, key: &str, map: &mut M) -> Result<bool, M::Error> {
        match key {
            "id" => self.id = map.next_value()?,
            "iommu" => self.iommu = map.next_value()?,
            "pci_segment" => self.pci_segment = map.next_value()?,
            "pci_device_id" => self.pci_device_id = map.next_value()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The rules of the place; the id has its own ([`Scope::claim`]).
    pub(crate) fn check(&self, at: &mut Scope<'_, '_>) {
        let segment = self.pci_segment;
        let platform = at.vm.platform();
        if segment >= platform.num_pci_segments {
            let hint = "use a lower pci_segment or raise --platform num_pci_segments";
            at.invalid("pci_segment", format!("Invalid PCI segment id: {segment}"), hint);
        }
        if platform.iommu_segments.iter().flatten().any(|s| *s == segment) && !self.iommu {
            let text = format!("Device is on an IOMMU PCI segment ({segment}) but not placed behind IOMMU");
            at.invalid("iommu", text, "set iommu=on or choose another pci_segment");
        }
        match self.pci_device_id {
            Some(slot @ 32..) => {
                let text = format!("Given PCI device ID ({slot}) is out of the supported range of 0..32");
                at.invalid("pci_device_id", text, "use a number from 1 to 31");
            }
            Some(0) if segment == 0 => {
                let text = "Given PCI device ID (0) is reserved";
                at.invalid("pci_device_id", text, "slot 0 of segment 0 is the host bridge: use 1 to 31");
            }
            _ => {}
        }
    }

    /// The rule of devices that cannot be translated.
    pub(crate) fn check_no_iommu(&self, at: &mut Scope<'_, '_>) {
        if self.iommu {
            let text = "Device does not support being placed behind IOMMU";
            at.invalid("iommu", text, "leave iommu off for this device");
        }
    }
}

/// A device section with the common fields beside its own, in one flat JSON object or option string.
///
/// `#[serde(flatten)]` would do for JSON alone, but it hides unknown fields from whoever reports them and
/// loses the types of an option string; so the common keys are picked out of the map on their way to `T`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Placed<T> {
    /// The device's own fields.
    #[serde(flatten)]
    pub device: T,
    /// Id and place.
    #[serde(flatten)]
    pub pci: PciCommon,
}

impl<T> From<T> for Placed<T> {
    fn from(device: T) -> Self {
        Self { device, pci: PciCommon::default() }
    }
}

impl<T> Deref for Placed<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.device
    }
}

impl<T> DerefMut for Placed<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.device
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Placed<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(PlacedVisitor(PhantomData))
    }
}

struct PlacedVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for PlacedVisitor<T> {
    type Value = Placed<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a device section")
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Placed<T>, M::Error> {
        let mut pci = PciCommon::default();
        let device = T::deserialize(MapAccessDeserializer::new(Own { map, pci: &mut pci }))?;
        Ok(Placed { device, pci })
    }
}

/// The map without the common keys, which go to `pci`.
struct Own<'p, M> {
    map: M,
    pci: &'p mut PciCommon,
}

impl<'de, M: MapAccess<'de>> MapAccess<'de> for Own<'_, M> {
    type Error = M::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, M::Error> {
        while let Some(key) = self.map.next_key::<String>()? {
            if !self.pci.accept(&key, &mut self.map)? {
                return seed.deserialize(StringDeserializer::new(key)).map(Some);
            }
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, M::Error> {
        self.map.next_value_seed(seed)
    }
}

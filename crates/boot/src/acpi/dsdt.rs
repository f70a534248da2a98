//! The DSDT: the devices that the guest cannot discover by itself, in AML. All but PCI's own bring theirs.

use acpi_tables::Aml;
use acpi_tables::aml::{Memory32Fixed, ResourceTemplate, ZERO};
use device::aml::{device, hid, name};
use memory::layout;

use super::fixed::ecam;
use super::{AcpiError, PciSegment, Tables, pci, table};

pub(super) fn build(tables: &Tables) -> Result<Vec<u8>, AcpiError> {
    let mut body = Vec::new();
    for segment in &tables.segments {
        body.extend(pci::root(segment)?);
    }
    body.extend(motherboard(&tables.segments));
    body.extend(&tables.devices);
    Ok(table(*b"DSDT", 6, *b"CHDSDT  ", &body))
}

/// Keeps the guest from placing anything over PCI configuration space.
fn motherboard(segments: &[PciSegment]) -> Vec<u8> {
    let size = layout::ECAM_SEGMENT as u32;
    let ranges: Vec<_> = segments.iter().map(|s| Memory32Fixed::new(true, ecam(s) as u32, size)).collect();
    let resources = ResourceTemplate::new(ranges.iter().map(|range| range as &dyn Aml).collect());
    device("_SB_.MBRD", vec![&hid("PNP0C02"), &name("_UID", &ZERO), &name("_CRS", &resources)])
}

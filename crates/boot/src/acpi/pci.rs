//! PCI root bridges in the DSDT (PCI Firmware Specification 3.2; `spec/devices.md` §3, §4, §6).

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Arg, BufferData, EISAName, Equal, IO, If, Method, ONE,
    PackageBuilder, Path, ResourceTemplate, Return, Uuid, ZERO,
};
use device::aml::{self, Raw, encode, hid, name};

use super::{AcpiError, PciSegment};

/// Devices on a segment's bus.
const SLOTS: u32 = 32;
/// The first of the lines that INTx pins lead to.
const FIRST_INTX_GSI: u32 = 5;
const INTX_LINES: u32 = 8;

/// The root bridge of a segment.
pub(super) fn root(segment: &PciSegment) -> Result<Vec<u8>, AcpiError> {
    let path = format!("_SB_.PC{:02X}", segment.number);
    let resources = Raw(resources(segment)?);
    Ok(aml::device(
        &path,
        vec![
            &hid("PNP0A08"),
            &name("_CID", &EISAName::new("PNP0A03")),
            &name("_SEG", &segment.number),
            &name("_UID", &segment.number),
            &name("_CCA", &ONE),
            &name("SUPP", &ZERO),
            &name("_PXM", &segment.node),
            &Raw(functions()),
            &name("_CRS", &resources),
            &name("_PRT", &routes()),
        ],
    ))
}

/// `_DSM` says that the BARs and windows which the guest finds are good, so that it keeps them (function 5).
fn functions() -> Vec<u8> {
    const PRESERVE_BOOT_CONFIG: u8 = 5;
    const SUPPORTED: u8 = 1 << PRESERVE_BOOT_CONFIG | 1;
    let uuid = Uuid::new("E5C937D0-3553-4D7A-9117-EA4D19C3434D");
    let (supported, nothing) = (BufferData::new(vec![SUPPORTED]), BufferData::new(vec![0]));
    let (ours, query, preserve) =
        (Equal::new(&Arg(0), &uuid), Equal::new(&Arg(2), &ZERO), Equal::new(&Arg(2), &PRESERVE_BOOT_CONFIG));
    let (answer_query, answer_preserve) = (Return::new(&supported), Return::new(&ZERO));
    let (query, preserve) =
        (If::new(&query, vec![&answer_query]), If::new(&preserve, vec![&answer_preserve]));
    let ours = If::new(&ours, vec![&query, &preserve]);
    let otherwise = Return::new(&nothing);
    encode(&Method::new(Path::new("_DSM"), 4, true, vec![&ours, &otherwise]))
}

fn resources(segment: &PciSegment) -> Result<Vec<u8>, AcpiError> {
    let bus = AddressSpace::new_bus_number(0u16, 0);
    let config_ports = IO::new(0xcf8, 0xcf8, 1, 8);
    let ports = [AddressSpace::new_io(0u16, 0xcf7, None), AddressSpace::new_io(0xd00u16, 0xffff, None)];
    let mut list: Vec<&dyn Aml> = vec![&bus];
    if segment.number == 0 {
        list.push(&config_ports);
        list.extend(ports.iter().map(|range| range as &dyn Aml));
    }
    let (start32, end32) = (*segment.window32.start(), *segment.window32.end());
    let (start64, end64) = (*segment.window64.start(), *segment.window64.end());
    // The length of such a window does not fit its field.
    if (start32, end32) == (0, u32::MAX) || (start64, end64) == (0, u64::MAX) {
        return Err(AcpiError::Window(segment.number));
    }
    const KIND: AddressSpaceCacheable = AddressSpaceCacheable::NotCacheable;
    let window32 = AddressSpace::new_memory(KIND, true, start32, end32, None);
    let window64 = AddressSpace::new_memory(KIND, true, start64, end64, None);
    if !segment.window32.is_empty() {
        list.push(&window32);
    }
    if !segment.window64.is_empty() {
        list.push(&window64);
    }
    Ok(encode(&ResourceTemplate::new(list)))
}

/// `_PRT`: pin A of each slot leads to one of eight lines.
fn routes() -> PackageBuilder {
    const ALL_FUNCTIONS: u32 = 0xffff;
    let mut routes = PackageBuilder::new();
    for slot in 0..SLOTS {
        let mut route = PackageBuilder::new();
        route.add_element(&(slot << 16 | ALL_FUNCTIONS));
        route.add_element(&ZERO);
        route.add_element(&ZERO);
        route.add_element(&(FIRST_INTX_GSI + slot % INTX_LINES));
        routes.add_element(&route);
    }
    routes
}

//! The ACPI tables that describe the machine (ACPI 6.3, `spec/devices.md` §4), one after the other from 0xa0000:
//!
//! ```text
//!  RSDP | DSDT | FACP | APIC | MCFG | SRAT | SLIT | XSDT          SRAT and SLIT with NUMA nodes only
//! ```

mod dsdt;
mod fixed;
mod numa;
mod pci;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;

use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use device::aml::encode;
use memory::{Bytes, GuestAddress, GuestMemoryError, GuestRam, layout};
use thiserror::Error;

pub use numa::{NodeMemory, NumaNode};

/// Bytes for all tables.
const ROOM: u64 = layout::GENERATION - layout::RSDP;

const OEM: [u8; 6] = *b"CLOUDH";

/// What the tables tell of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// All possible vCPUs; the index is the ACPI processor UID.
    pub cpus: Vec<Cpu>,
    /// PCI segments.
    pub segments: Vec<PciSegment>,
    /// NUMA nodes, by number; none if the guest is not told of any.
    pub nodes: Vec<NumaNode>,
    /// Whether ports of ACPI's fixed hardware are named, where nothing answers: Hyper-V in a guest of Hyper-V wants to be told.
    pub pm1_ports: bool,
    /// What the machine's devices bring, in AML.
    pub devices: Vec<u8>,
}

/// A possible vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its local APIC's id.
    pub apic_id: u32,
    /// Whether it is there at boot; if not, it may come later.
    pub enabled: bool,
}

/// A PCI segment with its one bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciSegment {
    /// Its number, 0 to 255.
    pub number: u8,
    /// The NUMA node that it is in; 0 if there are none.
    pub node: u8,
    /// Where its 32-bit BARs may lie; no window if empty.
    pub window32: RangeInclusive<u32>,
    /// Where its 64-bit BARs may lie; no window if empty.
    pub window64: RangeInclusive<u64>,
}

/// Why the tables could not be written.
#[derive(Debug, Error)]
pub enum AcpiError {
    /// They would run into the VM generation ID.
    #[error("The ACPI tables need {0:#x} bytes, and there is room for {ROOM:#x}")]
    TooLarge(u64),
    /// A window of a segment cannot be described.
    #[error("A PCI window of segment {0} covers the whole address space")]
    Window(u8),
    /// RAM cannot be written.
    #[error("Cannot write the ACPI tables")]
    Ram(#[source] GuestMemoryError),
}

/// Writes the tables.
///
/// # Errors
/// [`AcpiError`].
pub fn write(ram: &GuestRam, tables: &Tables) -> Result<(), AcpiError> {
    let bytes = build(tables)?;
    let size = bytes.len() as u64;
    if size > ROOM {
        return Err(AcpiError::TooLarge(size));
    }
    ram.map().write_slice(&bytes, GuestAddress(layout::RSDP)).map_err(AcpiError::Ram)
}

fn build(tables: &Tables) -> Result<Vec<u8>, AcpiError> {
    let mut bytes = vec![0; Rsdp::len()];
    let mut add = |table: &[u8]| {
        let address = layout::RSDP + bytes.len() as u64;
        bytes.extend_from_slice(table);
        address
    };
    let dsdt = add(&dsdt::build(tables)?);
    let mut listed = vec![
        add(&fixed::facp(dsdt, tables.pm1_ports)),
        add(&fixed::madt(&tables.cpus)),
        add(&fixed::mcfg(&tables.segments)),
    ];
    if !tables.nodes.is_empty() {
        listed.extend([add(&numa::srat(&tables.nodes)), add(&numa::slit(&tables.nodes))]);
    }
    let addresses: Vec<_> = listed.iter().flat_map(|address| address.to_le_bytes()).collect();
    let xsdt = add(&table(*b"XSDT", 1, *b"CHXSDT  ", &addresses));
    let rsdp = encode(&Rsdp::new(OEM, xsdt));
    bytes.splice(..rsdp.len(), rsdp);
    Ok(bytes)
}

/// A table of `body` after the common header.
fn table(signature: [u8; 4], revision: u8, id: [u8; 8], body: &[u8]) -> Vec<u8> {
    const HEADER: u32 = 36;
    let mut sdt = Sdt::new(signature, HEADER, revision, OEM, id, 1);
    sdt.append_slice(body);
    sdt.as_slice().to_vec()
}

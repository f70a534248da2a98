//! The tables of fixed form: FADT, MADT and MCFG.

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use chipset::acpi::{PmTimer, SleepControl, madt_entry};
use chipset::serial::Serial;
use device::aml::encode;
use memory::layout;

use super::{Cpu, OEM, PciSegment, table};

/// Ports that are kept free, so that nothing answers there.
const PM1_EVENT: u16 = 0x60c;
const PM1_CONTROL: u16 = 0x610;

/// The FADT of a machine without ACPI's fixed hardware but for the PM timer, revision 6.3.
pub(super) fn facp(dsdt: u64, pm1_ports: bool) -> Vec<u8> {
    const MINOR: u8 = 3;
    const VENDOR: u64 = u64::from_le_bytes(*b"CLOUDHYP");
    let port = |bits, access, address| GAS::new(AddressSpace::SystemIo, bits, 0, access, address);
    let byte = port(8, AccessSize::ByteAccess, SleepControl::PORT.into());
    let mut facp = FADTBuilder::new(OEM, *b"CHFACP  ", 1)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::TmrValExt);
    facp.fadt_minor_version = MINOR;
    facp.reset_reg = byte;
    facp.reset_value = SleepControl::RESET;
    facp.sleep_control_reg = byte;
    facp.sleep_status_reg = byte;
    facp.pm_tmr_blk = u32::from(PmTimer::PORT).into();
    facp.pm_tmr_len = PmTimer::SIZE;
    facp.x_pm_tmr_blk = port(32, AccessSize::DwordAccess, PmTimer::PORT.into());
    if pm1_ports {
        (facp.pm1a_evt_blk, facp.pm1_evt_len) = (u32::from(PM1_EVENT).into(), 4);
        (facp.pm1a_cnt_blk, facp.pm1_cnt_len) = (u32::from(PM1_CONTROL).into(), 2);
        facp.x_pm1a_evt_blk = port(32, AccessSize::WordAccess, PM1_EVENT.into());
        facp.x_pm1a_cnt_blk = port(16, AccessSize::WordAccess, PM1_CONTROL.into());
    }
    facp.hypervisor_vendor_identity = VENDOR.into();
    encode(&facp.finalize())
}

/// The MADT: who takes interrupts. There is no 8259, so no legacy flag.
pub(super) fn madt(cpus: &[Cpu]) -> Vec<u8> {
    const LOCAL_APIC: u32 = 0xfee0_0000;
    const IO_APIC: u8 = 1;
    const OVERRIDE: u8 = 2;
    const ENABLED: u32 = 1;
    const ONLINE_CAPABLE: u32 = 2;
    let mut body = Vec::with_capacity(40 + 16 * cpus.len());
    body.extend(LOCAL_APIC.to_le_bytes());
    body.extend([0; 4]);
    for (uid, cpu) in (0u32..).zip(cpus) {
        let flags = if cpu.enabled { ENABLED } else { ONLINE_CAPABLE };
        body.extend(madt_entry(cpu.apic_id, flags, uid));
    }
    body.extend([IO_APIC, 12, 0, 0]);
    body.extend((layout::IOAPIC as u32).to_le_bytes());
    body.extend(0u32.to_le_bytes());
    body.extend([OVERRIDE, 10, 0, Serial::PIN]);
    body.extend(u32::from(Serial::PIN).to_le_bytes());
    // Polarity and trigger as usual for ISA: active high, edge.
    body.extend([0; 2]);
    table(*b"APIC", 5, *b"CHMADT  ", &body)
}

/// The MCFG: where each segment's configuration space is.
pub(super) fn mcfg(segments: &[PciSegment]) -> Vec<u8> {
    let mut body = vec![0; 8];
    for segment in segments {
        body.extend(ecam(segment).to_le_bytes());
        body.extend(u16::from(segment.number).to_le_bytes());
        // Bus 0 to bus 0, and four reserved bytes.
        body.extend([0; 6]);
    }
    table(*b"MCFG", 1, *b"CHMCFG  ", &body)
}

/// Where a segment's configuration space is.
pub(super) fn ecam(segment: &PciSegment) -> u64 {
    layout::ECAM + u64::from(segment.number) * layout::ECAM_SEGMENT
}

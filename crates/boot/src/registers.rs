//! The first vCPU's registers when the kernel takes over: 32-bit protected mode with flat segments, paging off, interrupts off
//! (Xen's x86/HVM direct boot ABI; Linux's 32-bit boot protocol).

use hv::{DescriptorTable, Registers, Segment, SystemRegisters};
use memory::{Bytes, GuestAddress, GuestMemoryError, GuestRam};

use crate::kernel::{Loaded, Protocol};
use crate::low_memory::{GDT, IDT, STACK_POINTER, START_INFO, ZERO_PAGE};

/// A busy 32-bit task state segment; nobody switches tasks, but VMX wants one.
const TASK: Segment = Segment { selector: 0x08, base: 0, limit: 0x67, attributes: 0x008b };
/// Selectors 0x10 and 0x18 are what Linux's protocol prescribes; PVH leaves them open.
const CODE: Segment = Segment { selector: 0x10, base: 0, limit: u32::MAX, attributes: 0xc09b };
const DATA: Segment = Segment { selector: 0x18, base: 0, limit: u32::MAX, attributes: 0xc093 };

/// Writes the descriptor table to RAM and returns the state in which the first vCPU enters the kernel. `fresh` is its state after
/// reset; what the protocols leave open stays as it is there. `last_apic_id` is the highest that a vCPU of the machine may come to have:
/// beyond 254 the local APIC is in x2APIC mode.
///
/// # Errors
/// RAM at 0x500 cannot be written.
pub fn enter(
    ram: &GuestRam,
    loaded: &Loaded,
    fresh: &SystemRegisters,
    last_apic_id: u32,
) -> Result<(Registers, SystemRegisters), GuestMemoryError> {
    let gdt = [0, descriptor(TASK), descriptor(CODE), descriptor(DATA)];
    ram.map().write_obj(gdt, GuestAddress(GDT))?;
    ram.map().write_obj(0u64, GuestAddress(IDT))?;
    Ok((general(loaded), SystemRegisters { apic_base: apic_base(fresh, last_apic_id), ..system(fresh) }))
}

/// MSRs every vCPU starts with: memory is write-back by default, and fast string operations are on.
#[must_use]
pub fn boot_msrs() -> [(u32, u64); 2] {
    const MISC_ENABLE: u32 = 0x1a0;
    const FAST_STRING: u64 = 1;
    const MTRR_DEF_TYPE: u32 = 0x2ff;
    const MTRR_ENABLE: u64 = 1 << 11;
    const WRITE_BACK: u64 = 6;
    [(MISC_ENABLE, FAST_STRING), (MTRR_DEF_TYPE, MTRR_ENABLE | WRITE_BACK)]
}

fn general(loaded: &Loaded) -> Registers {
    const ALWAYS_SET: u64 = 1 << 1;
    let common =
        Registers { rip: loaded.entry.into(), rflags: ALWAYS_SET, rsp: STACK_POINTER, ..Default::default() };
    match loaded.protocol {
        Protocol::Pvh => Registers { rbx: START_INFO, ..common },
        Protocol::Linux => Registers { rsi: ZERO_PAGE, ..common },
    }
}

fn system(fresh: &SystemRegisters) -> SystemRegisters {
    const PROTECTED: u64 = 1;
    const EXTENSION_TYPE: u64 = 1 << 4;
    SystemRegisters {
        cs: CODE,
        ds: DATA,
        es: DATA,
        fs: DATA,
        gs: DATA,
        ss: DATA,
        tr: TASK,
        gdt: DescriptorTable { base: GDT, limit: 4 * 8 - 1 },
        idt: DescriptorTable { base: IDT, limit: 8 - 1 },
        cr0: PROTECTED | EXTENSION_TYPE,
        cr3: 0,
        cr4: 0,
        efer: 0,
        ..*fresh
    }
}

/// Ids of more than a byte exist in x2APIC mode only (255 addresses everybody). Switching it on is firmware's work: Linux leaves out the
/// CPUs that it could not address in the mode that it finds.
fn apic_base(fresh: &SystemRegisters, last_apic_id: u32) -> u64 {
    const X2APIC: u64 = 1 << 10;
    if last_apic_id > 254 { fresh.apic_base | X2APIC } else { fresh.apic_base }
}

/// A segment as the table holds it (Intel SDM volume 3, 3.4.5).
fn descriptor(segment: Segment) -> u64 {
    const GRANULARITY: u32 = 1 << 15;
    let pages = segment.attributes & GRANULARITY != 0;
    let limit = u64::from(if pages { segment.limit >> 12 } else { segment.limit });
    let attributes = u64::from(segment.attributes & 0xf0ff);
    limit & 0xffff
        | (segment.base & 0xff_ffff) << 16
        | attributes << 40
        | (limit >> 16 & 0xf) << 48
        | (segment.base >> 24 & 0xff) << 56
}

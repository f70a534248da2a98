//! An x86 CPU's state in neutral terms, so that what one back end saves another can load.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::TscReading;

/// General registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

/// A segment register with its hidden part. `attributes` are bits 40 to 55 of its descriptor (type, S, DPL, P, limit, AVL, L, D, G; the
/// limit bits are zero); bit 16 says the segment is unusable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Segment {
    pub selector: u16,
    pub base: u64,
    /// In bytes, after granularity.
    pub limit: u32,
    pub attributes: u32,
}

impl Segment {
    /// [`Segment::attributes`]: the segment must not be used.
    pub const UNUSABLE: u32 = 1 << 16;
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct DescriptorTable {
    pub base: u64,
    pub limit: u16,
}

/// Segments, control registers and tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct SystemRegisters {
    pub cs: Segment,
    pub ds: Segment,
    pub es: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ss: Segment,
    pub tr: Segment,
    pub ldt: Segment,
    pub gdt: DescriptorTable,
    pub idt: DescriptorTable,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub cr8: u64,
    pub efer: u64,
    pub apic_base: u64,
}

/// DR0 to DR3, DR6 and DR7.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct DebugRegisters {
    pub db: [u64; 4],
    pub dr6: u64,
    pub dr7: u64,
}

/// An exception under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    /// 0 to 31.
    pub vector: u8,
    /// What delivery pushes, for exceptions that push one.
    pub error_code: Option<u32>,
    /// How far it has come.
    pub stage: ExceptionStage,
}

/// How far an exception has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExceptionStage {
    /// It is being delivered, and what it leaves in CR2 or DR6 is there.
    Injected,
    /// It has been recognised, and a nested hypervisor may still take it. Delivery puts `payload` into CR2 (page fault) or DR6 (debug
    /// exception); `None`: it is there already, or the exception has none.
    #[allow(missing_docs, reason = "said above")]
    Pending { payload: Option<u64> },
}

/// Events that were under way when the CPU stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PendingEvents {
    pub exception: Option<Exception>,
    /// An interrupt being delivered, and whether it is a software one.
    pub interrupt: Option<(u8, bool)>,
    /// The last instruction was STI: interrupts wait for the next one.
    pub sti_shadow: bool,
    /// The last instruction loaded SS: interrupts and debug exceptions wait for the next one.
    pub mov_ss_shadow: bool,
    pub nmi_injected: bool,
    /// Non-maskable interrupts that wait: one more may come while one waits.
    pub nmi_pending: u8,
    pub nmi_masked: bool,
    /// Where a start-up IPI that has come starts the CPU, in pages; `None`: none has, or the CPU has taken it.
    pub sipi_vector: Option<u8>,
    pub smm: bool,
    pub smi_pending: bool,
    pub smm_inside_nmi: bool,
    pub smi_latched_init: bool,
    pub triple_fault: bool,
}

/// What the CPU is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunState {
    /// Executing.
    #[default]
    Running,
    /// In HLT.
    Halted,
    /// Never started: waits for INIT.
    Uninitialized,
    /// After INIT: waits for a start-up IPI.
    InitReceived,
    /// Took a start-up IPI.
    SipiReceived,
}

/// Everything a guest can see of one CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct CpuState {
    pub registers: Registers,
    pub system: SystemRegisters,
    pub debug: DebugRegisters,
    /// The XSAVE area in its standard format, 4 KiB or more.
    pub xsave: Vec<u8>,
    /// Extended control registers by number.
    pub xcr: BTreeMap<u32, u64>,
    /// Model-specific registers by number. The time stamp counter is among them only if `tsc` is not known.
    pub msr: BTreeMap<u32, u64>,
    /// The local APIC's register page, 1 KiB.
    pub lapic: Vec<u8>,
    pub events: PendingEvents,
    pub run_state: RunState,
    /// `None`: the counter goes at the host's rate, from what `msr` says.
    pub tsc: Option<TscReading>,
    /// What the hypervisor keeps of a hypervisor inside the guest and of the guest that it runs, in the back end's own form: no two back ends
    /// have it in common. `None`: nothing.
    pub nested: Option<Vec<u8>>,
}

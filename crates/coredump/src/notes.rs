//! The notes: what debuggers learn of the CPUs.
//!
//! `CORE`, `NT_PRSTATUS` is what Linux writes of a thread (`struct elf_prstatus`): for `gdb` a vCPU is one. `QEMU`, type 0, has the registers
//! that only a kernel sees; `crash` finds a kernel that moved itself (KASLR) by its IDT and CR3. Its layout is QEMU's, version 1.

use std::collections::BTreeMap;

use hv::{CpuState, DescriptorTable, Registers, Segment};
use object::LittleEndian as LE;
use object::U32;
use object::elf::{NT_PRSTATUS, NoteHeader64, NoteType};
use object::pod::bytes_of;

/// `MSR_KERNEL_GS_BASE`, the base that SWAPGS exchanges.
const KERNEL_GS_BASE: u32 = 0xc000_0102;

/// The notes of all CPUs, by number.
pub(crate) fn all(cpus: &BTreeMap<u32, CpuState>) -> Vec<u8> {
    let threads = cpus.iter().flat_map(|(number, cpu)| note(b"CORE\0", NT_PRSTATUS, &status(*number, cpu)));
    let systems = cpus.values().flat_map(|cpu| note(b"QEMU\0", NoteType(0), &system(cpu)));
    threads.chain(systems).collect()
}

/// Name and descriptor are each followed by zeroes up to a multiple of four.
fn note(name: &[u8], kind: NoteType, descriptor: &[u8]) -> Vec<u8> {
    let header = NoteHeader64 {
        n_namesz: U32::new(LE, name.len() as u32),
        n_descsz: U32::new(LE, descriptor.len() as u32),
        n_type: U32::new(LE, kind),
    };
    let mut bytes = bytes_of(&header).to_vec();
    for part in [name, descriptor] {
        bytes.extend_from_slice(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// `struct elf_prstatus` of x86-64: signals, process ids, times, registers.
fn status(number: u32, cpu: &CpuState) -> Vec<u8> {
    const THREAD_ID: usize = 32;
    const REGISTERS: usize = 112;
    const LEN: usize = 336;
    let mut bytes = vec![0; THREAD_ID];
    // Debuggers take a thread 0 for none.
    bytes.extend(number.saturating_add(1).to_le_bytes());
    bytes.resize(REGISTERS, 0);
    let &Registers { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, .. } = &cpu.registers;
    let &Registers { r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags, .. } = &cpu.registers;
    let s = &cpu.system;
    let selector = |segment: &Segment| u64::from(segment.selector);
    // `struct user_regs_struct`; the one between RDI and RIP is the number of a system call.
    let registers = [
        [r15, r14, r13, r12, rbp, rbx, r11, r10, r9],
        [r8, rax, rcx, rdx, rsi, rdi, u64::MAX, rip, selector(&s.cs)],
        [
            rflags,
            rsp,
            selector(&s.ss),
            s.fs.base,
            s.gs.base,
            selector(&s.ds),
            selector(&s.es),
            selector(&s.fs),
            selector(&s.gs),
        ],
    ];
    bytes.extend(registers.as_flattened().iter().flat_map(|value| value.to_le_bytes()));
    bytes.resize(LEN, 0);
    bytes
}

/// `QEMUCPUState`, version 1.
fn system(cpu: &CpuState) -> Vec<u8> {
    const VERSION: u32 = 1;
    const LEN: u32 = 440;
    let &Registers { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, .. } = &cpu.registers;
    let &Registers { r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags, .. } = &cpu.registers;
    let s = &cpu.system;
    let mut bytes = [VERSION, LEN].map(u32::to_le_bytes).concat();
    let mut words = |words: &[u64]| bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    words(&[rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags]);
    for segment in [&s.cs, &s.ds, &s.es, &s.fs, &s.gs, &s.ss, &s.ldt, &s.tr] {
        words(&segment_words(segment));
    }
    for table in [&s.gdt, &s.idt] {
        words(&table_words(table));
    }
    // There is no CR1.
    words(&[s.cr0, 0, s.cr2, s.cr3, s.cr4]);
    words(&[cpu.msr.get(&KERNEL_GS_BASE).copied().unwrap_or_default()]);
    bytes
}

/// Selector and limit, flags, base. The flags stand where they stand in the second word of a descriptor.
fn segment_words(segment: &Segment) -> [u64; 3] {
    const ATTRIBUTES: u32 = 0xf0ff;
    let flags = (segment.attributes & ATTRIBUTES) << 8;
    [u64::from(segment.selector) | u64::from(segment.limit) << 32, u64::from(flags), segment.base]
}

fn table_words(table: &DescriptorTable) -> [u64; 3] {
    segment_words(&Segment { base: table.base, limit: u32::from(table.limit), ..Segment::default() })
}

//! CPU state between KVM's structures and the neutral form.

mod events;
pub(crate) mod msrs;
mod nested;
mod xsave;

use std::io::ErrorKind;

use hv::{CpuState, DebugRegisters, DescriptorTable, Error, Registers, RunState, Segment, SystemRegisters};
use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_SIPI_RECEIVED,
    KVM_MP_STATE_UNINITIALIZED, kvm_debugregs, kvm_dtable, kvm_lapic_state, kvm_mp_state, kvm_regs,
    kvm_segment, kvm_sregs, kvm_xcrs,
};
use kvm_ioctls::VcpuFd;

use crate::tsc::{self, Counters};

pub(crate) use events::EventAbilities;
pub(crate) use xsave::AreaSize;

/// What the vCPUs of one machine have in common, as far as their states go.
#[derive(Debug)]
pub(crate) struct Common {
    /// The MSRs of a state.
    pub(crate) msrs: Vec<u32>,
    pub(crate) events: EventAbilities,
    pub(crate) xsave: AreaSize,
    pub(crate) counters: Counters,
}

type Result<T> = std::result::Result<T, Error>;

fn get<T>(what: &'static str, result: std::result::Result<T, kvm_ioctls::Error>) -> Result<T> {
    result.map_err(|e| Error::operation(what, e))
}

pub(crate) fn read_state(fd: &VcpuFd, common: &Common) -> Result<CpuState> {
    // Reading the run state lets KVM act on pending INIT and start-up IPIs first, so it comes before all else.
    let run_state = run_state(get("read a vCPU's run state", fd.get_mp_state())?.mp_state);
    let debug = get("read a vCPU's debug registers", fd.get_debug_regs())?;
    let xcrs = get("read a vCPU's XCRs", fd.get_xcrs())?;
    let xcr = xcrs.xcrs.iter().take(xcrs.nr_xcrs as usize).map(|x| (x.xcr, x.value)).collect();
    let mut msr = msrs::read(fd, &common.msrs)?;
    let tsc = tsc::read(fd);
    if tsc.is_some() {
        msr.remove(&tsc::MSR);
    }
    Ok(CpuState {
        registers: registers(&get("read a vCPU's registers", fd.get_regs())?),
        system: read_system(fd)?,
        debug: DebugRegisters { db: debug.db, dr6: debug.dr6, dr7: debug.dr7 },
        xsave: xsave::read(fd, common.xsave)?,
        xcr,
        msr,
        lapic: get("read a vCPU's local APIC", fd.get_lapic())?
            .regs
            .iter()
            .map(|r| r.cast_unsigned())
            .collect(),
        events: events::from_kvm(&get("read a vCPU's events", fd.get_vcpu_events())?),
        run_state,
        tsc,
        nested: nested::read(fd)?,
    })
}

/// Puts `state` in. The order matters, because KVM acts on what it gets:
/// * System registers say what CPU it is: whether the local APIC is in x2APIC mode, whether there may be a guest's guest at all.
/// * What a guest's hypervisor can do (some MSRs) can be set only while none is in operation, and which of the two register sets later calls
///   reach depends on whether the guest's guest runs.
/// * The time stamp counter comes before the MSRs, of which one is the count that the local APIC's timer waits for; and the local APIC,
///   whose registers say that it does, before both.
/// * Events come last: others clear some.
pub(crate) fn write_state(fd: &VcpuFd, state: &CpuState, common: &Common) -> Result<()> {
    // Before anything is changed.
    let events = events::to_kvm(&state.events, common.events)?;
    let (xcrs, lapic) = (kvm_xcrs_from(state)?, kvm_lapic(&state.lapic)?);
    let xsave = xsave::to_kvm(&state.xsave, common.xsave)?;
    let nested = state.nested.as_deref().map(nested::to_kvm).transpose()?;
    let debug = kvm_debugregs {
        db: state.debug.db,
        dr6: state.debug.dr6,
        dr7: state.debug.dr7,
        ..kvm_debugregs::default()
    };
    let comes_early = |number: u32| msrs::BEFORE_NESTED.iter().any(|range| range.contains(&number));
    let (early, late): (Vec<_>, Vec<_>) = state
        .msr
        .iter()
        .map(|(number, value)| (*number, *value))
        .partition(|(number, _)| comes_early(*number));

    write_system(fd, &state.system)?;
    msrs::write(fd, early)?;
    if let Some(nested) = &nested {
        nested::write(fd, nested)?;
    }
    write_general(fd, &state.registers)?;
    get("set a vCPU's XCRs", fd.set_xcrs(&xcrs))?;
    xsave::write(fd, &xsave)?;
    get("set a vCPU's local APIC", fd.set_lapic(&lapic))?;
    match &state.tsc {
        Some(saved) => common.counters.go_on(fd, saved)?,
        None => common.counters.join(fd)?,
    }
    msrs::write(fd, late)?;
    get("set a vCPU's debug registers", fd.set_debug_regs(&debug))?;
    let mp_state = kvm_mp_state { mp_state: kvm_run_state(state.run_state) };
    get("set a vCPU's run state", fd.set_mp_state(mp_state))?;
    get("set a vCPU's events", fd.set_vcpu_events(&events))
}

fn kvm_xcrs_from(state: &CpuState) -> Result<kvm_xcrs> {
    let mut xcrs = kvm_xcrs { nr_xcrs: state.xcr.len() as u32, ..kvm_xcrs::default() };
    if state.xcr.len() > xcrs.xcrs.len() {
        return Err(Error::operation("put so many XCRs into a vCPU", ErrorKind::InvalidData));
    }
    for (slot, (number, value)) in xcrs.xcrs.iter_mut().zip(&state.xcr) {
        (slot.xcr, slot.value) = (*number, *value);
    }
    Ok(xcrs)
}

fn kvm_lapic(saved: &[u8]) -> Result<kvm_lapic_state> {
    let mut lapic = kvm_lapic_state::default();
    if saved.len() != lapic.regs.len() {
        let what = "put in a local APIC's registers: they have another size than 1 KiB";
        return Err(Error::operation(what, ErrorKind::InvalidData));
    }
    for (register, byte) in lapic.regs.iter_mut().zip(saved) {
        *register = byte.cast_signed();
    }
    Ok(lapic)
}

pub(crate) fn read_system(fd: &VcpuFd) -> Result<SystemRegisters> {
    let s = get("read a vCPU's system registers", fd.get_sregs())?;
    let table = |t: &kvm_dtable| DescriptorTable { base: t.base, limit: t.limit };
    Ok(SystemRegisters {
        cs: segment(&s.cs),
        ds: segment(&s.ds),
        es: segment(&s.es),
        fs: segment(&s.fs),
        gs: segment(&s.gs),
        ss: segment(&s.ss),
        tr: segment(&s.tr),
        ldt: segment(&s.ldt),
        gdt: table(&s.gdt),
        idt: table(&s.idt),
        cr0: s.cr0,
        cr2: s.cr2,
        cr3: s.cr3,
        cr4: s.cr4,
        cr8: s.cr8,
        efer: s.efer,
        apic_base: s.apic_base,
    })
}

pub(crate) fn write_registers(fd: &VcpuFd, registers: &Registers, system: &SystemRegisters) -> Result<()> {
    write_system(fd, system)?;
    write_general(fd, registers)
}

pub(crate) fn write_general(fd: &VcpuFd, registers: &Registers) -> Result<()> {
    get("set a vCPU's registers", fd.set_regs(&kvm_regs_from(registers)))
}

fn write_system(fd: &VcpuFd, s: &SystemRegisters) -> Result<()> {
    let table = |t: &DescriptorTable| kvm_dtable { base: t.base, limit: t.limit, ..kvm_dtable::default() };
    let system = kvm_sregs {
        cs: kvm_seg(&s.cs),
        ds: kvm_seg(&s.ds),
        es: kvm_seg(&s.es),
        fs: kvm_seg(&s.fs),
        gs: kvm_seg(&s.gs),
        ss: kvm_seg(&s.ss),
        tr: kvm_seg(&s.tr),
        ldt: kvm_seg(&s.ldt),
        gdt: table(&s.gdt),
        idt: table(&s.idt),
        cr0: s.cr0,
        cr2: s.cr2,
        cr3: s.cr3,
        cr4: s.cr4,
        cr8: s.cr8,
        efer: s.efer,
        apic_base: s.apic_base,
        interrupt_bitmap: [0; 4],
    };
    get("set a vCPU's system registers", fd.set_sregs(&system))
}

fn registers(r: &kvm_regs) -> Registers {
    let &kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip,
        rflags,
    } = r;
    Registers { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
}

fn kvm_regs_from(r: &Registers) -> kvm_regs {
    let &Registers {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip,
        rflags,
    } = r;
    kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
}

fn segment(s: &kvm_segment) -> Segment {
    let bit = |value: u8, at: u32| u32::from(value & 1) << at;
    let attributes = u32::from(s.type_ & 15)
        | bit(s.s, 4)
        | u32::from(s.dpl & 3) << 5
        | bit(s.present, 7)
        | bit(s.avl, 12)
        | bit(s.l, 13)
        | bit(s.db, 14)
        | bit(s.g, 15)
        | bit(s.unusable, 16);
    Segment { selector: s.selector, base: s.base, limit: s.limit, attributes }
}

fn kvm_seg(s: &Segment) -> kvm_segment {
    let bit = |at: u32| (s.attributes >> at & 1) as u8;
    kvm_segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        type_: (s.attributes & 15) as u8,
        s: bit(4),
        dpl: (s.attributes >> 5 & 3) as u8,
        present: bit(7),
        avl: bit(12),
        l: bit(13),
        db: bit(14),
        g: bit(15),
        unusable: bit(16),
        padding: 0,
    }
}

fn run_state(state: u32) -> RunState {
    match state {
        KVM_MP_STATE_HALTED => RunState::Halted,
        KVM_MP_STATE_UNINITIALIZED => RunState::Uninitialized,
        KVM_MP_STATE_INIT_RECEIVED => RunState::InitReceived,
        KVM_MP_STATE_SIPI_RECEIVED => RunState::SipiReceived,
        _ => RunState::Running,
    }
}

fn kvm_run_state(state: RunState) -> u32 {
    match state {
        RunState::Running => KVM_MP_STATE_RUNNABLE,
        RunState::Halted => KVM_MP_STATE_HALTED,
        RunState::Uninitialized => KVM_MP_STATE_UNINITIALIZED,
        RunState::InitReceived => KVM_MP_STATE_INIT_RECEIVED,
        RunState::SipiReceived => KVM_MP_STATE_SIPI_RECEIVED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_go_round() {
        let code = Segment { selector: 8, base: 0x1000, limit: u32::MAX, attributes: 0xc09b };
        assert_eq!(segment(&kvm_seg(&code)), code);
        let unusable = Segment { attributes: Segment::UNUSABLE, ..Segment::default() };
        assert_eq!(segment(&kvm_seg(&unusable)), unusable);
    }

    #[test]
    fn run_states_go_round() {
        for state in [RunState::Running, RunState::Halted, RunState::Uninitialized, RunState::SipiReceived] {
            assert_eq!(run_state(kvm_run_state(state)), state);
        }
    }
}

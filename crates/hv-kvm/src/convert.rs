//! CPU state between KVM's structures and the neutral form.

mod events;

use std::collections::BTreeMap;

use hv::{CpuState, DebugRegisters, DescriptorTable, Error, Registers, RunState, Segment, SystemRegisters};
use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_SIPI_RECEIVED,
    KVM_MP_STATE_UNINITIALIZED, Msrs, kvm_debugregs, kvm_dtable, kvm_lapic_state, kvm_mp_state,
    kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;

pub(crate) use events::EventAbilities;

type Result<T> = std::result::Result<T, Error>;

fn get<T>(what: &'static str, result: std::result::Result<T, kvm_ioctls::Error>) -> Result<T> {
    result.map_err(|e| Error::operation(what, e))
}

pub(crate) fn read_state(fd: &VcpuFd, msrs: &[u32]) -> Result<CpuState> {
    // Reading the run state lets KVM act on pending INIT and start-up IPIs first, so it comes before all else.
    let run_state = run_state(get("read a vCPU's run state", fd.get_mp_state())?.mp_state);
    let debug = get("read a vCPU's debug registers", fd.get_debug_regs())?;
    let xcrs = get("read a vCPU's XCRs", fd.get_xcrs())?;
    let xcr = xcrs.xcrs.iter().take(xcrs.nr_xcrs as usize).map(|x| (x.xcr, x.value)).collect();
    Ok(CpuState {
        registers: registers(&get("read a vCPU's registers", fd.get_regs())?),
        system: read_system(fd)?,
        debug: DebugRegisters { db: debug.db, dr6: debug.dr6, dr7: debug.dr7 },
        xsave: words_to_bytes(&get("read a vCPU's XSAVE area", fd.get_xsave())?.region),
        xcr,
        msr: read_msrs(fd, msrs)?,
        lapic: get("read a vCPU's local APIC", fd.get_lapic())?
            .regs
            .iter()
            .map(|r| r.cast_unsigned())
            .collect(),
        events: events::from_kvm(&get("read a vCPU's events", fd.get_vcpu_events())?),
        run_state,
        tsc_khz: fd.get_tsc_khz().ok(),
    })
}

/// Puts `state` in. `able` says which events this machine's KVM takes.
pub(crate) fn write_state(fd: &VcpuFd, state: &CpuState, able: EventAbilities) -> Result<()> {
    // Before anything is changed.
    let events = events::to_kvm(&state.events, able)?;
    if let Some(khz) = state.tsc_khz {
        // A host that cannot scale keeps its own rate; it refuses only a rate too far off.
        get("set a vCPU's TSC rate", fd.set_tsc_khz(khz))?;
    }
    let mut xcrs = kvm_xcrs { nr_xcrs: state.xcr.len().min(16) as u32, ..kvm_xcrs::default() };
    for (slot, (number, value)) in xcrs.xcrs.iter_mut().zip(&state.xcr) {
        (slot.xcr, slot.value) = (*number, *value);
    }
    let mut xsave = kvm_xsave::default();
    bytes_to_words(&state.xsave, &mut xsave.region);
    let mut lapic = kvm_lapic_state::default();
    for (register, byte) in lapic.regs.iter_mut().zip(&state.lapic) {
        *register = byte.cast_signed();
    }
    let debug = kvm_debugregs {
        db: state.debug.db,
        dr6: state.debug.dr6,
        dr7: state.debug.dr7,
        ..kvm_debugregs::default()
    };
    write_registers(fd, &state.registers, &state.system)?;
    get("set a vCPU's XCRs", fd.set_xcrs(&xcrs))?;
    // SAFETY: the area has the 4 KiB this call reads, because no feature with a larger one is enabled for guests.
    get("set a vCPU's XSAVE area", unsafe { fd.set_xsave(&xsave) })?;
    get("set a vCPU's local APIC", fd.set_lapic(&lapic))?;
    write_msrs(fd, state.msr.iter().map(|(index, data)| (*index, *data)))?;
    get("set a vCPU's debug registers", fd.set_debug_regs(&debug))?;
    let mp_state = kvm_mp_state { mp_state: kvm_run_state(state.run_state) };
    get("set a vCPU's run state", fd.set_mp_state(mp_state))?;
    get("set a vCPU's events", fd.set_vcpu_events(&events))
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

pub(crate) fn write_registers(fd: &VcpuFd, registers: &Registers, s: &SystemRegisters) -> Result<()> {
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
    get("set a vCPU's system registers", fd.set_sregs(&system))?;
    get("set a vCPU's registers", fd.set_regs(&kvm_regs_from(registers)))
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

/// Reads those of the listed MSRs that this vCPU has.
fn read_msrs(fd: &VcpuFd, numbers: &[u32]) -> Result<BTreeMap<u32, u64>> {
    let mut values = BTreeMap::new();
    let mut rest = numbers;
    while !rest.is_empty() {
        let entries: Vec<_> =
            rest.iter().map(|index| kvm_msr_entry { index: *index, ..Default::default() }).collect();
        let mut batch = msr_batch(&entries)?;
        let read = get("read a vCPU's MSRs", fd.get_msrs(&mut batch))?;
        values.extend(batch.as_slice().iter().take(read).map(|entry| (entry.index, entry.data)));
        // KVM stops at the first MSR it does not have.
        rest = rest.get(read + 1..).unwrap_or_default();
    }
    Ok(values)
}

/// Sets MSRs, but for those that this vCPU does not have.
pub(crate) fn write_msrs(fd: &VcpuFd, values: impl Iterator<Item = (u32, u64)>) -> Result<()> {
    let entries: Vec<_> =
        values.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() }).collect();
    let mut rest = entries.as_slice();
    while !rest.is_empty() {
        let written = get("set a vCPU's MSRs", fd.set_msrs(&msr_batch(rest)?))?;
        if let Some(refused) = rest.get(written) {
            tracing::warn!("MSR {:#x} cannot be set to {:#x} here", refused.index, refused.data);
        }
        rest = rest.get(written + 1..).unwrap_or_default();
    }
    Ok(())
}

fn msr_batch(entries: &[kvm_msr_entry]) -> Result<Msrs> {
    Msrs::from_entries(entries)
        .map_err(|e| Error::operation("hold so many MSRs", std::io::Error::other(format!("{e:?}"))))
}

fn words_to_bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn bytes_to_words(bytes: &[u8], words: &mut [u32]) {
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
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

//! A vCPU's registers between our terms and gdb's.

use gdbstub_arch::x86::reg::id::X86_64CoreRegId;
use gdbstub_arch::x86::reg::{X86_64CoreRegs, X86SegmentRegs, X87FpuInternalRegs};
use hv::{CpuState, Registers, Segment};

/// RFLAGS above these bits are zero.
const EFLAGS: u64 = u32::MAX as u64;

/// What gdb shows.
pub(crate) fn shown(state: &CpuState) -> X86_64CoreRegs {
    let s = &state.system;
    let selector = |segment: &Segment| u32::from(segment.selector);
    let mut shown = X86_64CoreRegs {
        segments: X86SegmentRegs {
            cs: selector(&s.cs),
            ss: selector(&s.ss),
            ds: selector(&s.ds),
            es: selector(&s.es),
            fs: selector(&s.fs),
            gs: selector(&s.gs),
        },
        ..X86_64CoreRegs::default()
    };
    show_general(&mut shown, &state.registers);
    show_floating(&mut shown, &state.xsave);
    shown
}

fn show_general(shown: &mut X86_64CoreRegs, r: &Registers) {
    let first = [r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp];
    let last = [r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15];
    for (shown, value) in shown.regs.iter_mut().zip(first.into_iter().chain(last)) {
        *shown = value;
    }
    (shown.rip, shown.eflags) = (r.rip, (r.rflags & EFLAGS) as u32);
}

/// From the first 512 bytes of an XSAVE area, which are those of FXSAVE64 (Intel SDM volume 1, section 10.5.1).
fn show_floating(shown: &mut X86_64CoreRegs, xsave: &[u8]) {
    fn bytes<const N: usize>(xsave: &[u8], at: usize) -> [u8; N] {
        xsave.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
    }
    let word = |at| u32::from(u16::from_le_bytes(bytes(xsave, at)));
    let double = |at| u32::from_le_bytes(bytes(xsave, at));
    for (number, register) in shown.st.iter_mut().enumerate() {
        *register = bytes(xsave, 32 + 16 * number);
    }
    for (number, register) in shown.xmm.iter_mut().enumerate() {
        *register = u128::from_le_bytes(bytes(xsave, 160 + 16 * number));
    }
    shown.mxcsr = double(24);
    shown.fpu = X87FpuInternalRegs {
        fctrl: word(0),
        fstat: word(2),
        ftag: full_tags(xsave.get(4).copied().unwrap_or_default()),
        fiseg: word(12),
        fioff: double(8),
        foseg: word(20),
        fooff: double(16),
        fop: word(6),
    };
}

/// FXSAVE has a bit for each register that is in use, gdb two bits: 3 is empty. What kind of number it is gdb sees by itself.
fn full_tags(in_use: u8) -> u32 {
    (0..8).map(|number| if in_use >> number & 1 == 0 { 3 << (2 * number) } else { 0 }).sum()
}

/// The general registers as gdb wants them; `None`: it wants others changed as well, which cannot be.
pub(crate) fn changed(state: &CpuState, wanted: &X86_64CoreRegs) -> Option<Registers> {
    let mut only_general = shown(state);
    (only_general.regs, only_general.rip, only_general.eflags) = (wanted.regs, wanted.rip, wanted.eflags);
    let [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15] = wanted.regs;
    let (rip, rflags) = (wanted.rip, u64::from(wanted.eflags));
    (only_general == *wanted).then_some(Registers {
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
    })
}

/// The bytes of one register; `None`: it is read with all others.
pub(crate) fn one(shown: &X86_64CoreRegs, id: X86_64CoreRegId) -> Option<Vec<u8>> {
    match id {
        X86_64CoreRegId::Gpr(number) => {
            shown.regs.get(usize::from(number)).map(|value| value.to_le_bytes().to_vec())
        }
        X86_64CoreRegId::Rip => Some(shown.rip.to_le_bytes().to_vec()),
        X86_64CoreRegId::Eflags => Some(shown.eflags.to_le_bytes().to_vec()),
        _ => None,
    }
}

/// Puts bytes into one register; `None`: it cannot be changed, or they are too few.
pub(crate) fn set_one(shown: &mut X86_64CoreRegs, id: X86_64CoreRegId, bytes: &[u8]) -> Option<()> {
    let quad = || bytes.get(..8)?.try_into().ok().map(u64::from_le_bytes);
    match id {
        X86_64CoreRegId::Gpr(number) => *shown.regs.get_mut(usize::from(number))? = quad()?,
        X86_64CoreRegId::Rip => shown.rip = quad()?,
        X86_64CoreRegId::Eflags => shown.eflags = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?),
        _ => return None,
    }
    Some(())
}

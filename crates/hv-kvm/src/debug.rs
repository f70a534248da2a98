//! Debugging a vCPU: KVM_SET_GUEST_DEBUG.

use hv::{Debugging, Error, Registers, VcpuDebug};
use kvm_bindings::{
    KVM_CAP_SET_GUEST_DEBUG2, KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_INJECT_BP,
    KVM_GUESTDBG_INJECT_DB, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP,
    kvm_debug_exit_arch, kvm_guest_debug,
};
use kvm_ioctls::{VcpuFd, VmFd};

use crate::convert;
use crate::vcpu::KvmVcpu;

/// Exception vectors (Intel SDM volume 3, table 7-1).
const DEBUG_EXCEPTION: u32 = 1;
const BREAKPOINT: u32 = 3;

/// DR6 (Intel SDM volume 3, section 19.2.3): which breakpoint it was, or that it was a step.
const HIT: u64 = 0xf;
const STEPPED: u64 = 1 << 14;

/// Of a vCPU that is debugged.
#[derive(Debug, Default)]
pub(crate) struct DebugState {
    /// Whether this kernel keeps interrupts away from an instruction that is stepped over.
    can_block_interrupts: bool,
    wanted: Option<Debugging>,
}

impl DebugState {
    /// What the machine's kernel can do.
    pub(crate) fn new(vm: &VmFd) -> Self {
        let flags = vm.check_extension_raw(KVM_CAP_SET_GUEST_DEBUG2.into());
        let can_block_interrupts = flags > 0 && flags.cast_unsigned() & KVM_GUESTDBG_BLOCKIRQ != 0;
        Self { can_block_interrupts, wanted: None }
    }

    fn request(&self) -> kvm_guest_debug {
        let mut request = kvm_guest_debug::default();
        let Some(wanted) = &self.wanted else { return request };
        request.control = KVM_GUESTDBG_ENABLE;
        if !wanted.software.is_empty() {
            request.control |= KVM_GUESTDBG_USE_SW_BP;
        }
        if wanted.hardware.iter().any(Option::is_some) {
            request.control |= KVM_GUESTDBG_USE_HW_BP;
        }
        if wanted.step {
            request.control |= KVM_GUESTDBG_SINGLESTEP;
            if self.can_block_interrupts {
                request.control |= KVM_GUESTDBG_BLOCKIRQ;
            }
        }
        for (number, address) in wanted.hardware.iter().enumerate() {
            if let Some(address) = address {
                request.arch.debugreg[number] = *address;
                // DR7: globally enabled; the zeroes elsewhere mean "one byte, when it is executed".
                request.arch.debugreg[7] |= 2 << (2 * number);
            }
        }
        request
    }

    /// Whether what KVM reports is what the debugger asked for; else which exception is the guest's own.
    fn is_wanted(&self, exit: &kvm_debug_exit_arch) -> Result<(), u32> {
        let Some(wanted) = &self.wanted else { return Err(exit.exception) };
        let is_wanted = match exit.exception {
            BREAKPOINT => wanted.software.contains(&exit.pc),
            _ => exit.dr6 & HIT != 0 || (wanted.step && exit.dr6 & STEPPED != 0),
        };
        if is_wanted { Ok(()) } else { Err(exit.exception) }
    }
}

fn set(fd: &VcpuFd, request: &kvm_guest_debug) -> Result<(), Error> {
    fd.set_guest_debug(request).map_err(|e| Error::operation("set a vCPU's breakpoints", e))
}

impl KvmVcpu {
    /// Whether a debugger waits for this exit. The guest gets what nobody else asked for.
    pub(crate) fn debugger_waits_for(&self, exit: &kvm_debug_exit_arch) -> Result<bool, Error> {
        let Err(exception) = self.debug.is_wanted(exit) else { return Ok(true) };
        let mut request = self.debug.request();
        request.control |= KVM_GUESTDBG_ENABLE
            | if exception == DEBUG_EXCEPTION { KVM_GUESTDBG_INJECT_DB } else { KVM_GUESTDBG_INJECT_BP };
        set(&self.fd, &request)?;
        Ok(false)
    }
}

impl VcpuDebug for KvmVcpu {
    fn set(&mut self, wanted: Option<&Debugging>) -> Result<(), Error> {
        self.debug.wanted = wanted.cloned();
        set(&self.fd, &self.debug.request())
    }

    fn set_registers(&mut self, registers: &Registers) -> Result<(), Error> {
        convert::write_general(&self.fd, registers)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn state(wanted: Debugging) -> DebugState {
        DebugState { can_block_interrupts: true, wanted: Some(wanted) }
    }

    #[test]
    fn a_request_has_only_what_is_wanted() {
        assert_eq!(DebugState::default().request(), kvm_guest_debug::default());
        let request =
            state(Debugging { hardware: [None, Some(0x1000), None, Some(0x2000)], ..Debugging::default() })
                .request();
        assert_eq!(request.control, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP);
        assert_eq!((request.arch.debugreg[1], request.arch.debugreg[3]), (0x1000, 0x2000));
        assert_eq!(request.arch.debugreg[7], 2 << 2 | 2 << 6);
        let request =
            state(Debugging { step: true, software: Arc::new([7]), ..Debugging::default() }).request();
        let flags = KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_BLOCKIRQ | KVM_GUESTDBG_USE_SW_BP;
        assert_eq!(request.control, KVM_GUESTDBG_ENABLE | flags);
    }

    #[test]
    fn the_guests_own_exceptions_are_told_from_the_debuggers() {
        let exit = |exception, pc, dr6| kvm_debug_exit_arch { exception, pc, dr6, ..Default::default() };
        let stepping = state(Debugging { step: true, software: Arc::new([0x10]), ..Debugging::default() });
        assert_eq!(stepping.is_wanted(&exit(BREAKPOINT, 0x10, 0)), Ok(()));
        assert_eq!(stepping.is_wanted(&exit(BREAKPOINT, 0x11, 0)), Err(BREAKPOINT));
        assert_eq!(stepping.is_wanted(&exit(DEBUG_EXCEPTION, 0x11, STEPPED)), Ok(()));
        let running = state(Debugging::default());
        assert_eq!(running.is_wanted(&exit(DEBUG_EXCEPTION, 0x11, STEPPED)), Err(DEBUG_EXCEPTION));
        assert_eq!(running.is_wanted(&exit(DEBUG_EXCEPTION, 0x11, 1)), Ok(()));
    }
}

//! Events under way (`KVM_GET_VCPU_EVENTS`, `KVM_SET_VCPU_EVENTS`).
//!
//! Two of KVM's abilities decide how much it tells and takes, and both must be switched on for each machine:
//! * With `KVM_CAP_EXCEPTION_PAYLOAD`, an exception is injected or pending, and a pending one has its payload with it. Without, KVM
//!   reports pending ones as injected (and as pending, which means nothing then), having put the payload into CR2 or DR6; it takes
//!   injected ones only.
//! * With `KVM_CAP_X86_TRIPLE_FAULT_EVENT`, a triple fault that the vCPU has not yet left the guest with is told.
//!
//! A field is valid only if its flag is set; KVM never reports the vector of a start-up IPI, so it is not put back either.

use std::io::ErrorKind;

use hv::{Error, Exception, ExceptionStage, PendingEvents};
use kvm_bindings::{
    KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_X86_TRIPLE_FAULT_EVENT, KVM_VCPUEVENT_VALID_NMI_PENDING,
    KVM_VCPUEVENT_VALID_PAYLOAD, KVM_VCPUEVENT_VALID_SHADOW, KVM_VCPUEVENT_VALID_SIPI_VECTOR,
    KVM_VCPUEVENT_VALID_SMM, KVM_VCPUEVENT_VALID_TRIPLE_FAULT, KVM_X86_SHADOW_INT_MOV_SS,
    KVM_X86_SHADOW_INT_STI, kvm_enable_cap, kvm_vcpu_events,
};
use kvm_ioctls::VmFd;

/// What a machine's KVM tells and takes beyond the basic events.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EventAbilities {
    payload: bool,
    triple_fault: bool,
}

impl EventAbilities {
    /// Switches on what this KVM has. Comes before the first vCPU.
    pub(crate) fn enable(fd: &VmFd) -> Self {
        let enable = |cap: u32| {
            let mut request = kvm_enable_cap { cap, ..kvm_enable_cap::default() };
            request.args[0] = 1;
            fd.check_extension_raw(cap.into()) > 0 && fd.enable_cap(&request).is_ok()
        };
        Self {
            payload: enable(KVM_CAP_EXCEPTION_PAYLOAD),
            triple_fault: enable(KVM_CAP_X86_TRIPLE_FAULT_EVENT),
        }
    }
}

pub(super) fn from_kvm(e: &kvm_vcpu_events) -> PendingEvents {
    let valid = |flag| e.flags & flag != 0;
    let stage = if valid(KVM_VCPUEVENT_VALID_PAYLOAD) && e.exception.pending != 0 {
        let payload = (e.exception_has_payload != 0).then_some(e.exception_payload);
        Some(ExceptionStage::Pending { payload })
    } else {
        (e.exception.injected != 0).then_some(ExceptionStage::Injected)
    };
    let error_code = (e.exception.has_error_code != 0).then_some(e.exception.error_code);
    let shadow = if valid(KVM_VCPUEVENT_VALID_SHADOW) { u32::from(e.interrupt.shadow) } else { 0 };
    PendingEvents {
        exception: stage.map(|stage| Exception { vector: e.exception.nr, error_code, stage }),
        interrupt: (e.interrupt.injected != 0).then_some((e.interrupt.nr, e.interrupt.soft != 0)),
        sti_shadow: shadow & KVM_X86_SHADOW_INT_STI != 0,
        mov_ss_shadow: shadow & KVM_X86_SHADOW_INT_MOV_SS != 0,
        nmi_injected: e.nmi.injected != 0,
        nmi_pending: if valid(KVM_VCPUEVENT_VALID_NMI_PENDING) { e.nmi.pending } else { 0 },
        nmi_masked: e.nmi.masked != 0,
        // The vector is the low byte of an interrupt command.
        sipi_vector: valid(KVM_VCPUEVENT_VALID_SIPI_VECTOR).then_some(e.sipi_vector as u8),
        smm: e.smi.smm != 0,
        smi_pending: e.smi.pending != 0,
        smm_inside_nmi: e.smi.smm_inside_nmi != 0,
        smi_latched_init: e.smi.latched_init != 0,
        triple_fault: valid(KVM_VCPUEVENT_VALID_TRIPLE_FAULT) && e.triple_fault.pending != 0,
    }
}

/// # Errors
/// [`Error::Operation`] if something is under way that this KVM cannot be told: the guest would miss it.
pub(super) fn to_kvm(e: &PendingEvents, able: EventAbilities) -> Result<kvm_vcpu_events, Error> {
    let bit = |on: bool, bit: u32| if on { bit as u8 } else { 0 };
    let shadow = bit(e.sti_shadow, KVM_X86_SHADOW_INT_STI) | bit(e.mov_ss_shadow, KVM_X86_SHADOW_INT_MOV_SS);
    let mut to = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM,
        ..kvm_vcpu_events::default()
    };
    to.interrupt.shadow = shadow;
    if able.payload {
        to.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
    }
    if let Some(exception) = e.exception {
        put_exception(&mut to, exception, able)?;
    }
    if let Some((vector, soft)) = e.interrupt {
        (to.interrupt.injected, to.interrupt.nr, to.interrupt.soft) = (1, vector, soft.into());
    }
    (to.nmi.injected, to.nmi.pending, to.nmi.masked) =
        (e.nmi_injected.into(), e.nmi_pending, e.nmi_masked.into());
    if let Some(vector) = e.sipi_vector {
        to.flags |= KVM_VCPUEVENT_VALID_SIPI_VECTOR;
        to.sipi_vector = vector.into();
    }
    (to.smi.smm, to.smi.pending) = (e.smm.into(), e.smi_pending.into());
    (to.smi.smm_inside_nmi, to.smi.latched_init) = (e.smm_inside_nmi.into(), e.smi_latched_init.into());
    if able.triple_fault {
        to.flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
        to.triple_fault.pending = e.triple_fault.into();
    } else if e.triple_fault {
        return Err(too_old("put a triple fault back: use a host with Linux 6.0 or newer"));
    }
    Ok(to)
}

fn put_exception(to: &mut kvm_vcpu_events, exception: Exception, able: EventAbilities) -> Result<(), Error> {
    to.exception.nr = exception.vector;
    to.exception.has_error_code = exception.error_code.is_some().into();
    to.exception.error_code = exception.error_code.unwrap_or(0);
    match exception.stage {
        ExceptionStage::Pending { payload } if able.payload => {
            to.exception.pending = 1;
            to.exception_has_payload = payload.is_some().into();
            to.exception_payload = payload.unwrap_or(0);
        }
        ExceptionStage::Pending { payload: Some(_) } => {
            return Err(too_old("put a pending exception back: use a host with Linux 4.20 or newer"));
        }
        // Nothing is left to be done but to deliver it.
        ExceptionStage::Pending { payload: None } | ExceptionStage::Injected => to.exception.injected = 1,
    }
    Ok(())
}

fn too_old(operation: &'static str) -> Error {
    Error::operation(operation, ErrorKind::Unsupported)
}

#[cfg(test)]
mod tests;

use super::*;
use crate::tests::machine;
use kvm_bindings::kvm_vcpu_events__bindgen_ty_1 as KvmException;

const ALL: EventAbilities = EventAbilities { payload: true, triple_fault: true };
const NONE: EventAbilities = EventAbilities { payload: false, triple_fault: false };

const fn page_fault(stage: ExceptionStage) -> PendingEvents {
    let exception = Exception { vector: 14, error_code: Some(2), stage };
    PendingEvents { exception: Some(exception), ..nothing() }
}

const fn nothing() -> PendingEvents {
    PendingEvents {
        exception: None,
        interrupt: None,
        sti_shadow: false,
        mov_ss_shadow: false,
        nmi_injected: false,
        nmi_pending: 0,
        nmi_masked: false,
        sipi_vector: None,
        smm: false,
        smi_pending: false,
        smm_inside_nmi: false,
        smi_latched_init: false,
        triple_fault: false,
    }
}

const INJECTED: PendingEvents = page_fault(ExceptionStage::Injected);
const PENDING: PendingEvents = page_fault(ExceptionStage::Pending { payload: None });
const PENDING_WITH_CR2: PendingEvents = page_fault(ExceptionStage::Pending { payload: Some(0xdead_b000) });

fn states() -> Vec<PendingEvents> {
    let debug =
        Exception { vector: 1, error_code: None, stage: ExceptionStage::Pending { payload: Some(1) } };
    vec![
        nothing(),
        INJECTED,
        PENDING,
        PENDING_WITH_CR2,
        PendingEvents { exception: Some(debug), ..nothing() },
        PendingEvents { interrupt: Some((0x20, false)), ..nothing() },
        PendingEvents { sti_shadow: true, ..nothing() },
        PendingEvents { mov_ss_shadow: true, ..nothing() },
        PendingEvents { nmi_injected: true, nmi_masked: true, nmi_pending: 1, ..nothing() },
        PendingEvents { nmi_pending: 2, ..nothing() },
        PendingEvents { sipi_vector: Some(9), ..nothing() },
        PendingEvents { smm: true, smi_pending: true, ..nothing() },
        PendingEvents { smm_inside_nmi: true, smi_latched_init: true, ..nothing() },
        PendingEvents { triple_fault: true, ..nothing() },
    ]
}

#[test]
fn every_event_goes_round() {
    for state in states() {
        assert_eq!(from_kvm(&to_kvm(&state, ALL).unwrap()), state);
    }
}

#[test]
fn an_old_kvm_is_told_all_it_takes_and_the_rest_is_an_error() {
    for state in states() {
        let lost = matches!(
            state.exception,
            Some(Exception { stage: ExceptionStage::Pending { payload: Some(_) }, .. })
        ) || state.triple_fault;
        let told = to_kvm(&state, NONE);
        assert_eq!(told.is_err(), lost, "{state:?}");
        let Ok(told) = told else { continue };
        assert_eq!(told.flags & (KVM_VCPUEVENT_VALID_PAYLOAD | KVM_VCPUEVENT_VALID_TRIPLE_FAULT), 0);
        // What waits is delivered at once.
        assert_eq!(from_kvm(&told), if state == PENDING { INJECTED } else { state });
    }
}

/// What KVM reports of an exception, and what it means.
#[test]
fn what_kvm_reports_is_understood() {
    let told = |flags, injected, pending, payload: Option<u64>| kvm_vcpu_events {
        flags,
        exception: KvmException { injected, nr: 14, has_error_code: 1, pending, error_code: 2 },
        exception_has_payload: payload.is_some().into(),
        exception_payload: payload.unwrap_or(0),
        ..kvm_vcpu_events::default()
    };
    let flag = KVM_VCPUEVENT_VALID_PAYLOAD;
    for (report, meaning) in [
        (told(flag, 0, 0, None), nothing()),
        (told(flag, 1, 0, None), INJECTED),
        (told(flag, 0, 1, None), PENDING),
        (told(flag, 0, 1, Some(0xdead_b000)), PENDING_WITH_CR2),
        // Without the capability a pending exception is reported as both, and its payload has been delivered.
        (told(0, 1, 1, None), INJECTED),
        (told(0, 1, 0, None), INJECTED),
        // Left over from an exception that is gone.
        (told(0, 0, 0, Some(1)), nothing()),
    ] {
        assert_eq!(from_kvm(&report), meaning, "{report:?}");
    }
    let invalid = kvm_vcpu_events { sipi_vector: 5, flags: 0, ..kvm_vcpu_events::default() };
    assert_eq!(from_kvm(&invalid), nothing());
}

/// Puts states into a vCPU of the kernel's and reads them back.
#[test]
fn the_kernel_keeps_what_it_is_told() {
    let Some(vm) = machine() else { return };
    let vcpu = vm.fd.create_vcpu(0).unwrap();
    for state in states() {
        // Not every KVM has system management mode, and none reports a start-up IPI.
        if state.smm || state.smm_inside_nmi || state.sipi_vector.is_some() {
            continue;
        }
        vcpu.set_vcpu_events(&to_kvm(&state, vm.common.events).unwrap()).unwrap();
        let told = vcpu.get_vcpu_events().unwrap();
        // An AMD CPU has one shadow for both instructions.
        let shadow = state.sti_shadow || state.mov_ss_shadow;
        let kept = from_kvm(&told);
        assert_eq!(kept.sti_shadow || kept.mov_ss_shadow, shadow, "{told:?}");
        let kept = PendingEvents { sti_shadow: state.sti_shadow, mov_ss_shadow: state.mov_ss_shadow, ..kept };
        assert_eq!(kept, state, "{told:?}");
    }
}

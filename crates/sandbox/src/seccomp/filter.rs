//! From tables to BPF programs.

use std::collections::{BTreeMap, BTreeSet};

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::tables::{Call, Condition, tables};
use super::{Kind, Mode};

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;

/// The programs of `kind`, in the order they are to be applied in.
pub(super) fn compile(mode: Mode, kind: Kind) -> Result<Vec<BpfProgram>, BackendError> {
    let forbidden = match mode {
        Mode::Off => return Ok(Vec::new()),
        Mode::Trap => SeccompAction::Trap,
        Mode::Log => SeccompAction::Log,
        Mode::Errno => SeccompAction::Errno(libc::EPERM.cast_unsigned()),
    };
    let mut programs = Vec::new();
    if kind == Kind::Vmm {
        programs.push(without_clone3()?);
    }
    let rows = || tables(kind).into_iter().flatten();
    // No rules stand for a call that is always allowed.
    let free = rows().filter(|call| call.condition.is_none());
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = free.map(|call| (call.number, Vec::new())).collect();
    let always: BTreeSet<i64> = rules.keys().copied().collect();
    for Call { number, condition } in rows().filter(|call| !always.contains(&call.number)) {
        if let Some(condition) = condition {
            rules.entry(*number).or_default().push(rule(*condition)?);
        }
    }
    programs.push(SeccompFilter::new(rules, forbidden, SeccompAction::Allow, ARCH)?.try_into()?);
    Ok(programs)
}

/// A filter cannot see the flags of `clone3`, which lie in memory. Told that there is no such call, the C library starts its threads with
/// `clone`, whose flags are in a register.
fn without_clone3() -> Result<BpfProgram, BackendError> {
    let missing = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    SeccompFilter::new(rules, SeccompAction::Allow, missing, ARCH)?.try_into()
}

fn rule(condition: Condition) -> Result<SeccompRule, BackendError> {
    let (index, mask, value) = match condition {
        Condition::Bits { index, mask, value } => (index, mask, value),
        Condition::OwnProcess { index } => (index, u32::MAX, std::process::id()),
    };
    let masked = SeccompCmpOp::MaskedEq(mask.into());
    SeccompRule::new(vec![SeccompCondition::new(index, SeccompCmpArgLen::Dword, masked, value.into())?])
}

//! From rows to BPF programs.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::Mode;
use super::call::{Call, Condition};

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;

/// The programs that let `rows` pass, in the order they are to be applied in: none if there is nothing to refuse.
pub(super) fn compile(mode: Mode, rows: impl Iterator<Item = Call>) -> Result<Vec<BpfProgram>, BackendError> {
    let forbidden = match mode {
        Mode::Off => return Ok(Vec::new()),
        Mode::Trap => SeccompAction::Trap,
        Mode::Log => SeccompAction::Log,
        Mode::Errno => SeccompAction::Errno(libc::EPERM.cast_unsigned()),
    };
    let rules = conditions(rows).into_iter().map(|(number, conditions)| {
        let rules = conditions.into_iter().map(rule).collect::<Result<_, _>>();
        Ok((number, rules?))
    });
    let rules = rules.collect::<Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError>>()?;
    Ok(vec![SeccompFilter::new(rules, forbidden, SeccompAction::Allow, ARCH)?.try_into()?])
}

/// As [`compile`], for a thread that starts others.
pub(super) fn compile_for_parent(
    mode: Mode,
    rows: impl Iterator<Item = Call>,
) -> Result<Vec<BpfProgram>, BackendError> {
    let mut programs = compile(mode, rows)?;
    if !programs.is_empty() {
        programs.insert(0, without_clone3()?);
    }
    Ok(programs)
}

/// Each call once, with its conditions in the order of the rows and without those that another one covers. None stand for a call that is
/// always allowed.
fn conditions(rows: impl Iterator<Item = Call>) -> BTreeMap<i64, Vec<Condition>> {
    let mut calls: BTreeMap<i64, Vec<Condition>> = BTreeMap::new();
    let mut free = Vec::new();
    for Call { number, condition } in rows {
        let conditions = calls.entry(number).or_default();
        match condition {
            None => free.push(number),
            Some(condition) if conditions.iter().any(|other| other.covers(condition)) => {}
            Some(condition) => conditions.push(condition),
        }
    }
    for number in free {
        calls.insert(number, Vec::new());
    }
    calls
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

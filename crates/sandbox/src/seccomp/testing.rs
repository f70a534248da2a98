//! For tests of other crates: runs the compiled filters on a call, as the kernel would.

use seccompiler::{BackendError, BpfProgram, sock_filter};

use super::call::{Call, Condition};
use super::{Mode, Profile, filter, rows_above};

/// What filters say to a call, and how long they think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the call is made.
    pub allowed: bool,
    /// Instructions until the filters came to that.
    pub steps: usize,
}

/// The filters of a thread.
#[derive(Debug)]
pub struct Filters(Vec<BpfProgram>);

impl Filters {
    /// Those of a thread under `profile`.
    ///
    /// # Errors
    /// The profile has more rows than a program has room for.
    pub fn of(profile: &Profile) -> Result<Self, BackendError> {
        filter::compile(Mode::Trap, profile.rows()).map(Self)
    }

    /// Those of a thread that has called [`crate::enter_above`].
    ///
    /// # Errors
    /// As [`Filters::of`].
    pub fn above(own: &Profile, children: &[&Profile]) -> Result<Self, BackendError> {
        filter::compile_for_parent(Mode::Trap, rows_above(own, children)).map(Self)
    }

    /// What they say to the call `number` with the lower halves of its arguments.
    ///
    /// # Panics
    /// If a program is none that the kernel would take.
    pub fn verdict(&self, number: i64, arguments: [u32; 6]) -> Verdict {
        let call = call_data(number, arguments);
        let verdicts = self.0.iter().map(|program| run(program, &call));
        verdicts.fold(Verdict { allowed: true, steps: 0 }, |all, one| Verdict {
            allowed: all.allowed && one.allowed,
            steps: all.steps + one.steps,
        })
    }
}

/// One call for each row of `profile` that the row allows: number and lower halves of the arguments.
pub fn examples(profile: &Profile) -> Vec<(i64, [u32; 6])> {
    let example = |call: Call| {
        let mut arguments = [0; 6];
        let asked = match call.condition {
            None => None,
            Some(Condition::Bits { index, value, .. }) => Some((index, value)),
            Some(Condition::OwnProcess { index }) => Some((index, std::process::id())),
        };
        if let Some((index, value)) = asked {
            arguments[usize::from(index)] = value;
        }
        (call.number, arguments)
    };
    profile.rows().map(example).collect()
}

/// `struct seccomp_data` (`seccomp(2)`) as words of 32 bits.
fn call_data(number: i64, arguments: [u32; 6]) -> [u32; 16] {
    const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
    let mut data = [0; 16];
    data[0] = u32::try_from(number).unwrap_or(u32::MAX);
    data[1] = AUDIT_ARCH_X86_64;
    for (i, argument) in arguments.into_iter().enumerate() {
        data[4 + 2 * i] = argument;
    }
    data
}

/// The instructions of classic BPF that `seccompiler` uses.
#[allow(clippy::panic)]
fn run(program: &[sock_filter], data: &[u32; 16]) -> Verdict {
    let (mut at, mut accumulator) = (0, 0);
    let mut steps = 0;
    loop {
        steps += 1;
        let sock_filter { code, jt, jf, k } = program[at].clone();
        at += 1;
        let mut branch = |taken: bool| at += usize::from(if taken { jt } else { jf });
        match code {
            LOAD => accumulator = data[k as usize / 4],
            AND => accumulator &= k,
            JUMP => at += k as usize,
            JUMP_EQUAL => branch(accumulator == k),
            JUMP_GREATER => branch(accumulator > k),
            JUMP_GREATER_OR_EQUAL => branch(accumulator >= k),
            RETURN => return Verdict { allowed: k == libc::SECCOMP_RET_ALLOW, steps },
            _ => panic!("no instruction of a filter: {code:#x}"),
        }
    }
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const JUMP_GREATER_OR_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

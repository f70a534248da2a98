//! System call filters: which thread makes which calls, and what happens to others.

pub mod call;
mod filter;
pub mod groups;
mod profile;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod trap;

use std::io;

use seccompiler::BpfProgram;

pub use profile::Profile;
pub use trap::report_violations_to;

/// What a forbidden system call leads to (`--seccomp`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The process says which call it was and dies by `SIGSYS`.
    #[default]
    Trap,
    /// The call is made, and the kernel logs it.
    Log,
    /// The call fails with `EPERM`.
    Errno,
    /// There are no filters.
    Off,
}

/// Sees to what `mode` needs of process and kernel.
pub(crate) fn prepare(mode: Mode) -> io::Result<()> {
    let action = match mode {
        Mode::Off => return Ok(()),
        Mode::Trap => libc::SECCOMP_RET_TRAP,
        Mode::Log => libc::SECCOMP_RET_LOG,
        Mode::Errno => libc::SECCOMP_RET_ERRNO,
    };
    // SAFETY: the kernel reads the four bytes of `action`.
    let known =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    if known != 0 {
        return Err(io::Error::last_os_error());
    }
    if mode == Mode::Trap { trap::install() } else { Ok(()) }
}

/// Puts the calling thread under the filter of `profile`.
pub(crate) fn apply(mode: Mode, profile: &Profile) -> io::Result<()> {
    if mode == Mode::Off {
        return Ok(());
    }
    let programs = match profile.programs.get() {
        Some(programs) => programs,
        None => {
            let programs = filter::compile(mode, profile.rows()).map_err(io::Error::other)?;
            profile.programs.get_or_init(|| programs)
        }
    };
    install(programs)
}

/// Puts the calling thread under a filter that allows what `own` and `children` allow, all of them.
pub(crate) fn apply_above(mode: Mode, own: &Profile, children: &[&Profile]) -> io::Result<()> {
    install(&filter::compile_for_parent(mode, rows_above(own, children)).map_err(io::Error::other)?)
}

/// The own rows come first: see [`call::Call`].
fn rows_above<'a>(own: &'a Profile, children: &'a [&'a Profile]) -> impl Iterator<Item = call::Call> + 'a {
    own.rows().chain(children.iter().flat_map(|child| child.rows()))
}

fn install(programs: &[BpfProgram]) -> io::Result<()> {
    programs.iter().try_for_each(|program| seccompiler::apply_filter(program).map_err(io::Error::other))
}

#[cfg(test)]
mod tests;

//! A profile: what one kind of thread may ask of the host. It is declared beside the code that starts the thread.

use std::sync::OnceLock;

use seccompiler::BpfProgram;

use super::call::Call;
use super::groups;

/// The system calls of a kind of thread, besides those that every thread needs.
///
/// ```
/// use sandbox::call::{Call, any};
/// use sandbox::{Profile, groups};
///
/// /// Writing a file through to the disk.
/// const SYNC: &[Call] = &[any(libc::SYS_fdatasync)];
///
/// static PROFILE: Profile = Profile::new("writer", &[groups::EPOLL, SYNC]);
///
/// let thread = sandbox::spawn(&PROFILE, "writer0", || ());
/// # assert!(thread.is_ok_and(|thread| thread.join().is_ok()));
/// ```
#[derive(Debug)]
pub struct Profile {
    name: &'static str,
    calls: &'static [&'static [Call]],
    /// Compiled when the first thread under it starts; the mode is the same for the whole process.
    pub(super) programs: OnceLock<Vec<BpfProgram>>,
}

impl Profile {
    /// A profile called `name` with the rows of `calls`, which are compared in this order.
    #[must_use]
    pub const fn new(name: &'static str, calls: &'static [&'static [Call]]) -> Self {
        Self { name, calls, programs: OnceLock::new() }
    }

    /// What it is called in messages.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// All rows.
    pub(super) fn rows(&self) -> impl Iterator<Item = Call> {
        [groups::THREAD].iter().chain(self.calls).copied().flatten().copied()
    }
}

//! What each thread of the VMM may ask of the host (`spec/lifecycle.md` §12): system calls by seccomp, files by Landlock.
//!
//! ```text
//!  main, unfiltered ──spawn──▶ http-server, event-monitor     each under the filter of its profile
//!        │ enter_above(own, children)
//!        ▼
//!  main, filtered ────spawn──▶ vCPUs, workers, ...            under main's filter and that of their profile
//! ```
//! A thread inherits the filters of the one that starts it, and a call passes only if all of them let it pass. So the filter of the main
//! thread allows whatever any of its children is allowed; it is made from their profiles.
//!
//! A [`Profile`] is a `static` beside the code that starts the thread; this crate knows none of them.
//!
//! All threads start through [`spawn`] or [`spawn_scoped`]; `tools/tidy` refuses other ways. Until [`start`] is called, as in the tests of
//! other crates, threads are not confined at all.

// Signal handlers have no safe binding.
#![allow(unsafe_code)]

mod files;
mod seccomp;
mod thread;

use std::sync::OnceLock;

pub use files::{Access, Confinement, FilesError, Grant};
#[cfg(any(test, feature = "testing"))]
pub use seccomp::testing;
pub use seccomp::{Mode, Profile, call, groups, report_violations_to};
pub use thread::{enter_above, spawn, spawn_scoped, spawn_within};

/// How the process confines its threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// What a forbidden system call leads to.
    pub seccomp: Mode,
    /// Threads that serve no VM lose their access to files (`--landlock`).
    pub files: bool,
}

static POLICY: OnceLock<Policy> = OnceLock::new();

/// Sets the policy for all threads to come. The first call decides.
///
/// # Errors
/// The kernel has no seccomp filters, or refuses to install the handler of `SIGSYS`.
pub fn start(policy: Policy) -> std::io::Result<()> {
    seccomp::prepare(policy.seccomp)?;
    // A second call finds it set.
    let _ = POLICY.set(policy);
    Ok(())
}

fn policy() -> Policy {
    POLICY.get().copied().unwrap_or(Policy { seccomp: Mode::Off, files: false })
}

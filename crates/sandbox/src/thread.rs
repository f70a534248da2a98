//! Starting threads: named, under the filter of their profile from their first instruction on.

use std::error::Error;
use std::io::{self, Write};
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

use crate::{Confinement, Grant, Profile, policy, seccomp};

/// Starts a thread called `name` (the kernel keeps 15 bytes of it).
///
/// # Errors
/// The kernel's, if there is no thread left.
pub fn spawn<T: Send + 'static>(
    profile: &'static Profile,
    name: impl Into<String>,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.into()).spawn(move || filtered(profile, body))
}

/// As [`spawn`], for a thread that ends with `scope`.
///
/// # Errors
/// The kernel's, if there is no thread left.
pub fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    profile: &'static Profile,
    name: impl Into<String>,
    body: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().name(name.into()).spawn_scoped(scope, move || filtered(profile, body))
}

/// As [`spawn`], for a thread that serves no VM: if the policy says so it may use no files but those of `grants`.
///
/// # Errors
/// The kernel's, if there is no thread left; with a [`crate::FilesError`] inside, if the files cannot be confined.
pub fn spawn_within<T: Send + 'static>(
    profile: &'static Profile,
    name: impl Into<String>,
    grants: &[Grant],
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    if !policy().files {
        return spawn(profile, name, body);
    }
    let confinement = Confinement::new(grants).map_err(io::Error::other)?;
    Builder::new().name(name.into()).spawn(move || {
        if let Err(error) = confinement.enter() {
            give_up(&error);
        }
        filtered(profile, body)
    })
}

/// Puts the calling thread, and all it starts from now on, under a filter that allows what `own` and `children` allow.
///
/// A thread stays under the filter of the one that starts it, so `children` are the profiles of all threads that this one will start.
///
/// # Errors
/// The kernel's refusal.
pub fn enter_above(own: &Profile, children: &[&Profile]) -> io::Result<()> {
    seccomp::apply_above(policy().seccomp, own, children)
}

fn filtered<T>(profile: &Profile, body: impl FnOnce() -> T) -> T {
    if let Err(error) = seccomp::apply(policy().seccomp, profile) {
        give_up(&error);
    }
    body()
}

/// [`crate::start`] has seen that the kernel knows these calls, so that what is left is a lack of memory: it ends the process like any
/// other. A thread that cannot be confined never runs.
fn give_up(error: &dyn Error) -> ! {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    // Nobody is left to be told that standard error is gone.
    let _ = writeln!(io::stderr(), "Thread '{name}' cannot be confined: {error}");
    std::process::abort();
}

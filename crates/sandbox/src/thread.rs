//! Starting threads: named, under the filter of their kind from their first instruction on.

use std::error::Error;
use std::io::{self, Write};
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

use crate::{Confinement, Grant, Kind, policy, seccomp};

/// Starts a thread called `name` (the kernel keeps 15 bytes of it).
///
/// # Errors
/// The kernel's, if there is no thread left.
pub fn spawn<T: Send + 'static>(
    kind: Kind,
    name: impl Into<String>,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.into()).spawn(move || filtered(kind, body))
}

/// As [`spawn`], for a thread that ends with `scope`.
///
/// # Errors
/// The kernel's, if there is no thread left.
pub fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    kind: Kind,
    name: impl Into<String>,
    body: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().name(name.into()).spawn_scoped(scope, move || filtered(kind, body))
}

/// As [`spawn`], for a thread that serves no VM: if the policy says so it may use no files but those of `grants`.
///
/// # Errors
/// The kernel's, if there is no thread left; with a [`crate::FilesError`] inside, if the files cannot be confined.
pub fn spawn_within<T: Send + 'static>(
    kind: Kind,
    name: impl Into<String>,
    grants: &[Grant],
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    if !policy().files {
        return spawn(kind, name, body);
    }
    let confinement = Confinement::new(grants).map_err(io::Error::other)?;
    Builder::new().name(name.into()).spawn(move || {
        if let Err(error) = confinement.enter() {
            give_up(&error);
        }
        filtered(kind, body)
    })
}

/// Puts the calling thread, and all it starts from now on, under the filter of `kind`.
///
/// # Errors
/// The kernel's refusal.
pub fn enter(kind: Kind) -> io::Result<()> {
    seccomp::apply(policy().seccomp, kind)
}

fn filtered<T>(kind: Kind, body: impl FnOnce() -> T) -> T {
    if let Err(error) = enter(kind) {
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

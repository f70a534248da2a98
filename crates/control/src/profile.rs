//! What the control thread asks of the host.

use std::io;

use libc::{
    SYS_bind, SYS_epoll_create1, SYS_eventfd2, SYS_fcntl, SYS_ftruncate, SYS_getpgrp, SYS_getsockopt,
    SYS_landlock_add_rule, SYS_landlock_create_ruleset, SYS_landlock_restrict_self, SYS_listen, SYS_mbind,
    SYS_memfd_create, SYS_setsockopt, SYS_socket, SYS_timerfd_create, SYS_unlink, SYS_unlinkat,
};
use sandbox::call::{Call, any, equal, ioctl};
use sandbox::{Profile, groups};

/// Building machines: memory, files, sockets, terminals, the confinement of files.
const BUILD: &[Call] = &[
    any(SYS_bind),
    any(SYS_epoll_create1),
    any(SYS_eventfd2),
    equal(SYS_fcntl, 1, libc::F_DUPFD_CLOEXEC),
    // Descriptors of the parent process are taken over.
    equal(SYS_fcntl, 1, libc::F_SETFD),
    any(SYS_ftruncate),
    any(SYS_getpgrp),
    any(SYS_getsockopt),
    ioctl(libc::TCGETS as u32),
    ioctl(libc::TCGETS2 as u32),
    ioctl(libc::TCSETS as u32),
    ioctl(libc::TCSETS2 as u32),
    ioctl(libc::TIOCGPGRP as u32),
    ioctl(libc::TIOCGPTN as u32),
    ioctl(libc::TIOCSPTLCK as u32),
    any(SYS_landlock_add_rule),
    any(SYS_landlock_create_ruleset),
    any(SYS_landlock_restrict_self),
    any(SYS_listen),
    any(SYS_mbind),
    any(SYS_memfd_create),
    any(SYS_setsockopt),
    equal(SYS_socket, 0, libc::AF_UNIX),
    any(SYS_timerfd_create),
    any(SYS_unlink),
    any(SYS_unlinkat),
];

/// What it asks for by itself. What devices and the threads it starts ask for comes on top.
static OWN: Profile = Profile::new(
    "control",
    &[
        // First, because the vCPUs are under this filter, too, and no call is as frequent as theirs.
        groups::KVM_ALL,
        groups::EPOLL,
        groups::STREAM,
        groups::READ_FILES,
        groups::SPAWN,
        BUILD,
    ],
);

/// Those of all threads that it starts.
fn started() -> Vec<&'static Profile> {
    let others = crate::jobs::PROFILES.iter().chain(pager::PROFILES);
    machine::profiles().into_iter().chain(others.copied()).collect()
}

/// Puts the calling thread, the control thread from now on, under its filter: [`sandbox::enter_above`] that of all it will start.
///
/// # Errors
/// The kernel's refusal.
pub fn enter_filter() -> io::Result<()> {
    sandbox::enter_above(&OWN, &started())
}

#[cfg(test)]
mod tests;

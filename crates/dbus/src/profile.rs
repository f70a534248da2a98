//! What the thread asks of the host.

use libc::{
    SYS_connect, SYS_epoll_create1, SYS_eventfd2, SYS_fcntl, SYS_fstat, SYS_geteuid, SYS_getsockname,
    SYS_getsockopt, SYS_getuid, SYS_openat, SYS_recvfrom, SYS_recvmsg, SYS_sendmsg, SYS_sendto, SYS_shutdown,
    SYS_socket, SYS_statx,
};
use sandbox::call::{Call, any, bits, equal};
use sandbox::{Profile, groups};

/// Connecting to a message bus, and talking there.
const BUS: &[Call] = &[
    any(SYS_connect),
    any(SYS_epoll_create1),
    any(SYS_eventfd2),
    equal(SYS_fcntl, 1, libc::F_DUPFD_CLOEXEC),
    equal(SYS_fcntl, 1, libc::F_GETFL),
    equal(SYS_fcntl, 1, libc::F_SETFL),
    any(SYS_fstat),
    // Who we are is part of the greeting.
    any(SYS_geteuid),
    any(SYS_getsockname),
    any(SYS_getsockopt),
    any(SYS_getuid),
    // Anybody may ask for the machine's id, which is in a file.
    bits(SYS_openat, 2, (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC).cast_unsigned(), 0),
    any(SYS_recvfrom),
    any(SYS_recvmsg),
    any(SYS_sendmsg),
    any(SYS_sendto),
    any(SYS_shutdown),
    equal(SYS_socket, 0, libc::AF_UNIX),
    any(SYS_statx),
];

/// The `dbus-thread`.
pub(crate) static PROFILE: Profile = Profile::new("dbus", &[groups::EPOLL, BUS]);

#[cfg(test)]
mod tests {
    use super::PROFILE;
    use sandbox::testing::Filters;

    #[test]
    fn a_client_that_takes_the_thread_over_starts_nothing() {
        let filters = Filters::of(&PROFILE).unwrap();
        assert!(filters.verdict(libc::SYS_recvmsg, [0; 6]).allowed);
        let inet = [libc::AF_INET.cast_unsigned(), 0, 0, 0, 0, 0];
        let code = [0, 4096, libc::PROT_EXEC.cast_unsigned(), 0, 0, 0];
        let create = [0, 0, (libc::O_WRONLY | libc::O_CREAT).cast_unsigned(), 0, 0, 0];
        let calls = [
            (libc::SYS_execve, [0; 6]),
            (libc::SYS_clone, [0; 6]),
            (libc::SYS_ptrace, [0; 6]),
            (libc::SYS_open, [0; 6]),
            (libc::SYS_openat, create),
            (libc::SYS_socket, inet),
            (libc::SYS_mmap, code),
        ];
        for (number, arguments) in calls {
            assert!(!filters.verdict(number, arguments).allowed, "{number} {arguments:x?}");
        }
    }
}

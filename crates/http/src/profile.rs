//! What the thread asks of the host.

use libc::{
    SYS_accept4, SYS_epoll_create1, SYS_eventfd2, SYS_fcntl, SYS_getsockname, SYS_getsockopt, SYS_newfstatat,
    SYS_recvfrom, SYS_recvmsg, SYS_sendmsg, SYS_sendto, SYS_setsockopt, SYS_shutdown, SYS_statx, SYS_unlink,
    SYS_unlinkat,
};
use sandbox::call::{Call, any, equal, ioctl};
use sandbox::{Profile, groups};

/// Accepting, reading and answering clients; unlinking the socket at the end.
const CLIENTS: &[Call] = &[
    any(SYS_accept4),
    any(SYS_epoll_create1),
    any(SYS_eventfd2),
    equal(SYS_fcntl, 1, libc::F_DUPFD_CLOEXEC),
    equal(SYS_fcntl, 1, libc::F_GETFL),
    equal(SYS_fcntl, 1, libc::F_SETFL),
    any(SYS_getsockname),
    any(SYS_getsockopt),
    ioctl(libc::FIONBIO as u32),
    any(SYS_newfstatat),
    any(SYS_recvfrom),
    any(SYS_recvmsg),
    any(SYS_sendmsg),
    any(SYS_sendto),
    any(SYS_setsockopt),
    any(SYS_shutdown),
    any(SYS_statx),
    any(SYS_unlink),
    any(SYS_unlinkat),
];

/// The `http-server` thread.
pub(crate) static PROFILE: Profile = Profile::new("http", &[groups::EPOLL, CLIENTS]);

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

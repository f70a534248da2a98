//! What the threads of a migration ask of the host.

use libc::{
    SYS_accept4, SYS_bind, SYS_connect, SYS_fcntl, SYS_getpeername, SYS_getsockname, SYS_getsockopt,
    SYS_listen, SYS_recvfrom, SYS_recvmsg, SYS_sendmmsg, SYS_sendmsg, SYS_sendto, SYS_setsockopt,
    SYS_shutdown, SYS_socket, SYS_unlink, SYS_unlinkat,
};
use sandbox::call::{Call, any, equal, ioctl};

/// Using connections that are there.
pub(crate) const STREAM: &[Call] = &[
    any(SYS_getpeername),
    any(SYS_getsockname),
    any(SYS_getsockopt),
    any(SYS_recvfrom),
    any(SYS_recvmsg),
    any(SYS_sendmsg),
    any(SYS_sendto),
    any(SYS_shutdown),
];

/// Making connections, and waiting for them: for the threads that call [`crate::send()`] and [`crate::receive()`], which start all others of a
/// migration.
pub const CONNECT: &[Call] = &[
    any(SYS_accept4),
    any(SYS_bind),
    any(SYS_connect),
    equal(SYS_fcntl, 1, libc::F_GETFL),
    equal(SYS_fcntl, 1, libc::F_SETFL),
    ioctl(libc::FIONBIO as u32),
    any(SYS_getpeername),
    any(SYS_getsockname),
    any(SYS_getsockopt),
    any(SYS_listen),
    any(SYS_recvfrom),
    any(SYS_recvmsg),
    any(SYS_sendmsg),
    any(SYS_sendto),
    any(SYS_setsockopt),
    any(SYS_shutdown),
    equal(SYS_socket, 0, libc::AF_UNIX),
    equal(SYS_socket, 0, libc::AF_INET),
    equal(SYS_socket, 0, libc::AF_INET6),
    // The C library looks up names: it asks for this host's addresses, and name servers.
    equal(SYS_socket, 0, libc::AF_NETLINK),
    any(SYS_sendmmsg),
    ioctl(libc::FIONREAD as u32),
    any(SYS_unlink),
    any(SYS_unlinkat),
];

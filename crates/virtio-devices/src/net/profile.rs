//! What a network card asks of the host.

use libc::SYS_socket;
use sandbox::call::{Call, any, bits, equal, ioctl, ioctls_of};
use sandbox::{Profile, groups};

const TUN: u32 = (b'T' as u32) << 8;

/// TUNSETOFFLOAD and TUNSETQUEUE, on a tap that is open.
const TAP: &[Call] = &[ioctl(TUN | 208), ioctl(TUN | 217)];

/// Opening a tap, and addressing its interface.
const OPEN: &[Call] = &[
    // All of TUN; above the terminals', which have the same type and could type for the user (TIOCSTI).
    bits(libc::SYS_ioctl, 1, 0xffc0, TUN | 0xc0),
    // SIOCGIF and SIOCSIF.
    ioctls_of(0x89),
    equal(SYS_socket, 0, libc::AF_INET),
    equal(SYS_socket, 0, libc::AF_INET6),
];

/// Announcing the guest after a restore takes a timer, which no other card needs.
const ANNOUNCE: &[Call] = &[any(libc::SYS_timerfd_create), any(libc::SYS_timerfd_settime)];

/// The thread of a pair of queues.
pub(super) static PAIR: Profile = Profile::new("net-pair", &[groups::EPOLL, TAP, ANNOUNCE]);

/// The thread of the control queue.
pub(super) static CONTROL: Profile = Profile::new("net-control", &[groups::EPOLL, TAP]);

/// What building a card asks of the control thread.
static BUILD: Profile = Profile::new("net-build", &[groups::READ_FILES, OPEN]);

/// All of them.
pub static PROFILES: &[&Profile] = &[&PAIR, &CONTROL, &BUILD];

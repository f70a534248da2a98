//! The system calls of each kind of thread, found by running all guest tests under `--seccomp log`, and what the C library may do instead
//! on another day (a `malloc` that moves a large block, for instance).

use libc::{
    SYS_accept4, SYS_bind, SYS_brk, SYS_clock_gettime, SYS_clock_nanosleep, SYS_clone, SYS_clone3, SYS_close,
    SYS_connect, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_wait, SYS_eventfd2, SYS_exit,
    SYS_exit_group, SYS_fallocate, SYS_fcntl, SYS_fdatasync, SYS_fstat, SYS_fsync, SYS_ftruncate, SYS_futex,
    SYS_geteuid, SYS_getpid, SYS_getrandom, SYS_getsockname, SYS_getsockopt, SYS_gettid, SYS_gettimeofday,
    SYS_getuid, SYS_io_uring_enter, SYS_io_uring_register, SYS_io_uring_setup, SYS_ioctl,
    SYS_landlock_add_rule, SYS_landlock_create_ruleset, SYS_landlock_restrict_self, SYS_listen, SYS_lseek,
    SYS_madvise, SYS_membarrier, SYS_memfd_create, SYS_mmap, SYS_mprotect, SYS_mremap, SYS_munmap,
    SYS_nanosleep, SYS_newfstatat, SYS_open, SYS_openat, SYS_poll, SYS_ppoll, SYS_prctl, SYS_pread64,
    SYS_preadv, SYS_preadv2, SYS_pwrite64, SYS_pwritev, SYS_pwritev2, SYS_read, SYS_readv, SYS_recvfrom,
    SYS_recvmsg, SYS_restart_syscall, SYS_rseq, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn,
    SYS_sched_getaffinity, SYS_sched_setaffinity, SYS_sched_yield, SYS_seccomp, SYS_sendmsg, SYS_sendto,
    SYS_set_robust_list, SYS_setsockopt, SYS_shutdown, SYS_sigaltstack, SYS_socket, SYS_statx, SYS_tgkill,
    SYS_timerfd_create, SYS_timerfd_gettime, SYS_timerfd_settime, SYS_unlink, SYS_unlinkat, SYS_write,
    SYS_writev,
};

use super::Kind;

/// A row: a call that is allowed, always or with some arguments. Rows of the same call add up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) number: i64,
    pub(super) condition: Option<Condition>,
}

/// What an argument must be. The upper halves of arguments are not looked at: the calls in question ignore them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Condition {
    /// Some bits of it have this value.
    Bits { index: u8, mask: u32, value: u32 },
    /// It is the number of this process.
    OwnProcess { index: u8 },
}

const fn any(number: i64) -> Call {
    Call { number, condition: None }
}

const fn bits(number: i64, index: u8, mask: u32, value: u32) -> Call {
    Call { number, condition: Some(Condition::Bits { index, mask, value }) }
}

const fn equal(number: i64, index: u8, value: i32) -> Call {
    bits(number, index, u32::MAX, value.cast_unsigned())
}

/// A request by its type and number; direction and size, in the upper half, follow from them.
const fn ioctl(request: u32) -> Call {
    bits(SYS_ioctl, 1, 0xffff, request)
}

const fn ioctls_of(kind: u8) -> Call {
    bits(SYS_ioctl, 1, 0xff00, (kind as u32) << 8)
}

/// What a thread needs to run at all: memory, locks, the clock, descriptors it has, its own end.
const THREAD: &[Call] = &[
    any(SYS_brk),
    any(SYS_clock_gettime),
    any(SYS_clock_nanosleep),
    any(SYS_close),
    any(SYS_exit),
    any(SYS_exit_group),
    // Debug builds see before they close a descriptor whether it is open.
    equal(SYS_fcntl, 1, libc::F_GETFD),
    any(SYS_futex),
    any(SYS_getpid),
    any(SYS_getrandom),
    any(SYS_gettid),
    any(SYS_gettimeofday),
    any(SYS_madvise),
    any(SYS_membarrier),
    // Nothing in this program makes code at run time.
    bits(SYS_mmap, 2, libc::PROT_EXEC as u32, 0),
    bits(SYS_mprotect, 2, libc::PROT_EXEC as u32, 0),
    any(SYS_mremap),
    any(SYS_munmap),
    any(SYS_nanosleep),
    any(SYS_poll),
    any(SYS_ppoll),
    equal(SYS_prctl, 0, libc::PR_GET_NAME),
    // The C library names memory if the environment asks for it (`GLIBC_TUNABLES`).
    equal(SYS_prctl, 0, libc::PR_SET_VMA),
    any(SYS_read),
    any(SYS_readv),
    any(SYS_restart_syscall),
    any(SYS_rt_sigaction),
    any(SYS_rt_sigprocmask),
    any(SYS_rt_sigreturn),
    any(SYS_sched_yield),
    any(SYS_sigaltstack),
    // Kicks of vCPUs, and the end of a process that fails.
    Call { number: SYS_tgkill, condition: Some(Condition::OwnProcess { index: 0 }) },
    any(SYS_write),
    any(SYS_writev),
];

/// Waiting for descriptors.
const EPOLL: &[Call] = &[any(SYS_epoll_ctl), any(SYS_epoll_pwait), any(SYS_epoll_wait)];

/// Serving an open stream: pseudo-terminal, terminal, file, or a socket with its clients.
const STREAM: &[Call] = &[
    any(SYS_accept4),
    equal(SYS_fcntl, 1, libc::F_GETFL),
    equal(SYS_fcntl, 1, libc::F_SETFL),
    ioctl(libc::FIONBIO as u32),
    ioctl(libc::TIOCGWINSZ as u32),
    any(SYS_recvfrom),
    any(SYS_sendto),
    any(SYS_shutdown),
    any(SYS_timerfd_settime),
];

/// Queue threads may be bound to CPUs of the host.
const AFFINITY: &[Call] = &[any(SYS_sched_setaffinity)];

const KVM: u8 = 0xae;

const fn kvm(number: u8) -> Call {
    ioctl((KVM as u32) << 8 | number as u32)
}

/// KVM_SIGNAL_MSI: pins of the IOAPIC.
const PIN: &[Call] = &[kvm(0xa5)];

/// Running a vCPU, and what device registers do on its thread.
const VCPU: &[Call] = &[
    // First, because requests are compared one after the other and no other is as frequent.
    kvm(0x80), // RUN
    // Vectors and BARs that the guest moves; its state for snapshots.
    kvm(0x6a), // SET_GSI_ROUTING
    kvm(0x76), // IRQFD
    kvm(0x79), // IOEVENTFD
    kvm(0x81), // GET_REGS
    kvm(0x82), // SET_REGS
    kvm(0x83), // GET_SREGS
    kvm(0x84), // SET_SREGS
    kvm(0x88), // GET_MSRS
    kvm(0x89), // SET_MSRS
    kvm(0x8c), // GET_FPU
    kvm(0x8d), // SET_FPU
    kvm(0x8e), // GET_LAPIC
    kvm(0x8f), // SET_LAPIC
    kvm(0x98), // GET_MP_STATE
    kvm(0x99), // SET_MP_STATE
    kvm(0x9a), // NMI
    kvm(0x9f), // GET_VCPU_EVENTS
    kvm(0xa0), // SET_VCPU_EVENTS
    kvm(0xa1), // GET_DEBUGREGS
    kvm(0xa2), // SET_DEBUGREGS, SET_TSC_KHZ
    kvm(0xa3), // GET_TSC_KHZ
    kvm(0xa4), // GET_XSAVE
    kvm(0xa5), // SET_XSAVE, SIGNAL_MSI
    kvm(0xa6), // GET_XCRS
    kvm(0xa7), // SET_XCRS
    kvm(0xad), // KVMCLOCK_CTRL
    any(SYS_eventfd2),
    any(SYS_timerfd_gettime),
    any(SYS_timerfd_settime),
];

/// Accepting, reading and answering clients; unlinking the socket at the end.
const HTTP_SERVER: &[Call] = &[
    any(SYS_accept4),
    any(SYS_epoll_create1),
    any(SYS_eventfd2),
    equal(SYS_fcntl, 1, libc::F_DUPFD_CLOEXEC),
    equal(SYS_fcntl, 1, libc::F_GETFL),
    equal(SYS_fcntl, 1, libc::F_SETFL),
    any(SYS_getsockname),
    any(SYS_getsockopt),
    ioctl(libc::FIONBIO as u32),
    any(SYS_recvfrom),
    any(SYS_recvmsg),
    any(SYS_sendmsg),
    any(SYS_sendto),
    any(SYS_setsockopt),
    any(SYS_shutdown),
    any(SYS_unlink),
    any(SYS_unlinkat),
];

/// Connecting to a message bus, and talking there.
const DBUS: &[Call] = &[
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

/// Opening and reading files.
const READ_FILES: &[Call] = &[
    any(SYS_fstat),
    any(SYS_lseek),
    any(SYS_newfstatat),
    any(SYS_open),
    any(SYS_openat),
    any(SYS_pread64),
    any(SYS_preadv),
    any(SYS_preadv2),
    any(SYS_statx),
];

/// Reading and writing an image, by io_uring or without.
const BLOCK: &[Call] = &[
    any(SYS_eventfd2),
    any(SYS_fallocate),
    any(SYS_fdatasync),
    any(SYS_fsync),
    any(SYS_io_uring_enter),
    any(SYS_io_uring_register),
    any(SYS_io_uring_setup),
    // BLKDISCARD, BLKZEROOUT.
    ioctl(0x1277),
    ioctl(0x127f),
    any(SYS_lseek),
    any(SYS_pread64),
    any(SYS_preadv),
    any(SYS_preadv2),
    any(SYS_pwrite64),
    any(SYS_pwritev),
    any(SYS_pwritev2),
];

const TUN: u8 = b'T';

const fn tun(number: u8) -> Call {
    ioctl((TUN as u32) << 8 | number as u32)
}

/// TUNSETOFFLOAD and TUNSETQUEUE, on a tap that is open.
const NET: &[Call] = &[tun(208), tun(217)];

/// Starting threads and confining them. A thread's first steps are made under the filter of the one that starts it.
const SPAWN: &[Call] = &[
    bits(SYS_clone, 0, CLONE_KINDS, (libc::CLONE_VM | libc::CLONE_THREAD).cast_unsigned()),
    // Met by another filter, see `filter.rs`.
    any(SYS_clone3),
    equal(SYS_prctl, 0, libc::PR_SET_NAME),
    equal(SYS_prctl, 0, libc::PR_SET_NO_NEW_PRIVS),
    any(SYS_rseq),
    any(SYS_sched_getaffinity),
    equal(SYS_seccomp, 0, libc::SECCOMP_SET_MODE_FILTER as i32),
    any(SYS_set_robust_list),
];

/// The flags of `clone` that say what is made: a thread of this process, without namespaces of its own.
const CLONE_KINDS: u32 = (libc::CLONE_VM
    | libc::CLONE_THREAD
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS)
    .cast_unsigned();

/// Building machines: files, memory, sockets, interfaces, the hypervisor.
const VMM: &[Call] = &[
    // First, see `VCPU`.
    ioctls_of(KVM),
    any(SYS_bind),
    any(SYS_epoll_create1),
    any(SYS_eventfd2),
    equal(SYS_fcntl, 1, libc::F_OFD_SETLK),
    // Descriptors of the parent process are taken over.
    equal(SYS_fcntl, 1, libc::F_SETFD),
    any(SYS_ftruncate),
    any(SYS_getsockopt),
    // All of TUN; above the terminals', which have the same type and could type for the user (TIOCSTI).
    bits(SYS_ioctl, 1, 0xffc0, (TUN as u32) << 8 | 0xc0),
    ioctl(libc::TCGETS as u32),
    ioctl(libc::TCGETS2 as u32),
    ioctl(libc::TCSETS as u32),
    ioctl(libc::TCSETS2 as u32),
    ioctl(libc::TIOCGPTN as u32),
    ioctl(libc::TIOCSPTLCK as u32),
    // BLKGETSIZE64 and its kin; SIOCGIF and SIOCSIF.
    ioctls_of(0x12),
    ioctls_of(0x89),
    any(SYS_landlock_add_rule),
    any(SYS_landlock_create_ruleset),
    any(SYS_landlock_restrict_self),
    any(SYS_listen),
    any(SYS_memfd_create),
    any(SYS_setsockopt),
    equal(SYS_socket, 0, libc::AF_UNIX),
    equal(SYS_socket, 0, libc::AF_INET),
    equal(SYS_socket, 0, libc::AF_INET6),
    any(SYS_timerfd_create),
    any(SYS_unlink),
    any(SYS_unlinkat),
];

/// The tables of `kind`.
pub(super) fn tables(kind: Kind) -> Vec<&'static [Call]> {
    let own: &[&'static [Call]] = match kind {
        // Whatever its children may do, and more: they run under its filter as well as their own.
        Kind::Vmm => &[VMM, EPOLL, STREAM, AFFINITY, VCPU, HTTP_SERVER, READ_FILES, BLOCK, NET, SPAWN],
        Kind::Vcpu => &[EPOLL, STREAM, AFFINITY, VCPU],
        Kind::HttpServer => &[EPOLL, HTTP_SERVER],
        Kind::Dbus => &[EPOLL, DBUS],
        Kind::EventMonitor => &[],
        Kind::SerialManager => &[EPOLL, STREAM, PIN],
        Kind::PayloadLoader => &[READ_FILES],
        Kind::Block => &[EPOLL, AFFINITY, BLOCK],
        Kind::Net | Kind::NetControl => &[EPOLL, NET],
        Kind::Console => &[EPOLL, STREAM],
        Kind::Rng => &[EPOLL],
        Kind::Watchdog => &[EPOLL],
    };
    std::iter::once(THREAD).chain(own.iter().copied()).collect()
}

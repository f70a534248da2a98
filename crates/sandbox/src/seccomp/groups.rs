//! Groups of system calls that several profiles have, found by running all guest tests under `--seccomp log`, and what the C library may
//! do instead on another day (a `malloc` that moves a large block, for instance).
//!
//! What a single thread asks for stands beside that thread.

use libc::{
    SYS_accept4, SYS_brk, SYS_clock_gettime, SYS_clock_nanosleep, SYS_clone, SYS_clone3, SYS_close,
    SYS_copy_file_range, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_wait, SYS_exit, SYS_exit_group,
    SYS_fallocate, SYS_fcntl, SYS_fdatasync, SYS_flock, SYS_fstat, SYS_fsync, SYS_ftruncate, SYS_futex,
    SYS_getcwd, SYS_getpid, SYS_getrandom, SYS_gettid, SYS_gettimeofday, SYS_lseek, SYS_madvise,
    SYS_membarrier, SYS_mmap, SYS_mprotect, SYS_mremap, SYS_munmap, SYS_nanosleep, SYS_newfstatat, SYS_open,
    SYS_openat, SYS_poll, SYS_ppoll, SYS_prctl, SYS_pread64, SYS_preadv, SYS_preadv2, SYS_pwrite64,
    SYS_pwritev, SYS_read, SYS_readlink, SYS_readlinkat, SYS_readv, SYS_recvfrom, SYS_rename, SYS_renameat,
    SYS_renameat2, SYS_restart_syscall, SYS_rseq, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn,
    SYS_sched_getaffinity, SYS_sched_setaffinity, SYS_sched_yield, SYS_seccomp, SYS_sendto,
    SYS_set_robust_list, SYS_shutdown, SYS_sigaltstack, SYS_statx, SYS_tgkill, SYS_timerfd_settime,
    SYS_unlink, SYS_unlinkat, SYS_write, SYS_writev,
};

use super::call::{Call, any, bits, equal, ioctl, ioctls_of, own_process};

/// What a thread needs to run at all: memory, locks, the clock, descriptors it has, its own end. Every profile
/// has it.
pub(super) const THREAD: &[Call] = &[
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
    own_process(SYS_tgkill, 0),
    any(SYS_write),
    any(SYS_writev),
];

/// Waiting for descriptors.
pub const EPOLL: &[Call] = &[any(SYS_epoll_ctl), any(SYS_epoll_pwait), any(SYS_epoll_wait)];

/// Serving an open stream: pseudo-terminal, terminal, file, or a socket with its clients.
pub const STREAM: &[Call] = &[
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
pub const AFFINITY: &[Call] = &[any(SYS_sched_setaffinity)];

/// Giving guest RAM back to the host. Where it is mapped from a snapshot's file, that is asked where it has anything.
pub const DISCARD: &[Call] = &[any(SYS_fallocate), any(SYS_lseek), any(SYS_madvise)];

/// Opening and reading files.
pub const READ_FILES: &[Call] = &[
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

/// Writing files that come to be under one name and stay under another.
pub const WRITE_FILES: &[Call] = &[
    any(SYS_copy_file_range),
    any(SYS_fallocate),
    any(SYS_fdatasync),
    any(SYS_flock),
    any(SYS_fsync),
    any(SYS_ftruncate),
    any(SYS_getcwd),
    any(SYS_pwrite64),
    any(SYS_pwritev),
    any(SYS_readlink),
    any(SYS_readlinkat),
    any(SYS_rename),
    any(SYS_renameat),
    any(SYS_renameat2),
    any(SYS_unlink),
    any(SYS_unlinkat),
];

const KVM: u8 = 0xae;

const fn kvm(number: u8) -> Call {
    ioctl((KVM as u32) << 8 | number as u32)
}

/// Anything that KVM does.
pub const KVM_ALL: &[Call] = &[ioctls_of(KVM)];

/// KVM_SIGNAL_MSI: pins of the IOAPIC.
pub const KVM_PIN: &[Call] = &[kvm(0xa5)];

/// What a vCPU's thread asks of KVM.
pub const KVM_VCPU: &[Call] = &[
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
    kvm(0x9b), // SET_GUEST_DEBUG
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
    kvm(0xbe), // GET_NESTED_STATE
    kvm(0xbf), // SET_NESTED_STATE
    kvm(0xcf), // GET_XSAVE2
    kvm(0xe1), // SET_DEVICE_ATTR
    kvm(0xe2), // GET_DEVICE_ATTR
];

/// Starting threads and confining them. A thread's first steps are made under the filter of the one that starts it.
pub const SPAWN: &[Call] = &[
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

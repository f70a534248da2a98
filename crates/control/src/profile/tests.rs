//! The profiles of everything that this thread starts, against its own filter.

use super::{OWN, started};

use std::collections::BTreeSet;

use sandbox::testing::{Filters, examples};

const KVM_RUN: u32 = 0xae80;

fn own() -> Filters {
    Filters::above(&OWN, &started()).unwrap()
}

#[test]
fn every_child_can_do_under_this_filter_what_its_own_allows() {
    let own = own();
    for profile in started() {
        let filters = Filters::of(profile).unwrap();
        let calls = examples(profile);
        assert!(!calls.is_empty());
        // Another filter answers `clone3`.
        for (number, arguments) in calls.into_iter().filter(|(number, _)| *number != libc::SYS_clone3) {
            let name = profile.name();
            assert!(filters.verdict(number, arguments).allowed, "{name}: {number} {arguments:x?}");
            assert!(own.verdict(number, arguments).allowed, "{name}, above: {number} {arguments:x?}");
        }
    }
}

#[test]
fn profiles_have_names_of_their_own() {
    let profiles = started();
    let names: BTreeSet<&str> = profiles.iter().map(|profile| profile.name()).collect();
    assert_eq!(names.len(), profiles.len(), "{names:?}");
    for expected in ["vcpu", "payload-loader", "serial", "disk-queue", "net-pair", "net-control", "rng"] {
        assert!(names.contains(expected), "{expected} in {names:?}");
    }
}

/// Calls that would lead out of the process or change what it may do.
const NOBODY: &[(i64, [u32; 6])] = &[
    (libc::SYS_execve, [0; 6]),
    (libc::SYS_execveat, [0; 6]),
    (libc::SYS_fork, [0; 6]),
    (libc::SYS_clone, [libc::CLONE_NEWUSER.cast_unsigned(), 0, 0, 0, 0, 0]),
    (libc::SYS_ptrace, [0; 6]),
    (libc::SYS_process_vm_writev, [0; 6]),
    (libc::SYS_mount, [0; 6]),
    (libc::SYS_bpf, [0; 6]),
    (libc::SYS_setuid, [0; 6]),
    (libc::SYS_mmap, [0, 4096, (libc::PROT_READ | libc::PROT_EXEC).cast_unsigned(), 0, 0, 0]),
    (libc::SYS_mprotect, [0, 4096, libc::PROT_EXEC.cast_unsigned(), 0, 0, 0]),
    (libc::SYS_ioctl, [0, libc::TIOCSTI as u32, 0, 0, 0, 0]),
    (libc::SYS_socket, [libc::AF_PACKET.cast_unsigned(), 0, 0, 0, 0, 0]),
    (libc::SYS_tgkill, [1, 1, 9, 0, 0, 0]),
];

/// Ways to new files, peers and threads.
const NO_WORKER: &[(i64, [u32; 6])] = &[
    (libc::SYS_open, [0; 6]),
    (libc::SYS_openat, [0; 6]),
    (libc::SYS_openat2, [0; 6]),
    (libc::SYS_creat, [0; 6]),
    (libc::SYS_unlink, [0; 6]),
    (libc::SYS_socket, [libc::AF_INET.cast_unsigned(), 0, 0, 0, 0, 0]),
    (libc::SYS_bind, [0; 6]),
    (libc::SYS_clone, [(libc::CLONE_VM | libc::CLONE_THREAD).cast_unsigned(), 0, 0, 0, 0, 0]),
    (libc::SYS_seccomp, [1, 0, 0, 0, 0, 0]),
];

/// What of it a vsock device's thread does: it connects the guest to programs of the host's.
const NO_DIALER: &[(i64, [u32; 6])] =
    &[(libc::SYS_socket, [libc::AF_UNIX.cast_unsigned(), 0, 0, 0, 0, 0]), (libc::SYS_connect, [0; 6])];

fn refuses(filters: &Filters, name: &str, calls: &[(i64, [u32; 6])]) {
    for (number, arguments) in calls {
        assert!(!filters.verdict(*number, *arguments).allowed, "{name}: {number} {arguments:x?}");
    }
}

/// How the C library asks for the host's addresses when it resolves the name of a migration's other end.
const RESOLVE: (i64, [u32; 6]) = (libc::SYS_socket, [libc::AF_NETLINK.cast_unsigned(), 0, 0, 0, 0, 0]);

#[test]
fn nobody_leaves_the_process() {
    refuses(&own(), "control", NOBODY);
    for profile in started() {
        let (filters, name) = (Filters::of(profile).unwrap(), profile.name());
        refuses(&filters, name, NOBODY);
        if name != "migration" {
            refuses(&filters, name, &[RESOLVE]);
        }
    }
    refuses(&Filters::of(&crate::monitor::PROFILE).unwrap(), "event-monitor", NOBODY);
}

#[test]
fn threads_that_meet_the_guest_open_nothing() {
    refuses(&Filters::of(&crate::monitor::PROFILE).unwrap(), "event-monitor", NO_WORKER);
    refuses(&Filters::of(&crate::monitor::PROFILE).unwrap(), "event-monitor", NO_DIALER);
    // Building a device and loading the payload open files; no guest runs then. Jobs open files, and no guest reaches them.
    let opens = |name: &str| {
        matches!(name, "payload-loader" | "job" | "restore" | "pager" | "migration")
            || name.ends_with("-build")
    };
    for profile in started().into_iter().filter(|profile| !opens(profile.name())) {
        let (filters, name) = (Filters::of(profile).unwrap(), profile.name());
        refuses(&filters, name, NO_WORKER);
        if name != "vsock" {
            refuses(&filters, name, NO_DIALER);
        }
    }
}

/// What only a restored machine does: its card sends announcements at intervals.
#[test]
fn a_restored_card_can_announce_its_guest() {
    let pair = started().into_iter().find(|profile| profile.name() == "net-pair").unwrap();
    for call in [libc::SYS_timerfd_create, libc::SYS_timerfd_settime] {
        assert!(Filters::of(pair).unwrap().verdict(call, [0; 6]).allowed, "{call}");
    }
}

/// The hypervisor's calls are told from each other by their second argument, one after the other: the one that is made the most must not
/// drift to the end. Three instructions more are one more request that it is compared to.
#[test]
fn running_a_vcpu_is_decided_among_the_first() {
    let vcpu = started().into_iter().find(|profile| profile.name() == "vcpu").unwrap();
    for filters in [Filters::of(vcpu).unwrap(), own()] {
        let steps = |request: u32| {
            let verdict = filters.verdict(libc::SYS_ioctl, [0, request, 0, 0, 0, 0]);
            assert!(verdict.allowed, "{request:#x}");
            verdict.steps
        };
        let others = examples(vcpu).into_iter().filter(|(number, _)| *number == libc::SYS_ioctl);
        let least = others.map(|(_, arguments)| steps(arguments[1])).min();
        assert_eq!(Some(steps(KVM_RUN)), least);
    }
}

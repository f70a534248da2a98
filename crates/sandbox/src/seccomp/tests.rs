//! Filters cannot be taken off again and one mode kills, so each case runs in a child: this same test program, told to run [`child`] only.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::sync::mpsc;

use super::call::{Call, any, bits, equal, ioctl, ioctls_of};
use super::testing::{self, Filters};
use super::{Mode, Profile, groups};
use crate::{Policy, enter_above, spawn, start};

/// A thread that needs nothing of its own.
static NARROW: Profile = Profile::new("narrow", &[]);
/// One that serves a stream.
static SERVING: Profile = Profile::new("serving", &[groups::EPOLL, groups::STREAM]);
/// One that starts the others.
static PARENT: Profile = Profile::new("parent", &[groups::SPAWN, SOCKET]);

const SOCKET: &[Call] = &[equal(libc::SYS_socket, 0, libc::AF_UNIX)];

static CHILDREN: [&Profile; 2] = [&NARROW, &SERVING];
static PROFILES: [&Profile; 3] = [&NARROW, &SERVING, &PARENT];

const CASE: &str = "SANDBOX_TEST_CASE";
const NAME: &str = "the-thread";

fn run(mode: Mode, act: &str, profile: &Profile) -> Output {
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(["--exact", "seccomp::tests::child", "--ignored", "--nocapture", "--test-threads=1"]);
    program.env(CASE, format!("{mode:?} {act} {}", profile.name())).output().unwrap()
}

#[track_caller]
fn succeeds(mode: Mode, act: &str, profile: &Profile) {
    let output = run(mode, act, profile);
    let text = String::from_utf8_lossy(&output.stderr);
    let name = profile.name();
    assert!(output.status.success(), "{mode:?} {act} {name}: {}\n{text}", output.status);
}

#[test]
#[ignore = "run by the tests beside it"]
fn child() {
    let Ok(case) = std::env::var(CASE) else { return };
    let words: Vec<&str> = case.split(' ').collect();
    let seccomp = [Mode::Trap, Mode::Log, Mode::Errno, Mode::Off];
    let seccomp = seccomp.into_iter().find(|mode| format!("{mode:?}") == words[0]).unwrap();
    let profile = PROFILES.into_iter().find(|profile| profile.name() == words[2]).unwrap();
    start(Policy { seccomp, files: false }).unwrap();
    let act = match words[1] {
        "forbidden" => forbidden,
        "allowed" => allowed,
        "arguments" => arguments,
        "children" => children,
        other => panic!("{other}"),
    };
    let parent = || {
        std::thread::Builder::new().name(NAME.into()).spawn(move || {
            enter_above(&PARENT, &CHILDREN).unwrap();
            act();
        })
    };
    let thread = if std::ptr::eq(profile, &PARENT) { parent() } else { spawn(profile, NAME, act) };
    thread.unwrap().join().unwrap();
}

/// Calls that no profile has.
fn forbidden() {
    let fails = std::env::var(CASE).unwrap().starts_with("Errno");
    // SAFETY: neither call takes pointers or changes anything here.
    let answers = unsafe { [libc::syscall(libc::SYS_getppid), libc::syscall(libc::SYS_getpriority, 0, 0)] };
    assert!(answers.iter().all(|answer| (*answer == -1) == fails), "{answers:?}");
}

/// What every thread does some day.
fn allowed() {
    let mut block = vec![1u8; 1 << 20];
    for _ in 0..3 {
        // Large blocks are moved by mremap.
        block.reserve_exact(block.len());
        block.resize(block.capacity(), 1);
    }
    let map = std::collections::HashMap::from([(block.len(), 1)]);
    assert!(std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new(1))).is_err());
    eprintln!("{map:?} {:?} {:?}", std::thread::current().name(), std::time::Instant::now());
}

fn errno(answer: i64) -> Option<i32> {
    (answer == -1).then(|| std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

/// Allowed calls with arguments that are not.
fn arguments() {
    let refused = Some(libc::EPERM);
    // SAFETY: all of these are refused by the filter, and harmless if they are not: nothing of this process is mapped or signalled.
    unsafe {
        let executable = libc::PROT_READ | libc::PROT_EXEC;
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        assert_eq!(
            errno(libc::mmap(std::ptr::null_mut(), 4096, executable, anonymous, -1, 0) as i64),
            refused
        );
        for kind in [libc::CLONE_NEWUSER, libc::CLONE_NEWNET, 0] {
            assert_eq!(errno(libc::syscall(libc::SYS_clone, kind | libc::SIGCHLD, 0, 0, 0, 0)), refused);
        }
        assert_eq!(errno(libc::syscall(libc::SYS_clone3, 0, 0)), Some(libc::ENOSYS));
        assert_eq!(errno(libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, 0).into()), refused);
        assert_eq!(errno(libc::syscall(libc::SYS_tgkill, libc::getpid() + 1, 1, 0)), refused);
        for request in [libc::TIOCSTI, libc::TIOCSCTTY, 0x4b4d] {
            assert_eq!(errno(libc::ioctl(0, request, 0).into()), refused, "{request:#x}");
        }
        for command in [libc::F_SETOWN, libc::F_NOTIFY] {
            assert_eq!(errno(libc::fcntl(0, command, 0).into()), refused);
        }
        assert_eq!(errno(libc::prctl(libc::PR_SET_DUMPABLE, 1).into()), refused);
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0);
        assert_eq!(errno(fd.into()), None);
        libc::close(fd);
    }
}

/// The filter of the parent leaves children all they need.
fn children() {
    for profile in CHILDREN {
        let (says, hears) = mpsc::channel();
        let thread = spawn(profile, "child", move || {
            allowed();
            says.send(profile.name()).unwrap();
        });
        assert_eq!(hears.recv().unwrap(), profile.name());
        thread.unwrap().join().unwrap();
    }
}

#[test]
fn a_trapped_call_is_named_and_ends_the_process() {
    for profile in PROFILES {
        let output = run(Mode::Trap, "forbidden", profile);
        let (text, profile) = (String::from_utf8_lossy(&output.stderr), profile.name());
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{profile}: {text}");
        let number = libc::SYS_getppid;
        let line =
            format!("Probable seccomp violation: si_syscall={number} si_arch=0xc000003e thread={NAME}\r\n");
        assert!(text.contains(&line), "{profile}: {text}");
    }
}

#[test]
fn allowed_calls_pass_in_every_mode() {
    for profile in PROFILES {
        for mode in [Mode::Trap, Mode::Errno] {
            succeeds(mode, "allowed", profile);
        }
    }
}

#[test]
fn forbidden_calls_fail_or_pass_in_the_other_modes() {
    for profile in PROFILES {
        for mode in [Mode::Errno, Mode::Log] {
            succeeds(mode, "forbidden", profile);
        }
    }
    succeeds(Mode::Off, "forbidden", &SERVING);
}

#[test]
fn arguments_are_looked_at() {
    succeeds(Mode::Errno, "arguments", &PARENT);
}

#[test]
fn a_parent_may_start_its_children() {
    succeeds(Mode::Trap, "children", &PARENT);
}

#[test]
fn a_parent_is_allowed_what_its_children_are() {
    let (alone, above) = (Filters::of(&PARENT).unwrap(), Filters::above(&PARENT, &CHILDREN).unwrap());
    let polls = (libc::SYS_epoll_wait, [0; 6]);
    assert!(!alone.verdict(polls.0, polls.1).allowed && above.verdict(polls.0, polls.1).allowed);
    for (number, arguments) in CHILDREN.into_iter().flat_map(testing::examples) {
        assert!(above.verdict(number, arguments).allowed, "{number} {arguments:x?}");
    }
}

#[test]
fn rows_are_compared_in_their_order_and_once() {
    static FIRST: Profile = Profile::new("first", &[&[ioctl(0x10ff), ioctl(0x2001), ioctl(0x3001)]]);
    static TWICE: Profile = Profile::new("twice", &[&[ioctls_of(0x20), ioctl(0x2001), ioctls_of(0x20)]]);
    static ONCE: Profile = Profile::new("once", &[&[ioctls_of(0x20)]]);
    static ALWAYS: Profile = Profile::new("always", &[&[any(libc::SYS_ioctl), ioctl(0x2001)]]);
    let steps = |profile: &Profile, request: u32| {
        let verdict = Filters::of(profile).unwrap().verdict(libc::SYS_ioctl, [0, request, 0, 0, 0, 0]);
        (verdict.allowed, verdict.steps)
    };
    assert!(steps(&FIRST, 0x10ff).1 < steps(&FIRST, 0x2001).1);
    assert!(steps(&FIRST, 0x2001).1 < steps(&FIRST, 0x3001).1);
    for request in [0x2001, 0x4001] {
        assert_eq!(steps(&TWICE, request), steps(&ONCE, request));
    }
    assert!(steps(&ALWAYS, 0x4001).0 && !steps(&ONCE, 0x4001).0);
}

#[test]
fn a_condition_covers_what_it_lets_pass() {
    let covers = |one: Call, other: Call| one.condition.unwrap().covers(other.condition.unwrap());
    let wide = bits(libc::SYS_ioctl, 1, 0xff00, 0x2000);
    assert!(covers(wide, ioctl(0x2001)) && covers(wide, wide));
    assert!(!covers(ioctl(0x2001), wide) && !covers(wide, ioctl(0x2101)));
    assert!(!covers(wide, bits(libc::SYS_ioctl, 2, 0xffff, 0x2001)));
}

#[test]
fn nothing_is_filtered_before_the_start() {
    enter_above(&PARENT, &CHILDREN).unwrap();
    // SAFETY: takes nothing, changes nothing.
    assert!(unsafe { libc::getppid() } > 0);
}

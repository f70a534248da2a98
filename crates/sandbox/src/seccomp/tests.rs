//! Filters cannot be taken off again and one mode kills, so each case runs in a child: this same test program, told to run [`child`] only.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::sync::mpsc;

use super::{Kind, Mode, filter};
use crate::{Policy, enter, spawn, start};

const CASE: &str = "SANDBOX_TEST_CASE";
const NAME: &str = "the-thread";

fn run(mode: Mode, act: &str, kind: Kind) -> Output {
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(["--exact", "seccomp::tests::child", "--ignored", "--nocapture", "--test-threads=1"]);
    program.env(CASE, format!("{mode:?} {act} {kind:?}")).output().unwrap()
}

#[track_caller]
fn succeeds(mode: Mode, act: &str, kind: Kind) {
    let output = run(mode, act, kind);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{mode:?} {act} {kind:?}: {}\n{text}", output.status);
}

#[test]
#[ignore = "run by the tests beside it"]
fn child() {
    let Ok(case) = std::env::var(CASE) else { return };
    let words: Vec<&str> = case.split(' ').collect();
    let seccomp = [Mode::Trap, Mode::Log, Mode::Errno, Mode::Off];
    let seccomp = seccomp.into_iter().find(|mode| format!("{mode:?}") == words[0]).unwrap();
    let kind = Kind::ALL.into_iter().find(|kind| format!("{kind:?}") == words[2]).unwrap();
    start(Policy { seccomp, files: false }).unwrap();
    let act = match words[1] {
        "forbidden" => forbidden,
        "allowed" => allowed,
        "arguments" => arguments,
        "children" => children,
        other => panic!("{other}"),
    };
    spawn(kind, NAME, act).unwrap().join().unwrap();
}

/// Calls that no kind has.
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
    for kind in Kind::ALL {
        let (says, hears) = mpsc::channel();
        let thread = spawn(kind, "child", move || {
            allowed();
            says.send(kind).unwrap();
        });
        assert_eq!(hears.recv().unwrap(), kind);
        thread.unwrap().join().unwrap();
    }
}

#[test]
fn a_trapped_call_is_named_and_ends_the_process() {
    for kind in Kind::ALL {
        let output = run(Mode::Trap, "forbidden", kind);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{kind:?}: {text}");
        let number = libc::SYS_getppid;
        let line =
            format!("Probable seccomp violation: si_syscall={number} si_arch=0xc000003e thread={NAME}\r\n");
        assert!(text.contains(&line), "{kind:?}: {text}");
    }
}

#[test]
fn allowed_calls_pass_in_every_mode() {
    for kind in Kind::ALL {
        for mode in [Mode::Trap, Mode::Errno] {
            succeeds(mode, "allowed", kind);
        }
    }
}

#[test]
fn forbidden_calls_fail_or_pass_in_the_other_modes() {
    for kind in Kind::ALL {
        for mode in [Mode::Errno, Mode::Log] {
            succeeds(mode, "forbidden", kind);
        }
    }
    succeeds(Mode::Off, "forbidden", Kind::Vcpu);
}

#[test]
fn arguments_are_looked_at() {
    succeeds(Mode::Errno, "arguments", Kind::Vmm);
}

#[test]
fn the_vmm_may_start_all_others() {
    succeeds(Mode::Trap, "children", Kind::Vmm);
}

#[test]
fn filters_are_small() {
    for kind in Kind::ALL {
        let length: usize = filter::compile(Mode::Trap, kind).unwrap().iter().map(Vec::len).sum();
        assert!((50..1500).contains(&length), "{kind:?}: {length}");
    }
}

#[test]
fn nothing_is_filtered_before_the_start() {
    enter(Kind::EventMonitor).unwrap();
    // SAFETY: takes nothing, changes nothing.
    assert!(unsafe { libc::getppid() } > 0);
}

//! The program's sockets as clients find them: `--api-socket` and `--event-monitor` in all their forms (`spec/rest-api.md` §1, the keep list of
//! `spec/README.md`). What is said on the socket is tested with the door, in `crates/http/src/tests/`.

#![cfg(test)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::FdFlags;

const PING: &str = "GET /api/v1/vmm.ping HTTP/1.1\r\nHost: localhost\r\n\r\n";
const SHUTDOWN: &str = "PUT /api/v1/vmm.shutdown HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// The number of the system call on x86-64.
const OPENAT: u32 = 257;
const PATIENCE: Duration = Duration::from_secs(60);

/// A running program and a directory of its own.
struct Vmm {
    process: Child,
    dir: tempfile::TempDir,
}

impl Vmm {
    /// `arguments` makes the command line from the directory.
    fn start(arguments: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Whoever runs the tests may have had SIGHUP ignored, as `nohup` does.
        let mut command = Command::new("env");
        command.args(["--default-signal=HUP", env!("CARGO_BIN_EXE_cloud-hypervisor")]);
        command.args(arguments(dir.path())).stdin(Stdio::null()).current_dir(&dir);
        Self { process: command.spawn().unwrap(), dir }
    }

    fn on_socket() -> Self {
        Self::start(|dir| vec![format!("--api-socket={}", dir.join("api").display())])
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("api")
    }

    /// Ends it over its socket, and well.
    fn end(mut self, socket: &Path) {
        assert_eq!(ask(connect(socket), SHUTDOWN).0, 200);
        assert_eq!(self.process.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Connects as soon as somebody listens.
fn connect(path: &Path) -> UnixStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(socket) => {
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                return socket;
            }
            Err(error) => assert!(Instant::now() < deadline, "{}: {error}", path.display()),
        }
        std::thread::yield_now();
    }
}

/// One request; the status and the rest of the reply.
fn ask(mut socket: UnixStream, request: &str) -> (u16, String) {
    socket.write_all(request.as_bytes()).unwrap();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    let mut reply = String::new();
    socket.read_to_string(&mut reply).unwrap();
    let status = reply.split(' ').nth(1).unwrap_or_else(|| panic!("{reply}")).parse().unwrap();
    (status, reply)
}

#[test]
fn a_path_with_its_key_and_without() {
    for key in ["", "path="] {
        let vmm = Vmm::start(|dir| vec![format!("--api-socket={key}{}", dir.join("api").display())]);
        let socket = vmm.socket();
        assert_eq!(ask(connect(&socket), PING).0, 200);
        let dir = vmm.dir.path().to_owned();
        assert!(dir.join("api.lock").exists());
        assert_eq!(ask(connect(&socket), SHUTDOWN).0, 200);
        let mut vmm = vmm;
        assert_eq!(vmm.process.wait().unwrap().code(), Some(0));
        assert!(!socket.exists() && dir.join("api.lock").exists());
    }
}

/// Runs it to its end, which it must come to by itself; its exit code, and what it says on standard error.
fn fails(arguments: &[&str], dir: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloud-hypervisor"));
    let output = command.args(arguments).stdin(Stdio::null()).current_dir(dir).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn files(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_belongs_to_others_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("disk.raw"), "precious").unwrap();
    let _theirs = UnixListener::bind(dir.path().join("other")).unwrap();
    for (path, reason) in [("disk.raw", "is no socket"), ("other", "Another program listens")] {
        let (code, text) = fails(&["--api-socket", path], dir.path());
        assert!(code == Some(1) && text.contains(reason), "{text}");
    }
    assert_eq!(std::fs::read_to_string(dir.path().join("disk.raw")).unwrap(), "precious");
    assert_eq!(files(dir.path()), ["disk.raw", "other"]);
    UnixStream::connect(dir.path().join("other")).unwrap();
}

#[test]
fn a_failed_start_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(200);
    for (arguments, reason) in [
        (&["--api-socket", ""][..], "The path is empty"),
        (&["--api-socket", "path="], "The path is empty"),
        (&["--api-socket", &long], "the kernel takes 107"),
        (&["--api-socket", "fd=77"], "Descriptor 77"),
        (&["--event-monitor", "path=", "--api-socket", "api"], "path or fd required"),
        (
            &["--api-socket", "api", "--kernel", "/no/such/kernel", "--serial", "null", "--console", "off"],
            "kernel",
        ),
        (&["--api-socket", "api", "--kernel", "/k", "--disk", "path="], "No disk path"),
    ] {
        let (code, text) = fails(arguments, dir.path());
        assert!(code == Some(1) && text.contains(reason), "{arguments:?}: {text}");
        assert_eq!(files(dir.path()), [""; 0], "{arguments:?}");
    }
    for flag in ["--kernel", "--firmware", "--config", "--log-file"] {
        let (code, text) = fails(&["--api-socket", "api", &format!("{flag}=")], dir.path());
        assert!(code == Some(2) && text.contains(flag), "{text}");
    }
}

#[test]
fn signals_that_ask_for_the_end_get_a_good_one() {
    use rustix::process::{Pid, Signal, kill_process};
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut vmm = Vmm::on_socket();
        let socket = vmm.socket();
        assert_eq!(ask(connect(&socket), PING).0, 200);
        kill_process(Pid::from_child(&vmm.process), signal).unwrap();
        assert_eq!(vmm.process.wait().unwrap().code(), Some(0), "{signal:?}");
        assert!(!socket.exists(), "{signal:?}");
    }
}

/// `nohup` starts programs like this.
#[test]
fn a_program_that_is_to_outlive_its_terminal_does() {
    use rustix::process::{Pid, Signal, kill_process};
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_cloud-hypervisor")]);
    command.args(["--api-socket", "api"]).stdin(Stdio::null()).current_dir(&dir);
    let vmm = Vmm { process: command.spawn().unwrap(), dir };
    let socket = vmm.socket();
    assert_eq!(ask(connect(&socket), PING).0, 200);
    kill_process(Pid::from_child(&vmm.process), Signal::HUP).unwrap();
    assert_eq!(ask(connect(&socket), PING).0, 200);
    vmm.end(&socket);
}

#[test]
fn a_descriptor_that_listens_already() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine");
    let listener = UnixListener::bind(&path).unwrap();
    rustix::io::fcntl_setfd(&listener, FdFlags::empty()).unwrap();
    let vmm = Vmm::start(|_| vec![format!("--api-socket=fd={}", listener.as_raw_fd())]);
    assert_eq!(ask(connect(&path), PING).0, 200);
    vmm.end(&path);
    assert!(path.exists() && !dir.path().join("mine.lock").exists());
}

#[test]
fn without_the_option_there_is_no_socket() {
    let vmm =
        Vmm::start(|dir| vec![format!("--event-monitor=path={}", dir.join("events").display()), "-v".into()]);
    let deadline = Instant::now() + PATIENCE;
    // The first record comes after the socket would have been bound.
    let events = vmm.dir.path().join("events");
    while !std::fs::read_to_string(&events).is_ok_and(|text| text.contains("starting")) {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    let names: Vec<_> =
        std::fs::read_dir(&vmm.dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["events"]);
}

#[test]
fn nobody_else_may_connect() {
    let vmm = Vmm::on_socket();
    connect(&vmm.socket());
    let mode = |path: PathBuf| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(vmm.socket()), 0o700);
    assert_eq!(mode(vmm.dir.path().join("api.lock")) & 0o077, 0);
    let socket = vmm.socket();
    vmm.end(&socket);
}

/// The reference's sandbox kills it at 300 kB.
#[test]
fn large_bodies_pass_the_sandbox() {
    let vmm = Vmm::on_socket();
    for length in [300_000, 4 << 20] {
        let config = r#"{"payload":{"kernel":"/no/such/kernel"},"console":{"mode":"Null"}}"#;
        let body = format!("{config}{}", " ".repeat(length - config.len()));
        let head =
            format!("PUT /api/v1/vm.create HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        let (status, reply) = ask(connect(&vmm.socket()), &(head + &body));
        assert_eq!(status, 204, "{reply}");
        let delete = "PUT /api/v1/vm.delete HTTP/1.1\r\nHost: localhost\r\n\r\n";
        assert_eq!(ask(connect(&vmm.socket()), delete).0, 204);
    }
    let socket = vmm.socket();
    vmm.end(&socket);
}

/// Reads records up to the one that says that the VMM ends.
fn expect_records(events: impl Read) {
    let mut text = String::new();
    for line in BufReader::new(events).lines() {
        text.push_str(&line.unwrap());
        if text.contains(r#""event": "shutdown""#) {
            break;
        }
    }
    assert!(text.contains(r#""event": "starting""#) && text.contains(r#""source": "vmm""#), "{text}");
}

/// A FIFO is opened for writing, so the program waits for its reader and only then goes on.
#[test]
fn events_into_a_fifo() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("events");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    let vmm = Vmm::start(|dir| {
        let socket = format!("--api-socket={}", dir.join("api").display());
        vec![socket, format!("--event-monitor=path={}", fifo.display())]
    });
    let reader = std::fs::File::open(&fifo).unwrap();
    let socket = vmm.socket();
    vmm.end(&socket);
    expect_records(reader);
}

/// As service managers and shells pass them: a listening socket as standard input, events on standard output.
#[test]
fn standard_descriptors_may_be_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("listening");
    let listener = UnixListener::bind(&path).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloud-hypervisor"));
    command.args(["--api-socket=fd=0", "--event-monitor=fd=1"]).current_dir(&dir);
    command.stdin(std::os::fd::OwnedFd::from(listener)).stdout(writer.try_clone().unwrap());
    let vmm = Vmm { process: command.spawn().unwrap(), dir };
    drop(command);
    vmm.end(&path);
    // What is shared with others still waits for its reader.
    assert!(!rustix::fs::fcntl_getfl(&writer).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
    drop(writer);
    expect_records(reader);
}

#[test]
fn waiting_for_the_reader_of_a_fifo_can_be_ended() {
    use rustix::process::{Pid, Signal, kill_process};
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("events");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    let mut vmm = Vmm::start(|_| vec![format!("--event-monitor=path={}", fifo.display())]);
    let pid = Pid::from_child(&vmm.process);
    // An open that sleeps: nothing else that this program opens does.
    let call = format!("/proc/{pid}/syscall");
    let deadline = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(&call).unwrap().starts_with(&format!("{OPENAT} ")) {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    kill_process(pid, Signal::TERM).unwrap();
    assert!(!vmm.process.wait().unwrap().success());
}

#[test]
fn events_into_a_descriptor() {
    let (reader, writer) = std::io::pipe().unwrap();
    rustix::io::fcntl_setfd(writer.as_fd(), FdFlags::empty()).unwrap();
    let vmm = Vmm::start(|dir| {
        let socket = format!("--api-socket={}", dir.join("api").display());
        vec![socket, format!("--event-monitor=fd={}", writer.as_raw_fd())]
    });
    drop(writer);
    let socket = vmm.socket();
    vmm.end(&socket);
    expect_records(reader);
}

#[test]
fn the_version_comes_first() {
    let output = Command::new(env!("CARGO_BIN_EXE_cloud-hypervisor")).arg("--version").output().unwrap();
    assert!(output.stdout.starts_with(b"cloud-hypervisor v54.0.0"), "{output:?}");
}

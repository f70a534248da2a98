//! The program in the background of a shell whose terminal its console is to use: `cloud-hypervisor ... &`.

#![cfg(test)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// The leader of a session with jobs of its own, and its terminal.
struct Shell {
    process: Child,
    _terminal: host::pty::Pty,
}

impl Shell {
    fn start(script: &str, dir: &Path) -> Self {
        let terminal = host::pty::open().unwrap();
        let slave = File::options().read(true).write(true).open(&terminal.slave).unwrap();
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait", "sh", "-m", "-c", script, env!("CARGO_BIN_EXE_cloud-hypervisor")]);
        command.stdin(slave.try_clone().unwrap()).stdout(slave).current_dir(dir);
        Self { process: command.spawn().unwrap(), _terminal: terminal }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The status of a call. The kernel stops all threads of a program that reaches for a terminal that is not its turn's, so that no answer comes.
fn call(socket: &Path, verb: &str, body: &str) -> u16 {
    let deadline = Instant::now() + PATIENCE;
    let mut socket = loop {
        match UnixStream::connect(socket) {
            Ok(socket) => break socket,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::yield_now();
    };
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(socket, "PUT /api/v1/{verb} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut reply = String::new();
    socket.read_to_string(&mut reply).unwrap();
    reply.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_console_leaves_the_terminal_to_the_job_whose_turn_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let shell = Shell::start("\"$0\" --api-socket api 2>log & exec sleep 600", dir.path());
    let socket = dir.path().join("api");
    for config in ["console", "serial"] {
        let body = format!(r#"{{"payload":{{"kernel":"/k"}},"{config}":{{"mode":"Tty"}}}}"#);
        assert_eq!(call(&socket, "vm.create", &body), 204, "{config}");
        assert_eq!(call(&socket, "vm.delete", ""), 204, "{config}");
    }
    assert_eq!(call(&socket, "vmm.shutdown", ""), 200);
    drop(shell);
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.contains("runs in the background"), "{log}");
}

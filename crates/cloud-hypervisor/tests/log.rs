//! The log when nobody reads it.

#![cfg(test)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const PING: &[u8] = b"GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(60);

struct Vmm {
    process: Child,
    dir: tempfile::TempDir,
}

impl Vmm {
    fn start(stderr: Stdio, log_file: Option<&Path>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloud-hypervisor"));
        command.arg("-v").arg("--api-socket").arg(dir.path().join("api"));
        command.args(log_file.map(|path| format!("--log-file={}", path.display())));
        command.stdin(Stdio::null()).stderr(stderr);
        Self { process: command.spawn().unwrap(), dir }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("api")
    }

    fn connect(&self) -> UnixStream {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(socket) = UnixStream::connect(self.socket()) {
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                return socket;
            }
            assert!(Instant::now() < deadline, "nobody listens");
            std::thread::yield_now();
        }
    }

    /// Each request is a line of the log.
    fn ping(&self, count: usize) {
        let mut socket = self.connect();
        socket.write_all(&PING.repeat(count)).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut replies = String::new();
        socket.read_to_string(&mut replies).unwrap();
        assert_eq!(replies.matches("HTTP/1.1 200 ").count(), count);
    }

    fn terminate(&mut self) {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        assert_eq!(self.process.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The number in the line that tells of lost ones.
fn lost(log: &str) -> Option<u64> {
    let line = log.lines().find(|line| line.contains("lines of the log were lost"))?;
    line.split(" -- ").nth(1)?.split(' ').next()?.parse().ok()
}

#[test]
fn a_pipe_that_nobody_reads_stops_nobody() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut vmm = Vmm::start(writer.into(), None);
    // More than any pipe holds.
    (0..20).for_each(|_| vmm.ping(100));
    vmm.terminate();
    let mut log = String::new();
    BufReader::new(reader).read_to_string(&mut log).unwrap();
    assert!(log.split_terminator("\r\n").all(|line| line.starts_with("cloud-hypervisor: ")), "torn lines");
    assert!(log.lines().count() < 2000);
}

#[test]
fn lost_lines_are_told_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("log");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    let mut vmm = Vmm::start(Stdio::null(), Some(&fifo));
    // More than any pipe holds.
    (0..20).for_each(|_| vmm.ping(100));
    let mut reader = BufReader::new(File::open(&fifo).unwrap());
    let (mut log, mut line) = (String::new(), String::new());
    // There is something to read as long as there are requests.
    while lost(&log).is_none() {
        vmm.ping(1);
        line.clear();
        reader.read_line(&mut line).unwrap();
        log.push_str(&line);
    }
    let told = log.lines().filter(|line| line.contains("HTTP API request")).count() as u64;
    assert!(lost(&log).unwrap() > 0 && told > 100, "{log}");
    vmm.terminate();
}

/// The limit of a file's size arrives as a signal that ends a program without a word; here it is an error of the write.
#[test]
fn a_start_that_fails_says_why_under_a_limit_of_file_sizes() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("vm.json"), "{").unwrap();
    for (arguments, said) in [("--config vm.json --log-file log", "It is no JSON"), ("--version > out", "")] {
        let script = format!("ulimit -f 0; exec \"$0\" {arguments}");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_cloud-hypervisor")]).current_dir(&dir);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && text.contains(said), "{:?} {text}", output.status);
    }
}

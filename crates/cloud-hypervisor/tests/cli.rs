//! The program as a shell sees it, as far as that needs no guest.

#![cfg(test)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_cloud-hypervisor"))
}

fn run(arguments: &[&str]) -> Output {
    command().args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn check_prints_what_the_file_and_the_flags_come_to() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(
        dir.path(),
        "vm.yaml",
        "payload: {kernel: /k, cmdline: a}\ncpus: {boot_vcpus: 2, max_vcpus: 2}\ndisks: [{path: /a}]\nwatchdog: true\ncolour: 1\n",
    );
    let output = run(&[
        "--config",
        &file,
        "--check",
        "--cmdline",
        "b",
        "--memory",
        "size=1G",
        "--disk",
        "path=/b",
        "path=/c",
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "warning: colour: unknown field\n");
    let config: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&config["payload"]["kernel"], &config["payload"]["cmdline"]), (&"/k".into(), &"b".into()));
    assert_eq!((&config["cpus"]["boot_vcpus"], &config["memory"]["size"]), (&2.into(), &(1 << 30).into()));
    let disks: Vec<_> = config["disks"].as_array().unwrap().iter().map(|disk| disk["path"].clone()).collect();
    assert_eq!(disks, ["/b", "/c"], "a flag takes the place of the whole section");
    assert_eq!((&config["watchdog"], &config["disks"][0]["id"]), (&true.into(), &"_disk0".into()));
}

#[test]
fn check_lists_every_problem_with_a_next_step() {
    let output =
        run(&["--kernel", "/k", "--check", "--cpus", "boot=2,max=1", "--disk", "path=/a,queue_size=3"]);
    assert_eq!(output.status.code(), Some(1));
    let lines = text(&output.stderr);
    let expected = "error: cpus.max_vcpus: Max CPUs (1) lower than boot CPUs (2): raise max or lower boot\n\
                    error: disks[0].queue_size: Queue size must be a power of 2 no greater than 32768: 3: use 256, for example\n";
    assert_eq!(lines, expected);
    assert!(output.stdout.is_empty());
}

#[test]
fn errors_are_chains_and_have_their_codes() {
    let dir = tempfile::tempdir().unwrap();
    let broken = write(dir.path(), "vm.toml", "=");
    for (arguments, code, expected) in [
        (&["--config", &broken][..], 1, "  0: Error parsing config\n  1: Error reading configuration file"),
        (
            &["--kernel", "/k", "--log-format", "{x}"],
            1,
            "  0: Error parsing logger format\n  1: unknown token '{x}'",
        ),
        (
            &["--kernel", "/k", "--log-file", "/no/such/dir/log"],
            1,
            "  0: Error creating log file\n  1: Cannot open \"/no/such/dir/log\" for writing\n",
        ),
        (
            &["--api-socket", "/s", "--event-monitor", "path=/no/such/dir/events"],
            1,
            "  0: Error doing event monitor I/O\n  1: Cannot open \"/no/such/dir/events\" for writing\n",
        ),
        (
            &["--api-socket", "/s", "--event-monitor", "fd=77"],
            1,
            "  0: Error doing event monitor I/O\n  1: Cannot open descriptor 77 for writing\n",
        ),
        // Of standard input, nothing can be written.
        (
            &["--api-socket", "/s", "--event-monitor", "fd=0"],
            1,
            "  0: Error doing event monitor I/O\n  1: Cannot open descriptor 0 for writing\n",
        ),
        (&["--kernel", "/k", "--cpus", "boot=x"], 1, "  0: Error parsing config\n"),
        (&["--restore", "resume=maybe"], 1, "  0: Error parsing restore\n"),
        (
            &["--restore", "source_url=file:///s"],
            1,
            "  0: Error restoring VM\n  1: The VM could not be restored\n  2: Invalid restore source URL\n  3: Destination is",
        ),
        (
            &["--kernel", "/k", "--cpus", "boot=2,max=1"],
            1,
            "  0: Error creating VM\n  1: The VM could not be created\n  2: Failed to validate config\n  3: Max CPUs (1)",
        ),
        (&["--check"], 2, "--config <FILE>"),
        (&["--cpus", "boot=2"], 2, "--config <FILE>"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(text(&output.stderr).contains(expected), "{arguments:?}: {}", text(&output.stderr));
    }
}

#[test]
fn a_file_that_holds_something_else_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let precious = write(dir.path(), "precious", "precious");
    let config = write(dir.path(), "vm.json", r#"{"payload":{"kernel":"/k"}}"#);
    let log = format!("--log-file={precious}");
    let events = format!("--event-monitor=path={precious}");
    let disk = format!("path={precious},readonly=on");
    for (arguments, flag, other) in [
        (&["--kernel", &precious, &log][..], "--log-file", "payload.kernel"),
        (&["--kernel", "/k", "--disk", &disk, &events], "--event-monitor", "disks[0].path"),
        (&["--api-socket=api", &log, &events], "--event-monitor", "--log-file"),
        (&["--config", &config, &format!("--log-file={config}")], "--log-file", "--config"),
        (
            &["--api-socket=api", "--log-file=new", "--event-monitor=path=new"],
            "--event-monitor",
            "--log-file",
        ),
    ] {
        let output = command().args(arguments).current_dir(&dir).output().unwrap();
        let text = text(&output.stderr);
        let expected = (format!("{flag} would overwrite"), format!("which {other} names, too"));
        assert!(text.contains(&expected.0) && text.contains(&expected.1), "{arguments:?}: {text}");
        assert_eq!(output.status.code(), Some(1));
    }
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
    assert!(!dir.path().join("new").exists() && std::fs::read_to_string(&config).unwrap().len() > 2);
}

/// A VMM without a VM, whose log grows at `log`.
struct Idle {
    process: Child,
    log: PathBuf,
    _dir: tempfile::TempDir,
}

impl Idle {
    fn start(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let process = command()
            .args(["--api-socket".as_ref(), dir.path().join("api").as_os_str()])
            .args(["--log-file".as_ref(), log.as_os_str()])
            .args(arguments)
            .spawn()
            .unwrap();
        Self { process, log, _dir: dir }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Waits until the log holds `text`.
    fn wait_for(&self, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            if log.contains(text) {
                return log;
            }
            assert!(Instant::now() < deadline, "no {text:?} in {log}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        assert!(self.process.wait().unwrap().success());
    }
}

#[test]
fn signals_change_the_level_of_the_log() {
    let vmm = Idle::start(&["-v", "--log-format", "[{level}] {msg}"]);
    vmm.wait_for("[INFO] cloud-hypervisor v54.0.0 starting\r\n");
    let mut expected = String::new();
    for (signal, level) in [
        (Signal::USR1, "debug"),
        (Signal::USR1, "trace"),
        (Signal::USR2, "debug"),
        (Signal::USR2, "info"),
        (Signal::USR2, "warn"),
    ] {
        vmm.signal(signal);
        expected.push_str(&format!("[WARN] The log shows {level} and worse from now on\r\n"));
        vmm.wait_for(&expected);
    }
}

#[test]
fn the_log_in_json() {
    let vmm = Idle::start(&["-v", "--log-format", "json"]);
    let log = vmm.wait_for("starting");
    let line: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!((&line["level"], &line["thread"]), (&"INFO".into(), &"main".into()));
    assert_eq!(line["pid"], vmm.process.id());
}

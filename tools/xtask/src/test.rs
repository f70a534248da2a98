//! `cargo xtask test`: unit tests on the host, then guest tests against the built VMM, in the lab if the host's KVM
//! cannot run a stock kernel.

use crate::clients;
use crate::error::{Error, Result};
use crate::guest;
use crate::lab;
use crate::packages;
use crate::places::Places;
use crate::step::{cargo, headline, loud, step};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A lab has one CPU; two of them fill a small machine.
const LABS: usize = 2;

/// How much longer fuzz targets run here than under a plain `cargo test`: about half a minute each.
const FUZZ_FACTOR: &str = "6";

/// Tests talk to message buses with other people's tools.
const PACKAGES: [&str; 3] = ["dbus-daemon", "libglib2.0-bin", "systemd"];

/// What to test.
#[derive(Debug)]
pub(crate) struct Options {
    /// Unit tests of the workspace.
    pub(crate) unit: bool,
    /// Guest tests.
    pub(crate) guest: bool,
    /// Only tests whose name contains this.
    pub(crate) filter: String,
}

/// Tests passed and failed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    passed: u32,
    pub(crate) failed: u32,
}

/// One run of the guest tests.
#[derive(Debug, Default)]
pub(crate) struct GuestRun {
    /// The sum over all labs.
    pub(crate) count: Count,
    /// All they wrote, one lab after the other.
    pub(crate) lines: Vec<String>,
}

/// Runs the tests and ends with one line `N passed, N failed`.
///
/// # Errors
/// A test fails, or something cannot be built.
pub(crate) fn run(places: &Places, options: &Options) -> Result<()> {
    packages::install(&PACKAGES)?;
    let mut total = Count::default();
    if options.unit {
        headline("unit tests");
        // First as it ships, then what is only there on demand.
        for what in [
            &["--workspace"][..],
            &["-p", "ch-remote", "--features", "dbus_api"],
            &["-p", "config", "-p", "virtio-devices", "-p", "machine", "--features", "machine/test-devices"],
        ] {
            let mut unit = cargo();
            unit.args(["test", "--no-fail-fast"]).args(what).current_dir(&places.root);
            unit.env("FUZZ_FACTOR", FUZZ_FACTOR);
            if !options.filter.is_empty() {
                unit.arg("--").arg(&options.filter);
            }
            total.add(&run_unit(&mut unit)?);
        }
    }
    if options.guest {
        headline("guest tests");
        total.add(&run_guest(places, &options.filter, false)?.count);
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    if total.failed == 0 { Ok(()) } else { Err(Error::Verdict("tests failed".to_owned())) }
}

impl Count {
    fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Shows what is written to it and keeps it. Clones share what they keep.
#[derive(Debug, Clone, Default)]
struct Tee(Arc<Mutex<Vec<u8>>>);

impl Tee {
    fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().unwrap_or_else(|e| e.into_inner());
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }
}

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = io::stdout().write(bytes)?;
        self.0.lock().unwrap_or_else(|e| e.into_inner()).extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

/// A program that says nothing for so long hangs: the longest that is silent builds every test first, which takes minutes.
const SILENCE: Duration = Duration::from_secs(20 * 60);

/// Runs a program, showing its output as it comes; returns its lines and whether it succeeded.
///
/// # Errors
/// It cannot be run, or hangs.
fn run_shown(command: &mut Command) -> Result<(Vec<String>, bool)> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |source| Error::Run { program: program.clone(), source };
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(failed)?;
    let mut tee = Tee::default();
    // Read by a thread, which stays behind when what the program started hangs too and keeps its output open.
    let (sender, said) = mpsc::channel();
    if let Some(mut stdout) = child.stdout.take() {
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
    }
    loop {
        match said.recv_timeout(SILENCE) {
            Ok(bytes) => tee.write_all(&bytes).map_err(failed)?,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                let last = tee.lines().pop().unwrap_or_default();
                return Err(Error::Verdict(format!(
                    "{program} hangs: it said nothing for {} minutes after \"{last}\"",
                    SILENCE.as_secs() / 60
                )));
            }
        }
    }
    let status = child.wait().map_err(failed)?;
    Ok((tee.lines(), status.success()))
}

fn run_unit(command: &mut Command) -> Result<Count> {
    let (lines, success) = run_shown(command)?;
    let mut count = Count::default();
    for line in lines.iter().filter_map(|line| line.strip_prefix("test result:")) {
        count.passed += number_before(line, " passed");
        count.failed += number_before(line, " failed");
    }
    // What does not build has no result lines.
    count.failed += u32::from(!success && count.failed == 0);
    Ok(count)
}

fn number_before(line: &str, word: &str) -> u32 {
    let number = line.split(word).next().unwrap_or_default().rsplit(' ').next().unwrap_or_default();
    number.parse().unwrap_or(0)
}

/// The VMM to test: ours, unless `VMTEST_VMM` names another, which shows whether a test or our VMM is wrong.
fn vmm(places: &Places) -> PathBuf {
    std::env::var_os("VMTEST_VMM").map_or_else(|| places.lab_binary("cloud-hypervisor"), PathBuf::from)
}

/// Builds the VMM as it ships, but with the D-Bus API and the devices of the tests, its remote, and the test program.
///
/// # Errors
/// It does not build.
pub(crate) fn build(places: &Places) -> Result<()> {
    if vmm(places) == places.lab_binary("cloud-hypervisor") {
        step("building the VMM", || {
            let mut vmm = cargo();
            vmm.args(["build", "--quiet", "--profile", "lab", "-p", "cloud-hypervisor", "-p", "ch-remote"]);
            vmm.args([
                "--features",
                "cloud-hypervisor/dbus_api,ch-remote/dbus_api,cloud-hypervisor/test-devices",
            ]);
            loud(vmm.current_dir(&places.root))
        })?;
    }
    step("building the guest tests", || {
        let mut tests = cargo();
        loud(tests.args(["build", "--quiet", "-p", "vmtest"]).current_dir(&places.root))
    })
}

/// The environment `vmtest` reads.
pub(crate) fn environment(places: &Places, images: &Path) -> Vec<(String, String)> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    vec![
        ("VMTEST_IMAGES".to_owned(), text(images)),
        ("VMTEST_VMM".to_owned(), text(&vmm(places))),
        ("VMTEST_REMOTE".to_owned(), text(&places.lab_binary("ch-remote"))),
    ]
}

/// Builds what the guest tests need and runs those whose name contains `filter`. If they are to be `thorough`, tests that repeat
/// something do all of their rounds instead of a tenth.
///
/// # Errors
/// Something cannot be fetched or built, or a lab dies.
pub(crate) fn run_guest(places: &Places, filter: &str, thorough: bool) -> Result<GuestRun> {
    packages::install(&PACKAGES)?;
    build(places)?;
    let images = guest::prepare(places, true)?;
    let mut environment = environment(places, &images);
    environment.extend(clients::prepare(places)?);
    environment.extend(thorough.then(|| ("VMTEST_THOROUGH".to_owned(), "1".to_owned())));
    let vmtest = places.dev_binary("vmtest");
    let mut arguments = vec!["run".to_owned()];
    if !filter.is_empty() {
        arguments.push(filter.to_owned());
    }
    if lab::host_kvm() {
        let mut command = Command::new(&vmtest);
        let (lines, success) = run_shown(command.args(&arguments).envs(environment))?;
        return Ok(GuestRun::of(lines, success));
    }
    eprintln!(
        "    this host's /dev/kvm cannot run a stock kernel: the tests that boot one run in {LABS} labs"
    );
    lab::prepare(places)?;
    thread::scope(|scope| {
        let labs: Vec<_> = (0..LABS)
            .map(|part| {
                let part = format!("{part}/{LABS}");
                let in_lab = ["--boots", "yes", "--jobs", "1", "--part", part.as_str()].map(str::to_owned);
                let command =
                    [&[vmtest.to_string_lossy().into_owned()], arguments.as_slice(), &in_lab].concat();
                let run = lab::Run {
                    environment: environment.clone(),
                    outside: Some(vmtest.clone()),
                    ..lab::Run::new(command)
                };
                scope.spawn(move || {
                    let tee = Tee::default();
                    lab::run(places, &run, tee.clone()).map(|code| GuestRun::of(tee.lines(), code == 0))
                })
            })
            .collect();
        let mut on_host = Command::new(&vmtest);
        on_host.args(&arguments).args(["--boots", "no", "--jobs", "1"]).envs(environment.clone());
        let (lines, success) = run_shown(&mut on_host)?;
        let mut total = GuestRun::of(lines, success);
        for lab in labs {
            let run =
                lab.join().unwrap_or_else(|_| Err(Error::Verdict("a lab's thread panicked".to_owned())))?;
            total.count.add(&run.count);
            total.lines.extend(run.lines);
        }
        Ok(total)
    })
}

impl GuestRun {
    /// Reads the sum at the end of one run's output.
    fn of(lines: Vec<String>, success: bool) -> Self {
        let last = lines.iter().rev().find(|line| line.ends_with(" failed") && line.contains(" passed, "));
        let mut count = Count::default();
        if let Some(line) = last {
            count.passed = number_before(line, " passed");
            count.failed = number_before(line, " failed");
        }
        // A lab that died has no sum.
        count.failed += u32::from(!success && count.failed == 0);
        Self { count, lines }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_result_lines() {
        let line = " ok. 12 passed; 3 failed; 0 ignored; finished in 0.01s";
        assert_eq!(number_before(line, " passed"), 12);
        assert_eq!(number_before(line, " failed"), 3);
        assert_eq!(number_before("7 passed, 0 failed", " passed"), 7);
    }
}

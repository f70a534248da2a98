//! A VMM process.

use crate::console::Console;
use crate::context::Context;
use crate::rest::Client;
use crate::wait;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// A running `cloud-hypervisor`; killed when dropped.
pub struct Vmm {
    child: Child,
    /// Its REST client.
    pub api: Client,
    /// Its event file.
    pub events: PathBuf,
    socket: PathBuf,
}

/// Things of a process that a leak would let grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Threads.
    pub threads: usize,
    /// Open descriptors.
    pub descriptors: usize,
    /// Memory mappings.
    pub mappings: usize,
}

/// What a process occupied, to be compared with what it occupies later.
#[derive(Debug)]
pub struct Leftovers(Footprint);

impl Leftovers {
    /// What it occupies once that stays the same: threads that were told to end may take a moment.
    ///
    /// # Panics
    /// It does not settle.
    pub fn of(vmm: &Vmm) -> Self {
        let mut last = vmm.footprint();
        let mut same = 0;
        wait::until(wait::COMMAND, "the VMM to settle", || {
            let now = vmm.footprint();
            same = if now == last { same + 1 } else { 0 };
            last = now;
            (same >= 10).then_some(Self(now))
        })
    }

    /// Waits until it occupies no more than before. The allocator may map a little more for its own reasons; a leak is at least one a round.
    ///
    /// # Panics
    /// It still occupies more.
    pub fn assert_none(&self, vmm: &Vmm) {
        const ALLOCATOR: usize = 20;
        let Self(before) = self;
        wait::until_true(wait::COMMAND, &format!("{before:?} again, not {:?}", vmm.footprint()), || {
            let now = vmm.footprint();
            now.threads <= before.threads
                && now.descriptors <= before.descriptors
                && now.mappings <= before.mappings + ALLOCATOR
        });
    }
}

impl Vmm {
    /// Starts the VMM with these arguments beside its sockets and logs, without a terminal.
    ///
    /// # Panics
    /// It does not start.
    pub fn start(context: &Context, arguments: &[String]) -> Self {
        Self::spawn(context, arguments, None, None)
    }

    /// As [`Vmm::start`], with this as its standard output.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_with_output(context: &Context, arguments: &[String], output: OwnedFd) -> Self {
        Self::spawn(context, arguments, None, Some(output))
    }

    /// Starts the VMM on a terminal of its own, and returns the other end.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_on_terminal(context: &Context, arguments: &[String]) -> (Self, Console) {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let path = ptsname(&controller, Vec::new()).unwrap();
        let path = path.to_str().unwrap().to_owned();
        let terminal = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let (stdin, stdout) = (terminal.try_clone().unwrap().into(), terminal.into());
        let vmm = Self::spawn(context, arguments, Some(stdin), Some(stdout));
        (vmm, Console::terminal(controller))
    }

    fn spawn(
        context: &Context,
        arguments: &[String],
        stdin: Option<OwnedFd>,
        stdout: Option<OwnedFd>,
    ) -> Self {
        let number = context.next_number();
        let path = |name: &str| context.dir.join(format!("{name}{number}"));
        let (socket, log, events, output) = (path("api"), path("log"), path("events"), path("output"));
        let mut command = Command::new(context.vmm());
        command.arg("--api-socket").arg(&socket).arg("--log-file").arg(&log).arg("-v");
        command.arg("--event-monitor").arg(format!("path={}", events.display())).args(arguments);
        // A configuration may name files by relative paths, also one that a fuzzer made up.
        command.current_dir(&context.dir);
        let output_file = File::create(&output).unwrap();
        command.env("DBUS_SESSION_BUS_ADDRESS", context.bus_address());
        command.stderr(output_file.try_clone().unwrap());
        command.stdin(stdin.map_or_else(Stdio::null, Stdio::from));
        command.stdout(stdout.map_or_else(|| Stdio::from(output_file), Stdio::from));
        let child = command.spawn().unwrap_or_else(|e| panic!("{}: {e}", context.vmm().display()));
        let api = Client::new(socket.clone());
        let transcript = api.clone();
        context.evidence(format!("requests to VMM {number}"), move || transcript.transcript());
        context.evidence(format!("output of VMM {number}"), move || read_lossy(&output));
        context.evidence(format!("log of VMM {number}"), move || read_lossy(&log));
        let mut vmm = Self { child, api, events, socket };
        wait::until_true(wait::COMMAND, "the REST socket", || {
            if let Some(status) = vmm.child.try_wait().unwrap() {
                panic!("the VMM ended at once: {status}");
            }
            vmm.api.answers()
        });
        vmm
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sets a limit of the host's for the running process.
    ///
    /// # Panics
    /// The kernel refuses.
    pub fn set_limit(&self, resource: Resource, limit: u64) {
        let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
        prlimit(Some(Pid::from_child(&self.child)), resource, limit).unwrap();
    }

    /// Waits for the end of the process.
    ///
    /// # Panics
    /// It does not end.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait::until(wait::COMMAND, "the VMM to end", || child.try_wait().unwrap())
    }

    /// True while the process runs.
    ///
    /// # Panics
    /// Its state cannot be read.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its REST socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// True while its REST socket is in the file system.
    pub fn has_socket(&self) -> bool {
        self.socket.exists()
    }

    /// What it occupies now.
    ///
    /// # Panics
    /// The process is gone.
    pub fn footprint(&self) -> Footprint {
        let dir = PathBuf::from(format!("/proc/{}", self.pid()));
        let entries = |name: &str| fs::read_dir(dir.join(name)).unwrap().count();
        let mappings = fs::read_to_string(dir.join("maps")).unwrap().lines().count();
        Footprint { threads: entries("task"), descriptors: entries("fd"), mappings }
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lossy(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

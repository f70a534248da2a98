//! A message bus of a test's own, and the programs that talk there.

use crate::context::Context;
use crate::wait;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

/// The VMM's name on the bus.
pub const NAME: &str = "org.example.Vm1";
/// The VMM's object.
pub const PATH: &str = "/org/example/Vm1";
/// The interface of all methods.
pub const INTERFACE: &str = "org.cloudhypervisor.DBusApi1";

/// The flags that put a VMM, or `ch-remote`, on the bus.
pub const FLAGS: [&str; 4] = ["--dbus-service-name", NAME, "--dbus-object-path", PATH];

/// A running `dbus-daemon`; killed when dropped.
pub struct Bus {
    daemon: Child,
    address: String,
}

/// A program that writes what it hears to a file; killed when dropped.
pub struct Listener {
    program: Child,
    file: PathBuf,
}

impl Bus {
    /// Starts the test's bus.
    ///
    /// # Panics
    /// It does not start.
    pub fn start(context: &Context) -> Self {
        let address = context.bus_address();
        let mut daemon = Command::new("dbus-daemon");
        daemon.args(["--session", "--nofork", "--nosyslog", "--address", &address]);
        let daemon = daemon.spawn().unwrap();
        wait::until_true(wait::COMMAND, "the bus", || context.path("bus").exists());
        Self { daemon, address }
    }

    /// A program on this bus.
    pub fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("DBUS_SESSION_BUS_ADDRESS", &self.address).stdin(Stdio::null());
        command
    }

    /// `busctl call` of a method of `interface`.
    ///
    /// # Panics
    /// There is no `busctl`.
    pub fn busctl(&self, interface: &str, arguments: &[&str]) -> Output {
        let mut busctl = self.program("busctl");
        busctl.args(["--user", "call", NAME, PATH, interface]).args(arguments).output().unwrap()
    }

    /// Starts `command` as a listener; it is ready when it has written `ready`.
    ///
    /// # Panics
    /// It is not in time.
    pub fn listen(context: &Context, command: &mut Command, ready: &str) -> Listener {
        let file = context.path(&format!("heard{}", context.next_number()));
        let program = command.stdout(File::create(&file).unwrap()).spawn().unwrap();
        let listener = Listener { program, file };
        wait::until_true(wait::COMMAND, ready, || listener.heard().contains(ready));
        listener
    }
}

impl Listener {
    /// All that was heard so far.
    pub fn heard(&self) -> String {
        fs::read_to_string(&self.file).unwrap_or_default()
    }

    /// Waits until `text` was heard.
    ///
    /// # Panics
    /// It was not in time.
    pub fn wait_for(&self, text: &str) {
        wait::until_true(wait::COMMAND, text, || self.heard().contains(text));
    }

    /// Waits until the program has ended well.
    ///
    /// # Panics
    /// It does not end, or not well.
    pub fn wait_exit(&mut self) {
        let status = wait::until(wait::COMMAND, "the listener to end", || self.program.try_wait().unwrap());
        assert!(status.success(), "{status}: {}", self.heard());
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

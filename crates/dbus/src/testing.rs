//! For tests of the door and of its clients (cargo feature `testing`): a private bus, and a door on it with a fake control loop behind.
//!
//! They need the Debian packages `dbus-daemon`, `systemd` (busctl) and `libglib2.0-bin` (gdbus); `cargo xtask test` installs them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::new_without_default,
    reason = "a test that cannot go on panics"
)]

use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command as Program, Output, Stdio};
use std::sync::Arc;

use api::testing::{FakeLoop, fake_api, succeed};
use api::{Client, Command, EventLog};

use crate::{Bus, Server, Settings, serve};

/// What the door is called.
pub const NAME: &str = "org.example.Vm1";
/// Where the door is.
pub const PATH: &str = "/org/example/Vm1";

/// A bus of the test's own.
pub struct Daemon {
    /// The daemon.
    pub process: Child,
    /// Its address.
    pub address: String,
    _dir: tempfile::TempDir,
}

impl Daemon {
    /// Starts one.
    ///
    /// # Panics
    /// It does not start.
    pub fn new() -> Self {
        Self::start(tempfile::tempdir().unwrap(), "--session")
    }

    /// Starts one with this configuration.
    ///
    /// # Panics
    /// It does not start.
    pub fn with_configuration(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bus.conf");
        std::fs::write(&file, text).unwrap();
        // Other users are to be refused by the bus, not by its directory.
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        Self::start(dir, &format!("--config-file={}", file.display()))
    }

    fn start(dir: tempfile::TempDir, configuration: &str) -> Self {
        let mut process = Program::new("dbus-daemon")
            .args([configuration, "--nofork", "--nosyslog", "--print-address", "--address"])
            .arg(format!("unix:path={}", dir.path().join("bus").display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("dbus-daemon: {e}; install the package dbus-daemon"));
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { process, address: address.trim().into(), _dir: dir }
    }

    /// A door on this bus.
    pub fn settings(&self) -> Settings {
        let bus = Bus::At(self.address.clone());
        Settings { service_name: NAME.into(), object_path: PATH.into(), bus }
    }

    /// A program that talks to this bus.
    pub fn program(&self, name: &str) -> Program {
        let mut program = Program::new(name);
        program.env("DBUS_SESSION_BUS_ADDRESS", &self.address).stdin(Stdio::null());
        program
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A door on a bus, and what is behind it.
pub struct House {
    /// The bus.
    pub daemon: Daemon,
    /// What the door calls.
    pub client: Client,
    /// The door.
    pub server: Option<Server>,
    _loop: FakeLoop,
}

impl House {
    /// Commands succeed, or are not implemented.
    ///
    /// # Panics
    /// The door does not open.
    pub fn new() -> Self {
        Self::with(succeed)
    }

    /// Commands are answered by `answer`.
    ///
    /// # Panics
    /// The door does not open.
    pub fn with(answer: impl FnMut(Command) + Send + 'static) -> Self {
        let daemon = Daemon::new();
        let (client, inbox) = fake_api();
        let server = serve(daemon.settings(), client.clone()).unwrap();
        Self { daemon, client, server: Some(server), _loop: FakeLoop::new(inbox, answer) }
    }

    /// What has happened.
    pub fn events(&self) -> &Arc<EventLog> {
        self.client.reads().events()
    }

    /// `busctl call` of a method, with what follows its name.
    ///
    /// # Panics
    /// There is no such program.
    pub fn busctl(&self, arguments: &[&str]) -> Output {
        let mut busctl = self.daemon.program("busctl");
        busctl.args(["--user", "call", NAME, PATH, api::dbus::INTERFACE]).args(arguments).output().unwrap()
    }

    /// `gdbus call` of a method, with what follows its name.
    ///
    /// # Panics
    /// There is no such program.
    pub fn gdbus(&self, arguments: &[&str]) -> Output {
        let mut gdbus = self.daemon.program("gdbus");
        gdbus.args(["call", "--session", "--dest", NAME, "--object-path", PATH, "--method"]);
        let method = format!("{}.{}", api::dbus::INTERFACE, arguments[0]);
        gdbus.arg(method).args(&arguments[1..]).output().unwrap()
    }
}

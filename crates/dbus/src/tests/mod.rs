//! The door as tools and clients on a bus see it: a private `dbus-daemon`, with a fake control loop behind the door.
//!
//! They need the Debian packages `dbus-daemon`, `systemd` (busctl) and `libglib2.0-bin` (gdbus); `cargo xtask test` installs them.

mod calls;
mod events;
mod tools;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command as Program, Output, Stdio};
use std::sync::Arc;

use api::testing::{FakeLoop, fake_api, succeed};
use api::{Client, Command, EventLog};
use zbus::connection::Builder;
use zbus::{Connection, Message, message};

use crate::{Bus, ServeError, Server, Settings, serve};

const NAME: &str = "org.example.Vm1";
const PATH: &str = "/org/example/Vm1";

/// A bus of the test's own.
struct Daemon {
    process: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Daemon {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut process = Program::new("dbus-daemon")
            .args(["--session", "--nofork", "--nosyslog", "--print-address", "--address"])
            .arg(format!("unix:path={}", dir.path().join("bus").display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("dbus-daemon: {e}; install the package dbus-daemon"));
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { process, address: address.trim().into(), _dir: dir }
    }

    fn settings(&self) -> Settings {
        let bus = Bus::At(self.address.clone());
        Settings { service_name: NAME.into(), object_path: PATH.into(), bus }
    }

    /// A program that talks to this bus.
    fn program(&self, name: &str) -> Program {
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
struct House {
    daemon: Daemon,
    client: Client,
    server: Option<Server>,
    _loop: FakeLoop,
}

impl House {
    /// Commands succeed, or are not implemented.
    fn new() -> Self {
        Self::with(succeed)
    }

    fn with(answer: impl FnMut(Command) + Send + 'static) -> Self {
        let daemon = Daemon::new();
        let (client, inbox) = fake_api();
        let server = serve(daemon.settings(), client.clone()).unwrap();
        Self { daemon, client, server: Some(server), _loop: FakeLoop::new(inbox, answer) }
    }

    fn events(&self) -> &Arc<EventLog> {
        self.client.reads().events()
    }

    /// `busctl call` of a method, with what follows its name.
    fn busctl(&self, arguments: &[&str]) -> Output {
        let mut busctl = self.daemon.program("busctl");
        busctl.args(["--user", "call", NAME, PATH, api::dbus::INTERFACE]).args(arguments).output().unwrap()
    }

    /// `gdbus call` of a method, with what follows its name.
    fn gdbus(&self, arguments: &[&str]) -> Output {
        let mut gdbus = self.daemon.program("gdbus");
        gdbus.args(["call", "--session", "--dest", NAME, "--object-path", PATH, "--method"]);
        let method = format!("{}.{}", api::dbus::INTERFACE, arguments[0]);
        gdbus.arg(method).args(&arguments[1..]).output().unwrap()
    }

    fn connect(&self) -> Caller {
        Caller::new(&self.daemon.address)
    }
}

/// A client on the bus, with a runtime of its own.
struct Caller {
    runtime: tokio::runtime::Runtime,
    connection: Connection,
}

impl Caller {
    fn new(address: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let connection = runtime.block_on(Builder::address(address).build()).unwrap();
        Self { runtime, connection }
    }

    /// A call that is not sent yet.
    fn message(&self, method: &str) -> message::Builder<'static> {
        let call = Message::method_call(PATH, method.to_owned());
        call.destination(NAME).interface(api::dbus::INTERFACE)
    }

    fn call<B: zbus::wire::DynamicType + serde::Serialize>(
        &self,
        method: &str,
        body: &B,
    ) -> Result<Message, (String, String)> {
        let call = self.connection.call_method(Some(NAME), PATH, Some(api::dbus::INTERFACE), method, body);
        self.runtime.block_on(call).map_err(told)
    }
}

/// An error's name and text.
fn told(error: zbus::Error) -> (String, String) {
    match error {
        zbus::Error::MethodError(name, text, _) => (name.to_string(), text.unwrap_or_default()),
        zbus::Error::FDO(error) => {
            let error: &dyn zbus::DBusError = &*error;
            (error.name().to_string(), error.description().unwrap_or_default().into())
        }
        other => panic!("{other:?}"),
    }
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim_end().into()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim_end().into()
}

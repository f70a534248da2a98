//! A running guest that beats, and what its VMM is asked to do with it.

use super::listener::Listener;
use crate::call::Connection;
use crate::contestant::{Machine, Process, describe, run};
use crate::error::{Error, Result};
use crate::guest::CMDLINE;
use crate::places::Places;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use vmbench::results::Contestant;

/// How often to ask for what takes its time, where nothing tells.
const LOOK: Duration = Duration::from_millis(5);
/// Longer than anything takes.
const LIMIT: Duration = Duration::from_secs(600);

/// How much RAM there is, and what is in it, in MiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) memory: u64,
    /// Filled with what is not zero: five eighths.
    pub(crate) fill: u64,
}

impl Size {
    pub(crate) const SMALL: Self = Self { memory: 256, fill: 160 };
    pub(crate) const LARGE: Self = Self { memory: 2048, fill: 1280 };

    pub(crate) fn is_large(self) -> bool {
        self.memory > Self::SMALL.memory
    }
}

/// What kind of guest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) size: Size,
    /// MiB that are written to all the time.
    pub(crate) busy: u64,
    /// Whether its RAM can be handed to another process.
    pub(crate) shared: bool,
}

impl Kind {
    pub(crate) const fn idle(size: Size) -> Self {
        Self { size, busy: 0, shared: false }
    }
}

/// Everything that one contestant's guests have in common.
pub(crate) struct Stage<'a> {
    pub(crate) places: &'a Places,
    pub(crate) who: Contestant,
    pub(crate) listener: &'a Listener,
}

/// A guest and its VMM, which ends with this value.
pub(crate) struct Guest {
    pub(crate) process: Process,
    pub(crate) connection: Connection,
    pub(crate) kind: Kind,
}

impl Stage<'_> {
    /// The command that boots a guest of this kind, or that builds the same machine for one that is to come (QEMU).
    pub(crate) fn command(&self, kind: Kind, serial: &Path) -> Command {
        let machine = Machine {
            kernel: self.places.image("vmlinux"),
            initramfs: self.places.image("initramfs-hotplug"),
            cmdline: format!("{CMDLINE} bench=state fill={} busy={}", kind.size.fill, kind.busy),
            memory_mib: kind.size.memory,
            serial: serial.to_owned(),
            disks: Vec::new(),
            tap: None,
            api: None,
            shared: kind.shared,
        };
        run(self.who, self.places.vmm(self.who), &machine)
    }

    /// Boots a guest and waits until it beats. Adds its command line to `text`.
    pub(crate) fn boot(&self, kind: Kind, text: &mut String) -> Result<Guest> {
        let api = self.api("api");
        let mut command = self.command(kind, self.listener.path());
        self.listen(&mut command, &api);
        text.push_str(&describe(&command));
        self.listener.forget();
        let mut process = self.start(command)?;
        let connection = self.connect(&api, &mut process)?;
        self.listener.wait_ready(self.who.name(), &mut process)?;
        Ok(Guest { process, connection, kind })
    }

    /// A path for an API socket.
    pub(crate) fn api(&self, name: &str) -> PathBuf {
        let api = self.places.scratch.join(format!("state-{name}"));
        let _ = std::fs::remove_file(&api);
        api
    }

    /// Has the command listen for requests.
    pub(crate) fn listen(&self, command: &mut Command, api: &Path) {
        if self.who.is_ours() {
            command.arg("--api-socket").arg(api);
        } else {
            command.args(["-qmp", &format!("unix:{},server=on,wait=off", api.display())]);
        }
    }

    pub(crate) fn start(&self, command: Command) -> Result<Process> {
        Process::start(command, &self.places.scratch.join("log"))
    }

    /// A connection to a process that is about to listen.
    pub(crate) fn connect(&self, api: &Path, process: &mut Process) -> Result<Connection> {
        let deadline = Instant::now() + LIMIT;
        loop {
            match Connection::open(self.who, api) {
                Ok(connection) => return Ok(connection),
                Err(source) if process.has_ended() || Instant::now() > deadline => {
                    return Err(self.failed(source));
                }
                Err(_) => thread::sleep(LOOK),
            }
        }
    }

    pub(crate) fn failed(&self, source: std::io::Error) -> Error {
        Error::Call { who: self.who.name(), source }
    }

    /// A request.
    pub(crate) fn order(&self, connection: &mut Connection, name: &str, body: &Value) -> Result<()> {
        connection.order(name, body).map_err(|e| self.failed(e))
    }

    /// Asks again and again until `look` finds something in the answer.
    pub(crate) fn poll<T>(
        &self,
        connection: &mut Connection,
        question: &str,
        look: impl Fn(&Value) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let answer = connection.ask(question).map_err(|e| self.failed(e))?;
            if let Some(found) = look(&answer) {
                return Ok(found);
            }
            if Instant::now() > deadline {
                let (what, seconds) = ("another answer", LIMIT.as_secs());
                return Err(Error::Late { who: self.who.name(), what, seconds, seen: answer.to_string() });
            }
            thread::sleep(LOOK);
        }
    }

    /// Waits until `QEMU` has sent all; returns how long the guest stood still by its own account, in milliseconds.
    pub(crate) fn wait_migrated(&self, connection: &mut Connection) -> Result<f64> {
        let ended = |answer: &Value| match answer["status"].as_str() {
            Some("completed") => Some(answer["downtime"].as_f64()),
            Some("failed" | "cancelled") => Some(None),
            _ => None,
        };
        let downtime = self.poll(connection, "query-migrate", ended)?;
        downtime.ok_or_else(|| self.failed(std::io::Error::other("the migration failed")))
    }

    /// Waits for a file.
    pub(crate) fn wait_file(&self, path: &Path) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while !path.exists() {
            if Instant::now() > deadline {
                let (what, seconds) = ("a file", LIMIT.as_secs());
                let seen = path.display().to_string();
                return Err(Error::Late { who: self.who.name(), what, seconds, seen });
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// QEMU's own limit of what it sends a second would be what is measured.
    pub(crate) fn without_limit(&self, connection: &mut Connection) -> Result<()> {
        self.order(connection, "migrate-set-parameters", &json!({"max-bandwidth": 64_u64 << 30}))
    }
}

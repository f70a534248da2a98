//! Clients of the REST API that are not ours, each made to do what a test says.

use crate::bridge::Bridge;
use crate::context::Context;
use crate::outside::{Program, Running};
use crate::wait;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a client told of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// It went well; what the client made of the reply, `null` for an empty one.
    Reply(Value),
    /// It was refused with this status.
    Refusal(u16),
}

/// A client.
pub trait Caller {
    /// Calls a verb of the VMM.
    ///
    /// # Panics
    /// The client breaks, or does not understand what it is told.
    fn call(&mut self, verb: &str, body: Option<&Value>) -> Told;
}

/// A client in a process of its own that takes calls from its standard input, as `tools/clients` describes.
pub struct Process(Running);

impl Process {
    /// Starts the client outside the lab; the VMM's API is at `socket`.
    ///
    /// # Panics
    /// It does not start.
    pub fn start(context: &Context, program: &Program, socket: &Path) -> Self {
        let bridge = Bridge::open();
        let running = program.start(context, bridge.port());
        bridge.serve(socket.to_owned());
        Self(running)
    }
}

impl Caller for Process {
    fn call(&mut self, verb: &str, body: Option<&Value>) -> Told {
        match body {
            Some(body) => self.0.say(&format!("{verb} {body}")),
            None => self.0.say(verb),
        }
        let line = self.0.line(wait::BOOT, &format!("the client's answer to {verb}"));
        let mut answer: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        if let Some(status) = answer["status"].as_u64() {
            return Told::Refusal(u16::try_from(status).unwrap());
        }
        let reply = answer.get_mut("reply").map(Value::take);
        Told::Reply(reply.unwrap_or_else(|| panic!("the client is confused by {verb}: {line}")))
    }
}

/// `curl --unix-socket`, once for each call.
pub struct Curl {
    /// The API's socket.
    pub socket: PathBuf,
}

impl Caller for Curl {
    fn call(&mut self, verb: &str, body: Option<&Value>) -> Told {
        let is_read = matches!(verb, "vmm.ping" | "vm.info" | "vm.counters");
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--unix-socket"]).arg(&self.socket);
        curl.args(["--write-out", "\n%{http_code}", "--request", if is_read { "GET" } else { "PUT" }]);
        if let Some(body) = body {
            curl.args(["--header", "Content-Type: application/json", "--data", &body.to_string()]);
        }
        let output = curl.arg(format!("http://localhost/api/v1/{verb}")).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "curl {verb}: {}", String::from_utf8_lossy(&output.stderr));
        let (body, status) = text.rsplit_once('\n').unwrap();
        match status.parse().unwrap() {
            200 | 204 if body.is_empty() => Told::Reply(Value::Null),
            200 => Told::Reply(serde_json::from_str(body).unwrap()),
            status => Told::Refusal(status),
        }
    }
}

/// A program or directory that `cargo xtask test` made for these tests and names in an environment variable.
///
/// # Panics
/// It did not.
pub fn tool(variable: &str) -> PathBuf {
    let path =
        std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} is not set: run `cargo xtask test`"));
    Path::new(&path).to_owned()
}

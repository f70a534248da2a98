//! A running guest that moves to another process.

use super::guest::{Guest, Kind, Size, Stage};
use super::listener::Silence;
use crate::error::Result;
use serde_json::{Value, json};
use std::io;
use std::process::Command;
use std::time::Instant;
use vmbench::results::{Quantity, Results};
use vmtest::rest::request_text;

/// Beats to wait for after a move, so that the silence is over.
const AFTERWARDS: usize = 5;

/// A way from process to process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Over so many TCP connections.
    Tcp(u64),
    /// Memory as descriptors.
    Local,
}

/// How a move went.
struct Moved {
    guest: Guest,
    /// RAM that is not zero, in MiB, over the time from the request until the guest was there.
    rate: f64,
    silence: Silence,
}

impl Stage<'_> {
    /// The guest goes over one connection, then on over four.
    pub(crate) fn moves(&self, guest: Guest, results: &mut Results) -> Result<()> {
        let Moved { guest, rate, silence } = self.go(guest, Way::Tcp(1), results)?;
        results.push(Quantity::MoveOne, self.who, rate);
        results.push(Quantity::SilenceOne, self.who, silence.heard);
        let Moved { rate, silence, .. } = self.go(guest, Way::Tcp(4), results)?;
        results.push(Quantity::MoveFour, self.who, rate);
        results.push(Quantity::SilenceFour, self.who, silence.heard);
        Ok(())
    }

    /// A guest whose RAM is handed over as descriptors.
    pub(crate) fn hand_over(&self, results: &mut Results) -> Result<()> {
        let kind = Kind { shared: true, ..Kind::idle(Size::LARGE) };
        let guest = self.boot(kind, &mut String::new())?;
        let Moved { silence, .. } = self.go(guest, Way::Local, results)?;
        results.push(Quantity::SilenceLocal, self.who, silence.heard);
        results.push(Quantity::ClockLocal, self.who, silence.by_guest);
        Ok(())
    }

    /// Moves the guest; the process that had it ends.
    fn go(&self, mut source: Guest, way: Way, results: &mut Results) -> Result<Moved> {
        let mut text = String::new();
        let (guest, begin, end) = if self.who.is_ours() {
            self.go_ours(&mut source, way, &mut text)?
        } else {
            self.go_qemus(&mut source, way, &mut text)?
        };
        results.command(&format!("{}, {}", self.who.name(), way.name()), text.trim());
        drop(source);
        let mut guest = guest;
        self.listener.wait_beat(self.who.name(), &mut guest.process, end, AFTERWARDS)?;
        let rate = guest.kind.size.fill as f64 / (end - begin).as_secs_f64();
        Ok(Moved { guest, rate, silence: self.listener.silence(begin) })
    }

    fn go_ours(&self, source: &mut Guest, way: Way, text: &mut String) -> Result<(Guest, Instant, Instant)> {
        let api = self.api(way.api());
        let mut command = Command::new(self.places.vmm(self.who));
        self.listen(&mut command, &api);
        let mut process = self.start(command)?;
        let mut arriving = self.connect(&api, &mut process)?;
        let mut connection = self.connect(&api, &mut process)?;
        let url = match way {
            Way::Tcp(count) => format!("tcp:127.0.0.1:{}", 7000 + count),
            Way::Local => format!("unix:{}", self.api("migration").display()),
        };
        let receive = json!({"receiver_url": url});
        let mut send = json!({"destination_url": url});
        match way {
            Way::Tcp(1) => {}
            Way::Tcp(count) => send["connections"] = json!(count),
            Way::Local => send["local"] = json!(true),
        }
        text.push_str(&format!("\n  vm.receive-migration {receive}\n  vm.send-migration {send}"));
        let request = request_text("PUT", "vm.receive-migration", Some(&receive));
        arriving.send(&request).map_err(|e| self.failed(e))?;
        let waits = |answer: &Value| (answer["jobs"][0]["state"] == "running").then_some(());
        self.poll(&mut connection, "vm.jobs", waits)?;
        let begin = Instant::now();
        self.order(&mut source.connection, "vm.send-migration", &send)?;
        arriving.reply().map_err(|e| self.failed(e))?;
        Ok((Guest { process, connection, kind: source.kind }, begin, Instant::now()))
    }

    fn go_qemus(&self, source: &mut Guest, way: Way, text: &mut String) -> Result<(Guest, Instant, Instant)> {
        let api = self.api(way.api());
        let mut command = self.command(source.kind, self.listener.path());
        self.listen(&mut command, &api);
        command.args(["-incoming", "defer"]);
        let mut process = self.start(command)?;
        let mut connection = self.connect(&api, &mut process)?;
        let Way::Tcp(count) = way else { return Err(self.failed(io::ErrorKind::Unsupported.into())) };
        if count > 1 {
            for side in [&mut connection, &mut source.connection] {
                let many = json!([{"capability": "multifd", "state": true}]);
                self.order(side, "migrate-set-capabilities", &json!({"capabilities": many}))?;
                self.order(side, "migrate-set-parameters", &json!({"multifd-channels": count}))?;
            }
            text.push_str(&format!("\n  multifd with {count} channels on either side"));
        }
        let url = json!({"uri": format!("tcp:127.0.0.1:{}", 7000 + count)});
        self.order(&mut connection, "migrate-incoming", &url)?;
        self.without_limit(&mut source.connection)?;
        text.push_str(&format!("\n  migrate-incoming {url}\n  migrate {url}"));
        let begin = Instant::now();
        self.order(&mut source.connection, "migrate", &url)?;
        self.wait_migrated(&mut source.connection)?;
        Ok((Guest { process, connection, kind: source.kind }, begin, Instant::now()))
    }
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp(1) => "migration over one connection",
            Self::Tcp(_) => "migration over several connections",
            Self::Local => "local hand-over",
        }
    }

    /// Names the socket of the process that the guest goes to.
    fn api(self) -> &'static str {
        match self {
            Self::Tcp(1) => "api-one",
            Self::Tcp(_) => "api-several",
            Self::Local => "api-local",
        }
    }
}

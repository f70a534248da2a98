//! The `ch-remote` program: one call of a running VMM's API per invocation (`spec/cli.md` §2), and what people like to have around
//! it (`wait`, `console`, `events`, tables, completions, a snapshot's files). One thread, and another for a call that is watched (`watch`).
//!
//! ```text
//!  arguments --cli, table--> Payload --Remote (rest, bus)--> reply --output--> stdout
//!                                          |
//!                                          +--failure--> report --> stderr, exit 1
//! ```

#[cfg(feature = "dbus_api")]
mod bus;
mod cli;
mod console;
mod devices;
mod events;
mod output;
mod payload;
mod remote;
mod report;
mod rest;
mod snapshots;
mod table;
mod wait;
mod watch;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::ArgMatches;
use clap::error::ErrorKind;

use cli::{Endpoint, OnFiles};
use console::ConsoleError;
use devices::StayError;
use events::EventsError;
use output::Format;
use payload::{Given, Payload, PayloadError};
use remote::{Remote, RemoteError};
use rest::Rest;
use table::Subcommand;
use wait::WaitError;

/// Between two looks of `wait`.
const WAIT_INTERVAL: Duration = Duration::from_millis(100);

/// What ends the process with code 1.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("Error in the arguments of {0}")]
    Arguments(&'static str, #[source] PayloadError),
    #[error("{}", .0.client())]
    Remote(#[from] RemoteError),
    #[error("Error waiting for the VM")]
    Wait(#[from] WaitError),
    #[error("Error listing the devices")]
    Devices(#[source] serde_json::Error),
    #[error("Error waiting for the guest")]
    Stay(#[from] StayError),
    #[error("Error attaching to the console")]
    Console(#[from] ConsoleError),
    #[error("Error in a snapshot's files")]
    Snapshot(#[from] snapshot::Error),
    #[error("Error following the events")]
    Events(#[from] EventsError),
    #[error("Error writing the output")]
    Output(#[source] io::Error),
}

impl Failure {
    /// Whether nobody reads the output any more.
    fn is_reader_gone(&self) -> bool {
        match self {
            Self::Output(error) | Self::Events(EventsError::Output(error)) => {
                error.kind() == io::ErrorKind::BrokenPipe
            }
            _ => false,
        }
    }
}

fn main() -> ExitCode {
    let matches = cli::command().get_matches();
    match run(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        // As of any filter: `ch-remote events | head` has read all it wants.
        Err(failure) if failure.is_reader_gone() => ExitCode::FAILURE,
        Err(failure) => {
            // Nobody is left to be told that standard error is gone.
            let _ = io::stderr().write_all(report::text(&failure).as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let Some((name, arguments)) = matches.subcommand() else {
        cli::usage_error(ErrorKind::MissingSubcommand, "a subcommand is needed");
    };
    if name == cli::COMPLETIONS {
        return print(&cli::completions(arguments));
    }
    let format = matches.get_one::<Format>(cli::OUTPUT).copied();
    if let Some(what) = cli::on_files(name, arguments) {
        let format = format.unwrap_or_else(default_format);
        return print(&match what {
            OnFiles::Inspect(dir) => snapshots::inspect(&dir, format)?,
            OnFiles::Flatten(dir, out) => snapshots::flatten(&dir, &out, format)?,
        });
    }
    let endpoint = cli::endpoint(matches).unwrap_or_else(|(kind, text)| cli::usage_error(kind, text));
    match name {
        cli::WAIT => wait(endpoint, arguments),
        cli::CONSOLE => {
            let info = remote(endpoint, None).call(wait::VM_INFO, &Payload::default())?;
            Ok(console::attach(&info.unwrap_or_default(), cli::console_device(arguments))?)
        }
        cli::DEVICES => {
            let info = remote(endpoint, None).call(wait::VM_INFO, &Payload::default())?.unwrap_or_default();
            print(&devices::render(&info, format.unwrap_or_else(default_format)).map_err(Failure::Devices)?)
        }
        cli::EVENTS => events(&*remote(endpoint, None), arguments, format),
        _ => table::find(name).map_or(Ok(()), |sub| call(endpoint, sub, arguments, format)),
    }
}

/// Sends one subcommand's request and prints the reply.
fn call(
    endpoint: Endpoint,
    sub: &Subcommand,
    arguments: &ArgMatches,
    format: Option<Format>,
) -> Result<(), Failure> {
    let payload = sub.payload(&Given(arguments)).map_err(|e| Failure::Arguments(sub.name, e))?;
    let another = || remote(endpoint.clone(), None);
    let reply = if watch::is_watched(sub.verb) {
        watch::call(another(), another, sub.verb, payload)
    } else {
        another().call(sub.verb, &payload)
    };
    if let Some(body) = reply? {
        print(&output::render(sub.verb, &body, format, io::stdout().is_terminal()))?;
    }
    if let Some(id) = cli::awaited_device(sub.name, arguments) {
        devices::wait_until_gone(&*another(), &id, || thread::sleep(WAIT_INTERVAL))?;
    }
    Ok(())
}

/// Tables for people, JSON for programs.
fn default_format() -> Format {
    if io::stdout().is_terminal() { Format::Table } else { Format::Json }
}

/// The way to the VMM at `endpoint`. No call waits beyond `deadline`.
fn remote(endpoint: Endpoint, deadline: Option<Instant>) -> Box<dyn Remote + Send> {
    match endpoint {
        Endpoint::Socket(path) => Box::new(Rest::new(path, deadline)),
        #[cfg(feature = "dbus_api")]
        Endpoint::Bus(address) => Box::new(bus::Bus::new(address, deadline)),
    }
}

fn wait(endpoint: Endpoint, arguments: &ArgMatches) -> Result<(), Failure> {
    let (state, patience) = cli::wait_arguments(arguments);
    let deadline = Instant::now().checked_add(patience);
    let remote = remote(endpoint, deadline);
    let again = || {
        let left =
            deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
        thread::sleep(left.min(WAIT_INTERVAL));
        !left.is_zero()
    };
    Ok(wait::wait(&*remote, state, again)?)
}

fn events(remote: &dyn Remote, arguments: &ArgMatches, format: Option<Format>) -> Result<(), Failure> {
    let format = format.unwrap_or_else(default_format);
    let mut stdout = io::stdout().lock();
    let mut each = |data: &[u8]| events::print(data, format, &mut stdout);
    Ok(remote.events(cli::all_events(arguments), &mut each)?)
}

fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Failure::Output)
}

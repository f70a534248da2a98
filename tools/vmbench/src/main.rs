//! Takes the measurements: `vmbench host ROUNDS` what needs no guest, `vmbench guest ROUNDS` the rest, `vmbench hotplug ROUNDS` of that only
//! what comes to a running guest, `vmbench state ROUNDS` only snapshots, restores and migrations. The samples go to standard output as JSON, progress to standard error. `cargo xtask bench` runs it with the environment it needs.

#![allow(clippy::print_stdout)] // the samples are the output

mod call;
mod contestant;
mod error;
mod footprint;
mod guest;
mod host;
mod hotplug;
mod hung;
mod places;
mod serial;
mod state;

use error::{Error, Result};
use std::error::Error as _;
use std::process::ExitCode;
use vmbench::results::Results;

fn main() -> ExitCode {
    match run() {
        Ok(results) => {
            println!("{}", serde_json::json!(results));
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("error: {e}");
            let mut source = e.source();
            while let Some(cause) = source {
                eprintln!("  because: {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<Results> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [part, rounds] = arguments.as_slice() else { return Err(Error::Usage) };
    let rounds = rounds.parse().map_err(|_| Error::Usage)?;
    let places = places::Places::find()?;
    match part.as_str() {
        "host" => host::measure(&places, rounds),
        "guest" => guest::measure(&places, rounds),
        "hotplug" => hotplug::measure(&places, rounds),
        "state" => state::measure(&places, rounds),
        _ => Err(Error::Usage),
    }
}

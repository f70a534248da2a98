//! What needs no guest: start-up, API latency, memory of a VM that is created and does not run. QEMU's like of it is a machine whose
//! CPUs wait for the word (`-S`).

use crate::call::Connection;
use crate::contestant::{Process, describe, qemu_base};
use crate::error::{Error, Result};
use crate::footprint;
use crate::places::Places;
use serde_json::json;
use std::io;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use vmbench::results::{Contestant, Quantity, Results, percentile};

const MEMORY_MIB: u64 = 512;
const WARM_UP_CALLS: usize = 200;
const CALLS: usize = 2000;
/// How often the socket is tried; what it adds to the start is about the half.
const RETRY: Duration = Duration::from_micros(50);
const LIMIT: Duration = Duration::from_secs(30);

/// Measures `rounds` times after one round that only warms the caches.
///
/// # Errors
/// This VMM cannot be measured. A QEMU that does not run here is left out.
pub(crate) fn measure(places: &Places, rounds: usize) -> Result<Results> {
    let mut results = Results::default();
    let mut contestants = Contestant::MAIN.to_vec();
    let mut warm_up = Results::default();
    contestants.retain(|who| match round(places, *who, &mut warm_up) {
        Ok(()) => true,
        Err(e) if *who != Contestant::CloudHypervisor => {
            eprintln!("    {} does not run here and is left out: {e}", who.name());
            false
        }
        // The next round says what is wrong.
        Err(_) => true,
    });
    for number in 1..=rounds {
        eprintln!("    API and memory, round {number} of {rounds}");
        for who in &contestants {
            round(places, *who, &mut results)?;
        }
    }
    Ok(results)
}

fn round(places: &Places, who: Contestant, results: &mut Results) -> Result<()> {
    let socket = places.scratch.join("api");
    let _ = std::fs::remove_file(&socket);
    let command = command(places, who, &socket);
    results.command(&format!("{}, API", who.name()), &describe(&command));
    let failed = |source| Error::Call { who: who.name(), source };
    let begin = Instant::now();
    let mut process = Process::start(command, &places.scratch.join("log"))?;
    let mut connection = connect(&mut process, who, &socket)?;
    connection.ping().map_err(failed)?;
    results.push(Quantity::Start, who, begin.elapsed().as_secs_f64() * 1e3);
    let times = call_times(&mut connection).map_err(failed)?;
    for (quantity, share) in [(Quantity::CallMedian, 0.5), (Quantity::CallTail, 0.99)] {
        if let Some(time) = percentile(&times, share) {
            results.push(quantity, who, time);
        }
    }
    if who == Contestant::CloudHypervisor {
        let config = json!({
            "cpus": {"boot_vcpus": 1, "max_vcpus": 1},
            "memory": {"size": MEMORY_MIB << 20},
            "payload": {"kernel": places.image("vmlinux"), "initramfs": places.image("initramfs")},
            "console": {"mode": "Off"},
        });
        connection.put("vm.create", &config).map_err(failed)?;
    }
    results.push(Quantity::Created, who, footprint::beyond_ram(process.id(), MEMORY_MIB)?);
    Ok(())
}

fn command(places: &Places, who: Contestant, socket: &Path) -> Command {
    if who == Contestant::CloudHypervisor {
        let mut command = Command::new(&places.vmm);
        command.arg("--api-socket").arg(socket);
        return command;
    }
    let mut command = qemu_base(who, MEMORY_MIB);
    command.arg("-S").args(["-qmp", &format!("unix:{},server=on,wait=off", socket.display())]);
    command
}

fn connect(process: &mut Process, who: Contestant, socket: &Path) -> Result<Connection> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match Connection::open(who, socket) {
            Ok(connection) => return Ok(connection),
            Err(source) if process.has_ended() || Instant::now() > deadline => {
                return Err(Error::Call { who: who.name(), source });
            }
            Err(_) => thread::sleep(RETRY),
        }
    }
}

/// Milliseconds of each call.
fn call_times(connection: &mut Connection) -> io::Result<Vec<f64>> {
    for _ in 0..WARM_UP_CALLS {
        connection.ping()?;
    }
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let begin = Instant::now();
        connection.ping()?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

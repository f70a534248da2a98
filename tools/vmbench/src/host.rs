//! What needs no guest: start-up, API latency, memory of a VM that is created and does not run. QEMU's like of it is a machine whose
//! CPUs wait for the word (`-S`).

use crate::call::Connection;
use crate::contestant::{Process, describe, qemu_base};
use crate::error::{Error, Result};
use crate::footprint;
use crate::places::Places;
use serde_json::{Value, json};
use std::io;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use vmbench::results::{Contestant, Quantity, Results, percentile};

const MEMORY_MIB: u64 = 512;
const WARM_UP_CALLS: usize = 200;
const CALLS: usize = 2000;
const CREATIONS: usize = 100;
/// How often the socket is tried; what it adds to the start is about the half.
const RETRY: Duration = Duration::from_micros(50);
const LIMIT: Duration = Duration::from_secs(30);

/// Measures `rounds` times after one round that only warms the caches.
///
/// # Errors
/// This VMM cannot be measured. A QEMU that does not run here is left out.
pub(crate) fn measure(places: &Places, rounds: usize) -> Result<Results> {
    let mut results = Results::default();
    let mut left_out = Vec::new();
    let mut warm_up = Results::default();
    for who in places.contestants(&Contestant::MAIN, 0) {
        match round(places, who, &mut warm_up) {
            Err(e) if !who.is_ours() => {
                eprintln!("    {} does not run here and is left out: {e}", who.name());
                left_out.push(who);
            }
            // The next round says what is wrong.
            _ => {}
        }
    }
    for number in 1..=rounds {
        eprintln!("    API and memory, round {number} of {rounds}");
        let contestants = places.contestants(&Contestant::MAIN, number);
        for who in contestants.into_iter().filter(|who| !left_out.contains(who)) {
            round(places, who, &mut results)?;
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
    let config = who.is_ours().then(|| {
        json!({
            "cpus": {"boot_vcpus": 1, "max_vcpus": 1},
            "memory": {"size": MEMORY_MIB << 20},
            "payload": {"kernel": places.image("vmlinux"), "initramfs": places.image("initramfs")},
            "console": {"mode": "Off"},
        })
    });
    if let Some(config) = &config {
        connection.put("vm.create", config).map_err(failed)?;
    }
    results.push(Quantity::Created, who, footprint::beyond_ram(process.id(), MEMORY_MIB)?);
    if let Some(config) = &config {
        let times = create_times(&mut connection, config).map_err(failed)?;
        results.push(Quantity::Create, who, percentile(&times, 0.5).unwrap_or_default());
    }
    Ok(())
}

fn command(places: &Places, who: Contestant, socket: &Path) -> Command {
    if who.is_ours() {
        let mut command = Command::new(places.vmm(who));
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

/// Milliseconds of each `vm.create`; there is a VM before and after.
fn create_times(connection: &mut Connection, config: &Value) -> io::Result<Vec<f64>> {
    let mut times = Vec::with_capacity(CREATIONS);
    for _ in 0..CREATIONS {
        connection.put_nothing("vm.delete")?;
        let begin = Instant::now();
        connection.put("vm.create", config)?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

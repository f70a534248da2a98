//! How soon `vm.info` answers while a boot takes its time: a reboot touches every page of a large RAM.

use crate::call::Connection;
use crate::contestant::Process;
use crate::error::{Error, Result};
use crate::places::Places;
use serde_json::json;
use std::io;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use vmbench::results::{Contestant, Quantity, Results, percentile};
use vmtest::rest::request_text;

const CALLS: usize = 1000;
const RETRY: Duration = Duration::from_millis(1);
/// RAM that takes longer to touch than all calls take, and that a lab has.
const RAM: u64 = 2 << 30;
const LIMIT: Duration = Duration::from_secs(60);

/// Adds how long calls take to `results`, for round `number`.
///
/// # Errors
/// The VMM does not boot, does not answer, or the reboot is faster than the calls.
pub(crate) fn measure(places: &Places, number: usize, results: &mut Results) -> Result<()> {
    for who in places.contestants(&[Contestant::CloudHypervisor], number) {
        let times = times(places, who).map_err(|source| Error::Call { who: who.name(), source })?;
        for (quantity, share) in [(Quantity::InfoWhileHung, 0.99), (Quantity::InfoSlowest, 1.0)] {
            if let Some(time) = percentile(&times, share) {
                results.push(quantity, who, time);
            }
        }
    }
    Ok(())
}

/// Milliseconds of each call.
fn times(places: &Places, who: Contestant) -> io::Result<Vec<f64>> {
    let socket = places.scratch.join("api");
    let _ = std::fs::remove_file(&socket);
    let mut command = Command::new(places.vmm(who));
    command.arg("--api-socket").arg(&socket);
    let _process = Process::start(command, &places.scratch.join("log")).map_err(io::Error::other)?;
    let mut asking = until(|| Connection::open(who, &socket))?;
    let config = json!({
        "payload": {"kernel": places.image("vmlinux"), "initramfs": places.image("initramfs")},
        "memory": {"size": RAM, "prefault": true, "thp": false},
        "serial": {"mode": "Null"},
        "console": {"mode": "Off"},
    });
    asking.put("vm.create", &config)?;
    asking.put_nothing("vm.boot")?;
    let mut booting = Connection::open(who, &socket)?;
    booting.send(&request_text("PUT", "vm.reboot", None))?;
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let begin = Instant::now();
        asking.get("vm.info")?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    if booting.has_reply()? { Err(io::Error::other("the reboot was too fast")) } else { Ok(times) }
}

fn until<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match attempt() {
            Err(_) if Instant::now() < deadline => thread::sleep(RETRY),
            result => return result,
        }
    }
}

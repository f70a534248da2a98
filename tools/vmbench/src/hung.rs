//! How soon `vm.info` answers while a boot hangs: its kernel is a FIFO into which nobody writes.

use crate::call::Connection;
use crate::contestant::Process;
use crate::error::{Error, Result};
use crate::places::Places;
use rustix::fs::{Mode, OFlags};
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use vmbench::results::{Contestant, Quantity, Results};
use vmtest::rest::request_text;

const CALLS: usize = 1000;
const RETRY: Duration = Duration::from_millis(1);
const LIMIT: Duration = Duration::from_secs(60);

/// Adds the slowest of many calls to `results`.
///
/// # Errors
/// The VMM does not come as far as reading its kernel, or does not answer.
pub(crate) fn measure(places: &Places, results: &mut Results) -> Result<()> {
    let who = Contestant::CloudHypervisor;
    let failed = |source| Error::Call { who: who.name(), source };
    let (socket, kernel) = (places.scratch.join("api"), places.scratch.join("kernel"));
    let _ = std::fs::remove_file(&socket);
    let _ = std::fs::remove_file(&kernel);
    let made = rustix::fs::mknodat(rustix::fs::CWD, &kernel, rustix::fs::FileType::Fifo, Mode::RWXU, 0);
    made.map_err(|e| failed(e.into()))?;
    let mut command = Command::new(&places.vmm);
    command.arg("--api-socket").arg(&socket);
    let _process = Process::start(command, &places.scratch.join("log"))?;
    let mut asking = until(|| Connection::open(who, &socket)).map_err(failed)?;
    let config = json!({"payload": {"kernel": kernel}, "console": {"mode": "Off"}});
    asking.put("vm.create", &config).map_err(failed)?;
    let mut booting = Connection::open(who, &socket).map_err(failed)?;
    booting.send(&request_text("PUT", "vm.boot", None)).map_err(failed)?;
    // Opening succeeds once the boot has opened the other end, and from then on it waits for what is never written.
    let _held = until(|| open_writer(&kernel)).map_err(failed)?;
    let mut slowest = 0.0_f64;
    for _ in 0..CALLS {
        let begin = Instant::now();
        asking.get("vm.info").map_err(failed)?;
        slowest = slowest.max(begin.elapsed().as_secs_f64() * 1e3);
    }
    results.push(Quantity::InfoWhileHung, who, slowest);
    Ok(())
}

fn open_writer(path: &Path) -> std::io::Result<std::os::fd::OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn until<T>(mut attempt: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match attempt() {
            Err(_) if Instant::now() < deadline => thread::sleep(RETRY),
            result => return result,
        }
    }
}

//! What needs a guest: the time to its init, the VMM's memory then, and the work of its disk and its network device. The guest's side
//! is `tools/xtask/src/guest-bench.sh`.

use crate::contestant::{Machine, Process, describe, run};
use crate::error::{Error, Result};
use crate::footprint;
use crate::hotplug;
use crate::hung;
use crate::places::Places;
use crate::serial::Serial;
use crate::state;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use vmbench::results::{Contestant, Quantity, Results};

/// The same for all: nothing is printed but what init prints.
pub(crate) const CMDLINE: &str = "console=ttyS0 quiet loglevel=0 panic=-1";
const BOOT_MEMORY_MIB: u64 = 256;
const LOAD_MEMORY_MIB: u64 = 512;
const DATA_MIB: usize = 512;
const BOOT_LIMIT: Duration = Duration::from_secs(120);
const LOAD_LIMIT: Duration = Duration::from_secs(240);
const TAP: &str = "vmbench0";

/// Measures boots of the ELF kernel `rounds` times; bzImages and the load half as often, as they take long.
///
/// # Errors
/// A contestant does not boot or its guest does not do its work.
pub(crate) fn measure(places: &Places, rounds: usize) -> Result<Results> {
    let mut serial = Serial::make(&places.scratch.join("serial"))?;
    let mut results = Results::default();
    eprintln!("    boots, a round to warm the caches");
    let elf = Boot { kernel: "vmlinux", quantity: Quantity::InitElf };
    let bzimage = Boot { kernel: "bzImage", quantity: Quantity::InitBzImage };
    boots(places, elf, 0, &mut serial, &mut Results::default())?;
    for number in 1..=rounds {
        eprintln!("    boots, round {number} of {rounds}");
        hung::measure(places, number, &mut results)?;
        boots(places, elf, number, &mut serial, &mut results)?;
        if number <= places.long_rounds(rounds) {
            boots(places, bzimage, number, &mut serial, &mut results)?;
        }
    }
    results.merge(hotplug::measure(places, rounds)?);
    results.merge(state::measure(places, rounds)?);
    let data = places.scratch.join("data");
    fill(&data)?;
    // The lab sees the image through 9p: what is measured is not to wait for that.
    let tools = places.scratch.join("tools");
    let image = places.image("tools.img");
    std::fs::copy(&image, &tools).map_err(|source| Error::File { path: image, source })?;
    let disks = [data, tools];
    make_tap(TAP, "10.203.0.1/24")?;
    let server = Process::start(server(), &places.scratch.join("iperf3.log"))?;
    let rounds = places.long_rounds(rounds);
    for number in 1..=rounds {
        eprintln!("    disk and network, round {number} of {rounds}");
        for who in places.contestants(&Contestant::MAIN, number) {
            load(places, who, &disks, &mut serial, &mut results)?;
        }
    }
    drop(server);
    Ok(results)
}

/// A boot of one kind of kernel.
#[derive(Clone, Copy)]
struct Boot {
    kernel: &'static str,
    quantity: Quantity,
}

/// One boot of each contestant, in round `number`.
fn boots(
    places: &Places,
    Boot { kernel, quantity }: Boot,
    number: usize,
    serial: &mut Serial,
    results: &mut Results,
) -> Result<()> {
    for who in places.contestants(&Contestant::BOOTED, number) {
        let machine = Machine {
            kernel: places.image(kernel),
            initramfs: places.image("initramfs"),
            cmdline: CMDLINE.to_owned(),
            memory_mib: BOOT_MEMORY_MIB,
            serial: serial.path().to_owned(),
            disks: Vec::new(),
            tap: None,
            api: None,
            shared: false,
        };
        let command = run(who, places.vmm(who), &machine);
        results.command(&format!("{}, boot", who.name()), &describe(&command));
        serial.clear()?;
        let begin = Instant::now();
        let mut process = Process::start(command, &places.scratch.join("log"))?;
        let end = serial.wait_mark(who.name(), &mut process, "the guest's init", BOOT_LIMIT);
        let end = end.inspect_err(|_| show_log(places))?;
        results.push(quantity, who, (end - begin).as_secs_f64() * 1e3);
        if quantity == Quantity::InitElf {
            let beyond = footprint::beyond_ram(process.id(), BOOT_MEMORY_MIB)?;
            results.push(Quantity::Running, who, beyond);
        }
    }
    Ok(())
}

fn load(
    places: &Places,
    who: Contestant,
    disks: &[PathBuf],
    serial: &mut Serial,
    results: &mut Results,
) -> Result<()> {
    let machine = Machine {
        kernel: places.image("vmlinux"),
        initramfs: places.image("initramfs"),
        cmdline: format!("{CMDLINE} bench=load"),
        memory_mib: LOAD_MEMORY_MIB,
        serial: serial.path().to_owned(),
        disks: disks.to_vec(),
        tap: Some(TAP.to_owned()),
        api: None,
        shared: false,
    };
    let command = run(who, places.vmm(who), &machine);
    results.command(&format!("{}, disk and network", who.name()), &describe(&command));
    serial.clear()?;
    let mut process = Process::start(command, &places.scratch.join("log"))?;
    loop {
        let line = serial.next_line(who.name(), &mut process, LOAD_LIMIT);
        let line = line.inspect_err(|_| show_log(places))?;
        match line.as_str() {
            "" => {}
            "done" => return Ok(()),
            _ => {
                let (quantity, value) =
                    parse(&line).ok_or_else(|| Error::Guest { who: who.name(), line: line.clone() })?;
                results.push(quantity, who, value);
            }
        }
    }
}

/// `random-read 1234.5`, in the quantity's unit.
fn parse(line: &str) -> Option<(Quantity, f64)> {
    let (name, value) = line.split_once(' ')?;
    let quantity = serde_json::from_value(name.into()).ok()?;
    value.parse().ok().filter(|value: &f64| *value > 0.0).map(|value| (quantity, value))
}

/// Shows what the contestant said, because it failed.
pub(crate) fn show_log(places: &Places) {
    if let Ok(text) = std::fs::read_to_string(places.scratch.join("log")) {
        eprint!("{text}");
    }
}

/// A disk without holes: an IO to a hole costs something else.
fn fill(path: &PathBuf) -> Result<()> {
    let failed = |source| Error::File { path: path.clone(), source };
    let mut file = File::create(path).map_err(failed)?;
    let block = vec![0xa5; 1 << 20];
    for _ in 0..DATA_MIB {
        file.write_all(&block).map_err(failed)?;
    }
    file.sync_all().map_err(failed)
}

/// Makes a tap that has this address.
///
/// # Errors
/// `ip` does not run or refuses it.
pub(crate) fn make_tap(name: &str, address: &str) -> Result<()> {
    for arguments in [
        format!("tuntap add mode tap name {name}"),
        format!("addr add {address} dev {name}"),
        format!("link set {name} up"),
    ] {
        let program = format!("ip {arguments}");
        let status = Command::new("ip").args(arguments.split(' ')).status();
        let status = status.map_err(|source| Error::Run { program: program.clone(), source })?;
        if !status.success() {
            return Err(Error::Failed { program, what: status.to_string() });
        }
    }
    Ok(())
}

fn server() -> Command {
    let mut server = Command::new("iperf3");
    server.args(["-s", "-B", "10.203.0.1"]);
    server
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_lines() {
        assert_eq!(parse("random-read 12.5"), Some((Quantity::RandomRead, 12.5)));
        assert_eq!(parse("send 900"), Some((Quantity::Send, 900.0)));
        for line in ["random-read", "random-read x", "random-read 0", "nothing 1", ""] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}

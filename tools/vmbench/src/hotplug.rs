//! How soon a running guest has what is added to it: from the first request until the guest itself says so. The guest's side is
//! `tools/vmguest/src/arrivals.rs`, which is told by its kernel and writes to the serial port.

use crate::call::Connection;
use crate::contestant::{Machine, Process, describe, run};
use crate::error::{Error, Result};
use crate::guest::{CMDLINE, make_tap, show_log};
use crate::places::Places;
use crate::serial::Serial;
use serde_json::{Value, json};
use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use vmbench::results::{Contestant, Quantity, Results};

const MEMORY_MIB: u64 = 512;
/// By how much the guest's RAM grows.
const MORE_MIB: u64 = 1024;
const DISK_BYTES: u64 = 64 << 20;
const TAP: &str = "vmbench1";
const LIMIT: Duration = Duration::from_secs(120);
/// After a boot and between two arrivals, so that nothing of the one before is still going on.
const PAUSE: Duration = Duration::from_millis(500);

/// Measures `rounds` boots of each contestant after one that warms the caches; all arrivals in each.
///
/// # Errors
/// A contestant does not boot, refuses a request, or its guest does not get what was added.
pub(crate) fn measure(places: &Places, rounds: usize) -> Result<Results> {
    let mut serial = Serial::make(&places.scratch.join("later-serial"))?;
    let disk = places.scratch.join("later-disk");
    let made = File::create(&disk).and_then(|file| file.set_len(DISK_BYTES));
    made.map_err(|source| Error::File { path: disk.clone(), source })?;
    make_tap(TAP, "10.204.0.1/24")?;
    let mut results = Results::default();
    for number in 0..=rounds {
        eprintln!("    hot-plug, round {number} of {rounds}; the first warms the caches");
        let mut warm_up = Results::default();
        for who in places.contestants(&[Contestant::CloudHypervisor, Contestant::Q35], number) {
            let results = if number == 0 { &mut warm_up } else { &mut results };
            boot(places, who, &disk, &mut serial, results).inspect_err(|_| show_log(places))?;
        }
    }
    Ok(results)
}

/// One boot, and all that comes to it.
fn boot(
    places: &Places,
    who: Contestant,
    disk: &Path,
    serial: &mut Serial,
    results: &mut Results,
) -> Result<()> {
    let api = places.scratch.join("later-api");
    let _ = std::fs::remove_file(&api);
    let machine = Machine {
        kernel: places.image("vmlinux"),
        initramfs: places.image("initramfs-hotplug"),
        cmdline: format!("{CMDLINE} memhp_default_state=online bench=hotplug"),
        memory_mib: MEMORY_MIB,
        serial: serial.path().to_owned(),
        disks: Vec::new(),
        tap: None,
        api: Some(api.clone()),
        shared: false,
    };
    let command = run(who, places.vmm(who), &machine);
    let mut text = describe(&command);
    serial.clear()?;
    let mut process = Process::start(command, &places.scratch.join("log"))?;
    while serial.next_line(who.name(), &mut process, LIMIT)? != "ready" {}
    let failed = |source| Error::Call { who: who.name(), source };
    let mut connection = Connection::open(who, &api).map_err(failed)?;
    for arrival in Arrival::ALL {
        thread::sleep(PAUSE);
        let requests = arrival.requests(who, disk);
        let begin = Instant::now();
        for (name, body) in &requests {
            connection.order(name, body).map_err(failed)?;
        }
        let end = serial.wait_mark(who.name(), &mut process, arrival.word(), LIMIT)?;
        results.push(arrival.quantity(), who, (end - begin).as_secs_f64() * 1e3);
        let line = serial.next_line(who.name(), &mut process, LIMIT)?;
        if line.split(' ').next() != Some(arrival.word()) {
            return Err(Error::Guest { who: who.name(), line });
        }
        for (name, body) in &requests {
            text.push_str(&format!("\n  {name} {body}"));
        }
    }
    results.command(&format!("{}, hot-plug", who.name()), &text);
    Ok(())
}

/// What comes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arrival {
    /// A virtio disk on an image without content.
    Disk,
    /// A virtio network device on a tap.
    Net,
    /// A GiB of the room that the virtio-mem device has.
    Memory,
    /// A vCPU.
    Cpu,
}

impl Arrival {
    /// In the order in which they come: the second CPU last, because it shares the lab's only one from then on.
    const ALL: [Self; 4] = [Self::Disk, Self::Net, Self::Memory, Self::Cpu];

    /// How the guest begins to say that it has it.
    fn word(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Net => "net",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
        }
    }

    fn quantity(self) -> Quantity {
        match self {
            Self::Disk => Quantity::LaterDisk,
            Self::Net => Quantity::LaterNet,
            Self::Memory => Quantity::LaterMemory,
            Self::Cpu => Quantity::LaterCpu,
        }
    }

    /// The requests that bring it, one after the other.
    fn requests(self, who: Contestant, disk: &Path) -> Vec<(&'static str, Value)> {
        if who.is_ours() { vec![self.verb(disk)] } else { self.commands(disk) }
    }

    fn verb(self, disk: &Path) -> (&'static str, Value) {
        match self {
            Self::Disk => ("vm.add-disk", json!({"path": disk, "image_type": "Raw"})),
            Self::Net => ("vm.add-net", json!({"tap": TAP})),
            Self::Memory => ("vm.resize", json!({"desired_ram": (MEMORY_MIB + MORE_MIB) << 20})),
            Self::Cpu => ("vm.resize", json!({"desired_vcpus": 2})),
        }
    }

    fn commands(self, disk: &Path) -> Vec<(&'static str, Value)> {
        let device = |body| ("device_add", body);
        match self {
            Self::Disk => {
                let file = json!({"driver": "file", "filename": disk, "aio": "io_uring"});
                vec![
                    ("blockdev-add", json!({"node-name": "d", "driver": "raw", "file": file})),
                    device(json!({"driver": "virtio-blk-pci", "drive": "d", "bus": "slot0"})),
                ]
            }
            Self::Net => vec![
                (
                    "netdev_add",
                    json!({"type": "tap", "id": "n", "ifname": TAP, "script": "no", "downscript": "no"}),
                ),
                device(json!({"driver": "virtio-net-pci", "netdev": "n", "bus": "slot1", "romfile": ""})),
            ],
            Self::Memory => vec![(
                "qom-set",
                json!({
                    "path": "/machine/peripheral/mem",
                    "property": "requested-size",
                    "value": MORE_MIB << 20
                }),
            )],
            Self::Cpu => vec![device(
                json!({"driver": "host-x86_64-cpu", "socket-id": 0, "core-id": 1, "thread-id": 0}),
            )],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_command_line() {
        let machine = Machine {
            kernel: "vmlinux".into(),
            initramfs: "initramfs".into(),
            cmdline: String::new(),
            memory_mib: MEMORY_MIB,
            serial: "serial".into(),
            disks: Vec::new(),
            tap: None,
            api: Some("api".into()),
            shared: false,
        };
        let line = describe(&run(Contestant::Q35, Path::new("vmm"), &machine));
        let mut used = 0;
        for (_, body) in Arrival::ALL.iter().flat_map(|arrival| arrival.commands(Path::new("disk"))) {
            let slot = body["bus"].as_str();
            let device = body["path"].as_str().and_then(|path| path.rsplit('/').next());
            for id in slot.into_iter().chain(device) {
                assert!(line.contains(&format!("id={id},")), "{id} in {line}");
                used += 1;
            }
        }
        assert_eq!(used, 3);
    }
}

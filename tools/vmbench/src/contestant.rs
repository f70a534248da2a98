//! The command lines: the same machine for each contestant, said in its own words.

use crate::error::{Error, Result};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use vmbench::results::Contestant;

/// The machine that all contestants build.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// ELF kernel with a PVH note, or bzImage.
    pub(crate) kernel: PathBuf,
    /// The initramfs.
    pub(crate) initramfs: PathBuf,
    /// The kernel's command line.
    pub(crate) cmdline: String,
    /// RAM.
    pub(crate) memory_mib: u64,
    /// A FIFO that takes what the guest writes to its first serial port.
    pub(crate) serial: PathBuf,
    /// Raw images; the last one is read-only.
    pub(crate) disks: Vec<PathBuf>,
    /// An existing tap for a network device.
    pub(crate) tap: Option<String>,
    /// Where its API listens, if something is to come to it later: then there is room for all of [`Arrival`](crate::hotplug::Arrival).
    pub(crate) api: Option<PathBuf>,
    /// Whether its RAM can be handed to another process (this VMM).
    pub(crate) shared: bool,
}

/// A running contestant, killed when dropped.
pub(crate) struct Process(Child);

impl Process {
    /// Starts `command` with its output in `log`.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let file = File::create(log).map_err(|source| Error::File { path: log.to_owned(), source })?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        command.spawn().map(Self).map_err(|source| Error::Run { program, source })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// True once it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The command that runs `machine`.
pub(crate) fn run(who: Contestant, vmm: &Path, machine: &Machine) -> Command {
    if who.is_ours() { cloud_hypervisor(vmm, machine) } else { qemu(who, machine) }
}

fn cloud_hypervisor(vmm: &Path, machine: &Machine) -> Command {
    let mut command = Command::new(vmm);
    command.arg("--kernel").arg(&machine.kernel).arg("--initramfs").arg(&machine.initramfs);
    let (more_cpus, more_memory) = match &machine.api {
        Some(_) => (",max=2", ",hotplug_method=virtio-mem,hotplug_size=1G"),
        None => ("", ""),
    };
    command.args(["--cmdline", &machine.cmdline, "--cpus", &format!("boot=1{more_cpus}")]);
    let shared = if machine.shared { ",shared=on" } else { "" };
    command.args(["--memory", &format!("size={}M{shared}{more_memory}", machine.memory_mib)]);
    command.args(["--serial", &format!("file={}", machine.serial.display()), "--console", "off"]);
    if let Some((last, others)) = machine.disks.split_last() {
        command.arg("--disk");
        command.args(others.iter().map(|disk| format!("path={},image_type=raw", disk.display())));
        command.arg(format!("path={},image_type=raw,readonly=on", last.display()));
    }
    if let Some(tap) = &machine.tap {
        command.args(["--net", &format!("tap={tap}")]);
    }
    if let Some(api) = &machine.api {
        command.arg("--api-socket").arg(api);
    }
    command
}

/// QEMU without a machine's content: used alone where no guest runs.
pub(crate) fn qemu_base(who: Contestant, memory_mib: u64) -> Command {
    qemu_sized(who, "1", &format!("{memory_mib}M"))
}

fn qemu_sized(who: Contestant, cpus: &str, memory: &str) -> Command {
    let machine = match who {
        Contestant::Q35 => "q35",
        Contestant::MicrovmRtc => "microvm,rtc=on",
        Contestant::Microvm | Contestant::CloudHypervisor | Contestant::Before => "microvm",
    };
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-M", machine, "-accel", "kvm", "-cpu", "host", "-smp", cpus, "-m", memory]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command
}

/// With a free CPU, two free PCI slots and a virtio-mem device. What comes to a slot, the guest hears by ACPI: the default of q35 for the
/// bridges that are there at boot, and not the attention button of PCI Express, whose five seconds a guest has to wait.
fn qemu_with_room(who: Contestant, memory_mib: u64, api: &Path) -> Command {
    let mut command = qemu_sized(who, "1,maxcpus=2", &format!("{memory_mib}M,maxmem=4G"));
    command.args(["-qmp", &format!("unix:{},server=on,wait=off", api.display())]);
    command.args(["-object", "memory-backend-ram,id=room,size=1G"]);
    command.args(["-device", "virtio-mem-pci,id=mem,memdev=room,requested-size=0"]);
    for number in 0..2 {
        command.args(["-device", &format!("pcie-root-port,id=slot{number},chassis={number}")]);
    }
    command
}

fn qemu(who: Contestant, machine: &Machine) -> Command {
    let bus = if who == Contestant::Q35 { "pci" } else { "device" };
    let mut command = match &machine.api {
        Some(api) => qemu_with_room(who, machine.memory_mib, api),
        None => qemu_base(who, machine.memory_mib),
    };
    command.arg("-kernel").arg(&machine.kernel).arg("-initrd").arg(&machine.initramfs);
    command.args(["-append", &machine.cmdline]);
    command.args(["-serial", &format!("file:{}", machine.serial.display())]);
    for (number, disk) in machine.disks.iter().enumerate() {
        let readonly = if number + 1 == machine.disks.len() { "on" } else { "off" };
        let path = disk.display();
        // The engine of the other side; the cache mode is the default of both.
        let drive = format!("id=d{number},if=none,format=raw,aio=io_uring,readonly={readonly},file={path}");
        command.args(["-drive", &drive, "-device", &format!("virtio-blk-{bus},drive=d{number}")]);
    }
    if let Some(tap) = &machine.tap {
        command.args(["-netdev", &format!("tap,id=n,ifname={tap},script=no,downscript=no")]);
        // No guest boots from the network: the PCI device needs no option ROM.
        let rom = if bus == "pci" { ",romfile=" } else { "" };
        command.args(["-device", &format!("virtio-net-{bus},netdev=n{rom}")]);
    }
    command
}

/// A command line as one would type it.
pub(crate) fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args()).map(|word| {
        let word = word.to_string_lossy();
        // Only the last part of a path says something outside this run.
        let word = match (word.find('/'), word.rfind('/')) {
            (Some(first), Some(last)) if !word.contains(' ') => {
                format!("{}{}", &word[..first], &word[last + 1..])
            }
            _ => word.into_owned(),
        };
        if word.contains(' ') { format!("\"{word}\"") } else { word }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            kernel: "/images/vmlinux".into(),
            initramfs: "/images/initramfs".into(),
            cmdline: "console=ttyS0 quiet".to_owned(),
            memory_mib: 256,
            serial: "/tmp/serial".into(),
            disks: vec!["/tmp/data".into(), "/tmp/tools".into()],
            tap: Some("bench0".to_owned()),
            api: None,
            shared: false,
        }
    }

    #[test]
    fn all_say_the_same_machine() {
        for who in Contestant::ALL {
            let line = describe(&run(who, Path::new("/target/cloud-hypervisor"), &machine()));
            for part in ["vmlinux", "initramfs", "\"console=ttyS0 quiet\"", "256M", "data", "tools", "bench0"]
            {
                assert!(line.contains(part), "{part} in {line}");
            }
            assert!(!line.contains("/target/"), "{line}");
        }
    }

    #[test]
    fn devices_are_on_the_machines_bus() {
        let line = |who| describe(&run(who, Path::new("vmm"), &machine()));
        assert!(line(Contestant::Q35).contains("virtio-net-pci,netdev=n,romfile="));
        assert!(line(Contestant::Microvm).contains("virtio-blk-device,drive=d1"));
        assert!(line(Contestant::CloudHypervisor).contains("tools,image_type=raw,readonly=on"));
    }

    #[test]
    fn what_comes_later_has_room() {
        for who in [Contestant::CloudHypervisor, Contestant::Q35] {
            let machine = Machine { api: Some("/tmp/api".into()), ..machine() };
            let line = describe(&run(who, Path::new("vmm"), &machine));
            assert!(line.contains("1G") && line.contains("api"), "{line}");
            assert!(line.contains("boot=1,max=2") || line.contains("-smp 1,maxcpus=2"), "{line}");
        }
    }
}

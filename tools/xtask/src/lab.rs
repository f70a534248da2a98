//! The lab: a machine with a true /dev/kvm, for hosts that have none (`cargo xtask lab -- COMMAND`).
//!
//! QEMU emulates a whole x86 machine with AMD's virtualisation instructions, so a stock Debian kernel inside it offers
//! KVM. The machine's root file system is the host's, read-only under an overlay in memory, so everything runs under the path it
//! has on the host. Output and exit code come back over virtio serial ports, apart from the lab's own console, which
//! goes to a file.
//!
//! QEMU up to 10.0 changes a CPU's pending interrupts on VMRUN without taking the lock under which other threads raise
//! them, so that an interrupt is now and then lost or taken in the wrong world; guests then hang, or the lab's kernel
//! dies. With one CPU no other CPU raises any, and a timer that ticks periodically makes up for what its own thread loses.
//! To use more of the host, run more labs.

use crate::error::{AtPath, Error, Result};
use crate::initramfs;
use crate::kernel::Kernel;
use crate::packages;
use crate::places::Places;
use crate::step::{headline, quiet};
use crate::terminal::RawTerminal;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const INIT: &str = include_str!("lab-init.sh");
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "virtio_rng",
    "virtio_net",
    "9pnet_virtio",
    "9p",
    "overlay",
    "crc32c_generic",
    "ext4",
    "kvm_amd",
    "tun",
    "vhost_net",
    "vhost_vsock",
    "loop",
];

/// One run of one command in the lab.
#[derive(Debug)]
pub(crate) struct Run {
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// Environment on top of what a login would have.
    pub(crate) environment: Vec<(String, String)>,
    /// Memory of the lab.
    pub(crate) memory_mib: u32,
    /// CPUs of the lab.
    pub(crate) cpus: u32,
    /// Give the command this terminal, keys and all.
    pub(crate) terminal: bool,
    /// A program that the command may have run on the host: see [`Outside`].
    pub(crate) outside: Option<PathBuf>,
}

/// The lab's way to the host, for what would be slow inside (`tools/vmtest/src/outside.rs`): a network that consists of one address,
/// whose every connection is answered by a new process of one program, and one port of the lab that is also one of the host's loopback
/// interface.
#[derive(Debug)]
struct Outside {
    program: PathBuf,
    port: u16,
}

impl Outside {
    /// In the network that QEMU makes up.
    const ADDRESS: &str = "10.0.2.100:1";

    /// Looks for a free port.
    fn new(program: &Path) -> Result<Self> {
        let failed = |source| Error::Run { program: "the way out of the lab".to_owned(), source };
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        Ok(Self { program: program.to_owned(), port: free.map_err(failed)?.port() })
    }

    fn environment(&self) -> [(String, String); 2] {
        [("LAB_OUTSIDE".to_owned(), Self::ADDRESS.to_owned()), ("LAB_PORT".to_owned(), self.port.to_string())]
    }

    /// QEMU's arguments. `restrict` lets nothing through but what is named here.
    fn arguments(&self) -> [String; 4] {
        let (address, port) = (Self::ADDRESS, self.port);
        // A comma would end the option.
        let program = self.program.to_string_lossy().replace(',', ",,");
        let network = format!(
            "user,id=outside,ipv6=off,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:{port},\
             guestfwd=tcp:{address}-cmd:{program} outside"
        );
        let device = "virtio-net-pci,netdev=outside,romfile=".to_owned();
        ["-netdev".to_owned(), network, "-device".to_owned(), device]
    }
}

impl Run {
    /// A run with room for a guest of 5 GiB.
    pub(crate) fn new(command: Vec<String>) -> Self {
        Self { command, environment: Vec::new(), memory_mib: 8192, cpus: 1, terminal: false, outside: None }
    }
}

/// True if this host's own KVM runs stock kernels: the vendor modules do, `kvm_pvm` does not.
pub(crate) fn host_kvm() -> bool {
    let module = |name: &str| Path::new("/sys/module").join(name).exists();
    Path::new("/dev/kvm").exists() && !module("kvm_pvm") && (module("kvm_intel") || module("kvm_amd"))
}

/// Fetches and builds what the lab boots from, so that several can start at once.
///
/// # Errors
/// Packages cannot be fetched, files not written.
pub(crate) fn prepare(places: &Places) -> Result<()> {
    images(places).map(drop)
}

fn images(places: &Places) -> Result<(PathBuf, PathBuf)> {
    packages::install(&["qemu-system-x86", "seabios", "busybox-static", "e2fsprogs", "xz-utils"])?;
    // Not the release's own 6.1, whose Landlock is too old for the VMM.
    let kernel = Kernel::prepare(places, "linux-image-6.12-amd64", MODULES, false)?;
    let initramfs = places.images.join("lab-initramfs.cpio");
    initramfs::build(&kernel, &[("init", INIT)], &[], &initramfs)?;
    Ok((kernel.dir.join("bzImage"), initramfs))
}

/// Runs a command in the lab with its output on `output` and its errors on this process's own, and returns its exit
/// code.
///
/// # Errors
/// The lab cannot be built or started, or ends before the command does.
pub(crate) fn run(places: &Places, run: &Run, output: impl Write + Send + 'static) -> Result<u8> {
    let (kernel, initramfs) = images(places)?;
    let session = Session::new(places)?;
    let outside = run.outside.as_deref().map(Outside::new).transpose()?;
    session.write_command(run, outside.as_ref())?;
    session.make_scratch()?;
    let ports = ["out", "err", "verdict", "tty"].map(|name| session.listen(name));
    let [out, err, verdict, tty] = ports;
    let (out, err, verdict, tty) = (out?, err?, verdict?, tty?);
    let raw = if run.terminal { Some(RawTerminal::enter()?) } else { None };
    let mut qemu = session.start(run, outside.as_ref(), &kernel, &initramfs)?;
    let out = pump(qemu.accept(&out, &session)?, output);
    let err = pump(qemu.accept(&err, &session)?, io::stderr());
    let mut text = String::new();
    let mut verdict = qemu.accept(&verdict, &session)?;
    if run.terminal {
        let tty = qemu.accept(&tty, &session)?;
        feed_keys(&tty)?;
        // Detached on purpose: it ends with the socket.
        drop(pump(tty, io::stdout()));
    }
    // A broken connection is a lab that died; the missing verdict says so below.
    let _ = verdict.read_to_string(&mut text);
    let _ = qemu.wait();
    for thread in [out, err] {
        let _ = thread.join();
    }
    drop(raw);
    let code = text.trim().strip_prefix("exit ").and_then(|code| code.parse().ok());
    code.ok_or_else(|| session.died())
}

fn pump(mut from: UnixStream, mut to: impl Write + Send + 'static) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 16384];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if to.write_all(&buffer[..count]).and_then(|()| to.flush()).is_err() {
                break;
            }
        }
    })
}

fn feed_keys(tty: &UnixStream) -> Result<()> {
    let mut tty = tty.try_clone().at(Path::new("tty"))?;
    thread::spawn(move || io::copy(&mut io::stdin(), &mut tty));
    Ok(())
}

/// The files of one run; they go when it ends well.
struct Session {
    dir: PathBuf,
    /// Writable from inside the lab, under the same path.
    share: PathBuf,
}

impl Session {
    fn new(places: &Places) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        remove_old_runs(&places.images.join("runs"));
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = places.images.join("runs").join(format!("{}-{number}", std::process::id()));
        let share = dir.join("share");
        fs::create_dir_all(&share).at(&share)?;
        Ok(Self { dir, share })
    }

    fn write_command(&self, run: &Run, outside: Option<&Outside>) -> Result<()> {
        let mut script = String::new();
        for name in ["PATH", "HOME", "TERM", "LANG", "RUST_LOG", "RUST_BACKTRACE", "VMTEST_VERBOSE"] {
            if let Ok(value) = std::env::var(name) {
                script.push_str(&format!("export {name}={}\n", quote(&value)));
            }
        }
        script.push_str("export TMPDIR=/scratch LAB=1\n");
        let way_out = outside.map(Outside::environment).into_iter().flatten();
        for (name, value) in run.environment.iter().cloned().chain(way_out) {
            script.push_str(&format!("export {name}={}\n", quote(&value)));
        }
        if run.terminal {
            let (columns, rows) = crate::terminal::size();
            script.push_str(&format!("stty cols {columns} rows {rows}\n"));
        }
        let here = std::env::current_dir().at(Path::new("."))?;
        script.push_str(&format!("cd {}\n", quote(&here.to_string_lossy())));
        let words: Vec<String> = run.command.iter().map(|word| quote(word)).collect();
        script.push_str(&format!("exec {}\n", words.join(" ")));
        let path = self.share.join("command.sh");
        fs::write(&path, script).at(&path)
    }

    /// An empty disk: the overlay cannot do what a disk's file system can (O_DIRECT, large files).
    fn make_scratch(&self) -> Result<()> {
        let path = self.scratch();
        let file = fs::File::create(&path).at(&path)?;
        file.set_len(32 << 30).at(&path)?;
        quiet(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-O", "^has_journal"]).arg(&path))
            .map(drop)
    }

    fn scratch(&self) -> PathBuf {
        self.dir.join("scratch.img")
    }

    fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    fn listen(&self, name: &str) -> Result<UnixListener> {
        let path = self.dir.join(name);
        UnixListener::bind(&path).at(&path)
    }

    fn start(&self, run: &Run, outside: Option<&Outside>, kernel: &Path, initramfs: &Path) -> Result<Qemu> {
        let mut append =
            format!("console=ttyS0 panic=-1 nohz=off highres=off lab.share={}", self.share.display());
        append.extend(tsc_khz().map(|khz| format!(" tsc_early_khz={khz}")));
        if run.terminal {
            append.push_str(" lab.tty");
        }
        let dir = self.dir.display();
        let mut qemu = Command::new("qemu-system-x86_64");
        // No 5-level paging: it would only make each emulated page walk longer.
        // No fast string instructions either: they are emulated byte by byte, and Linux then clears and copies its pages by words.
        qemu.args(["-accel", "tcg", "-cpu", "max,+svm,+npt,-la57,-erms", "-machine", "q35"])
            .args(["-smp", &run.cpus.to_string(), "-m", &format!("{}M", run.memory_mib)])
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", &append, "-serial", &format!("file:{}", self.console().display())])
            .args(["-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"])
            .args(["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"])
            .args(["-fsdev", &format!("local,id=share,path={},security_model=none", self.share.display())])
            .args(["-device", "virtio-9p-pci,fsdev=share,mount_tag=share"])
            .args([
                "-drive",
                &format!("id=s,if=none,format=raw,cache=unsafe,file={}", self.scratch().display()),
            ])
            .args([
                "-device",
                "virtio-blk-pci,drive=s",
                "-device",
                "virtio-rng-pci",
                "-device",
                "virtio-serial-pci",
            ]);
        for (number, name) in [(1, "out"), (2, "err"), (3, "verdict")] {
            qemu.args(["-chardev", &format!("socket,id={name},path={dir}/{name}")]);
            qemu.args(["-device", &format!("virtserialport,chardev={name},nr={number},name={name}")]);
        }
        qemu.args(outside.map(Outside::arguments).into_iter().flatten());
        if run.terminal {
            qemu.args(["-chardev", &format!("socket,id=tty,path={dir}/tty")]);
            qemu.args(["-device", "virtconsole,chardev=tty,nr=4,name=tty"]);
        }
        let log_path = self.dir.join("qemu.log");
        let log = fs::File::create(&log_path).at(&log_path)?;
        let spawned = qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        spawned.map(Qemu).map_err(|source| Error::Run { program: "qemu-system-x86_64".to_owned(), source })
    }

    fn died(&self) -> Error {
        let read = |path: PathBuf| {
            fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
        };
        let text = read(self.dir.join("qemu.log")) + &read(self.console());
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(30)..].join("\n");
        headline("the lab died");
        Error::LabDied { log: self.console(), tail }
    }
}

/// The frequency of the lab's TSC, which is the host's. Told to the lab's kernel, because on a busy host its own calibration against the PIT
/// may come out at a quarter: its clock is then four times too fast, and everything in the lab comes too late.
fn tsc_khz() -> Option<u64> {
    // Where nothing scales the frequency, which is where there is only an emulated CPU, Linux shows that of the TSC.
    if Path::new("/sys/devices/system/cpu/cpu0/cpufreq").exists() {
        return None;
    }
    read_khz(&fs::read_to_string("/proc/cpuinfo").ok()?)
}

fn read_khz(cpuinfo: &str) -> Option<u64> {
    let line = cpuinfo.lines().find_map(|line| line.strip_prefix("cpu MHz"))?;
    let (mhz, thousandths) = line.trim_start_matches([' ', '\t', ':']).split_once('.')?;
    let khz = mhz.parse::<u64>().ok()? * 1000 + thousandths.get(..3)?.parse::<u64>().ok()?;
    (khz > 0).then_some(khz)
}

/// Removes what runs left behind whose process is gone.
fn remove_old_runs(runs: &Path) {
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(process).exists() {
            // Another task may be removing it too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The scratch disk is large and the sockets are dead; the console stays for a look until the next clean.
        let _ = fs::remove_file(self.scratch());
        for name in ["out", "err", "verdict", "tty"] {
            let _ = fs::remove_file(self.dir.join(name));
        }
    }
}

/// A running QEMU that does not outlive its session.
struct Qemu(Child);

impl Qemu {
    /// Waits until QEMU connects to `port`, or ends because it does not like its arguments.
    fn accept(&mut self, port: &UnixListener, session: &Session) -> Result<UnixStream> {
        let failed = |source| Error::Run { program: "qemu-system-x86_64".to_owned(), source };
        port.set_nonblocking(true).map_err(failed)?;
        loop {
            match port.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).map_err(failed)?;
                    return Ok(stream);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(failed(e)),
            }
            if self.0.try_wait().map_err(failed)?.is_some() {
                return Err(session.died());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn wait(&mut self) -> io::Result<std::process::ExitStatus> {
        self.0.wait()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn khz_of_the_first_cpu() {
        let cpuinfo = "processor\t: 0\ncpu MHz\t\t: 2596.132\ncache size\t: 4 KB\ncpu MHz\t\t: 1000.000\n";
        assert_eq!(read_khz(cpuinfo), Some(2_596_132));
        for unusable in ["", "cpu MHz\t\t: 0.000\n", "cpu MHz\t\t: unknown\n", "cpu MHz\t\t: 12\n"] {
            assert_eq!(read_khz(unusable), None, "{unusable}");
        }
    }
}

//! The demo: one VM from its creation to its end, told to a person. Every request is shown with its reply, every
//! command in the guest with its output.

use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use serde_json::json;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use vmtest::context::Context;
use vmtest::host;
use vmtest::rest::Client;
use vmtest::vm::{AgentOn, Builder, Vm, raw_disk};
use vmtest::wait;

const FILE: &str = "/root/written-by-the-guest";

fn say(text: &str) {
    println!("\n==> {text}");
}

fn context() -> Context {
    let dir = std::env::temp_dir().join(format!("demo-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    // No test has the number 0.
    Context::new(dir, 0)
}

/// The VM of the demo: two CPUs, a root disk of its own, a network device.
fn builder<'a>(context: &'a Context, disk: &Path) -> Builder<'a> {
    host::copy_disk(&context.image("demo.img"), disk);
    let (_, guest) = context.addresses();
    // The lab's emulated CPU lets a guest switch XSAVE on behind KVM's back, of which Linux complains at length.
    let lab = if std::env::var_os("LAB").is_some() { " noxsave" } else { "" };
    Builder::new(context)
        .with("cpus", json!({"boot_vcpus": 2, "max_vcpus": 4}))
        .disk_with(disk, json!({"id": "root"}))
        .net_with(json!({"id": "net"}))
        .grant(&context.dir)
        .cmdline(&format!("loglevel=6 root=/dev/vda address={guest}/24{lab}"))
}

/// Runs the demo. Returns whether all went well; a failure is a panic before that.
pub(crate) fn run() -> bool {
    let context = context();
    let disk = context.path("root");
    let builder = builder(&context, &disk).agent(AgentOn::Console).with("console", json!({"mode": "Pty"}));
    say(&format!("starting {}", context.vmm().display()));
    let mut vm = builder.start();
    let api = vm.api().clone().loud();
    print_console(&vm);
    say("creating and booting a VM over REST");
    api.get("vmm.ping").expect(200);
    api.put_json("vm.create", &vm.config).expect(204);
    api.put("vm.boot").expect(204);
    say("the guest boots");
    vm.wait_ready();
    tour(&context, &vm, &api);
    there_and_back(&context, &vm, &api);
    say("the guest powers off, and the VMM ends");
    vm.agent().start("sync; poweroff -f");
    let status = vm.vmm.wait_exit();
    println!("exit code {:?}", status.code());
    read_back(&disk);
    drop(vm);
    let _ = std::fs::remove_dir_all(&context.dir);
    say("that was it");
    status.success()
}

fn tour(context: &Context, vm: &Vm, api: &Client) {
    let (host, guest) = context.addresses();
    say("inside the guest");
    for command in
        ["uname -a", "nproc", "cat /proc/partitions", "ls /sys/bus/virtio/drivers/*/ | grep virtio"]
    {
        show(vm, command);
    }
    say("the network, over a tap: from the guest, then from the host");
    show(vm, &format!("ping -c 3 {host}"));
    let ping = Command::new("busybox").args(["ping", "-c", "3", &guest]).output().unwrap();
    println!("host$ ping -c 3 {guest}\n{}", String::from_utf8_lossy(&ping.stdout));
    assert!(ping.status.success(), "the host cannot reach the guest");
    say("the guest writes a file on its root disk");
    show(vm, &format!("echo \"the guest was here on $(date)\" >{FILE}; sync; cat {FILE}"));
    say("pause, look, resume");
    api.put("vm.pause").expect(204);
    println!("  state: {}", api.state().unwrap_or_default());
    api.put("vm.resume").expect(204);
    println!("  state: {}", api.state().unwrap_or_default());
    api.get("vm.counters").expect(200);
    hot_plug(context, vm, api);
}

/// A disk, and CPUs, that come to the running guest and leave it.
fn hot_plug(context: &Context, vm: &Vm, api: &Client) {
    say("a disk comes while the guest runs, and goes again");
    let image = context.path("later");
    host::make_full_disk(&image, 8);
    api.put_json("vm.add-disk", &raw_disk(&image, json!({"id": "later"}))).expect(200);
    wait::until_true(wait::COMMAND, "the disk in the guest", || vm.run("test -b /dev/vdb").status == 0);
    show(vm, "sha256sum </dev/vdb");
    println!("host$ sha256sum {}\n{}", image.display(), host::sha256(&image));
    api.put_json("vm.remove-device", &json!({"id": "later"})).expect(204);
    vm.wait_event("vm/device-removed", 1);
    show(vm, "cat /proc/partitions");
    say("two CPUs more, and two less");
    for cpus in [4, 2] {
        api.put_json("vm.resize", &json!({"desired_vcpus": cpus})).expect(204);
        wait::until_true(wait::COMMAND, "the CPUs in the guest", || vm.online_cpus() == cpus);
        show(vm, "cat /sys/devices/system/cpu/present");
    }
}

/// A snapshot while the guest runs; then the VM is deleted and comes back out of the files.
fn there_and_back(context: &Context, vm: &Vm, api: &Client) {
    say("a snapshot while the guest runs, the end of the VM, and its return from the files");
    let directory = context.path("snapshot");
    std::fs::create_dir(&directory).unwrap();
    let url = format!("file://{}", directory.display());
    vm.ok("echo remembered >/tmp/memory");
    api.put_json("vm.snapshot", &json!({"destination_url": url})).expect(204);
    let jobs = api.get("vm.jobs").expect(200).json();
    println!("  the guest stood still for {} microseconds", jobs["jobs"][0]["downtime_us"]);
    api.put("vm.delete").expect(204);
    api.put_json("vm.restore", &json!({"source_url": url, "resume": true})).expect(204);
    show(vm, "cat /tmp/memory");
}

fn show(vm: &Vm, command: &str) {
    println!("guest$ {command}\n{}", vm.ok(command));
}

/// Prints what appears on the serial port, line by line, for as long as the demo runs.
fn print_console(vm: &Vm) {
    let serial = vm.serial.clone().unwrap();
    thread::spawn(move || {
        let mut at = 0;
        while let Some(end) = serial.find("\n", at, 10 * wait::BOOT) {
            println!("  guest| {}", serial.slice(at, end).trim_end());
            at = end;
        }
    });
}

/// Reads the guest's file out of its disk image without mounting anything.
fn read_back(disk: &Path) {
    say("the same file, read from the disk image on the host");
    let output = Command::new("debugfs").arg("-R").arg(format!("cat {FILE}")).arg(disk).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("host$ debugfs -R 'cat {FILE}' {}\n{}", disk.display(), text.trim_end());
    assert!(text.contains("the guest was here"), "the file is not on the disk");
}

/// Leaves the person at the guest's prompt until the guest powers off.
pub(crate) fn shell() -> bool {
    let context = context();
    let disk = context.path("root");
    let mut vm = builder(&context, &disk).agent(AgentOn::Nobody).cmdline("shell=ttyS0").start();
    // The harness would read the keys' echo away.
    vm.serial.take().unwrap().close();
    vm.create();
    let socket = PathBuf::from(vm.config["serial"]["socket"].as_str().unwrap());
    let serial = wait::until(wait::COMMAND, "the serial socket", || UnixStream::connect(&socket).ok());
    vm.boot();
    say("you are on the guest's serial port; `exit` powers the guest off");
    let terminal = io::stdin().is_terminal().then(|| tcgetattr(io::stdin()).unwrap());
    if let Some(before) = &terminal {
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).unwrap();
    }
    bridge(serial);
    if let Some(before) = terminal {
        tcsetattr(io::stdin(), OptionalActions::Now, &before).unwrap();
    }
    let status = vm.vmm.wait_exit();
    let _ = std::fs::remove_dir_all(&context.dir);
    say(&format!("the VMM ended with exit code {:?}", status.code()));
    status.success()
}

/// Carries keys to the guest and its output to the person until the guest's end closes.
fn bridge(mut serial: UnixStream) {
    let mut keys = serial.try_clone().unwrap();
    thread::spawn(move || io::copy(&mut io::stdin(), &mut keys));
    let mut buffer = [0; 4096];
    let mut stdout = io::stdout();
    while let Ok(count @ 1..) = serial.read(&mut buffer) {
        if stdout.write_all(&buffer[..count]).and_then(|()| stdout.flush()).is_err() {
            break;
        }
    }
}

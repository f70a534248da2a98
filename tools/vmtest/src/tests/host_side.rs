//! A host that limits the VMM, lacks what it wants, or does not read what it says.

use rustix::pipe::{fcntl_getpipe_size, pipe};
use rustix::process::{Pid, Resource, Signal, kill_process};
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::Command;
use vmtest::context::Context;
use vmtest::host;
use vmtest::vm::{AgentOn, Builder};
use vmtest::wait;

vmtest::tests![
    host_side: full_pipe_behind_the_firmware_port, fifo_behind_the_serial_port, long_pastes, disk_beyond_the_size_limit,
    console_file_beyond_the_size_limit, missing_huge_pages, memory_on_a_full_file_system, names_that_the_host_chose,
];

/// The reading end of a pipe.
struct Listener(File);

impl Listener {
    fn new(end: OwnedFd) -> Self {
        rustix::io::ioctl_fionbio(&end, true).unwrap();
        Self(end.into())
    }

    /// All that is there once `text` has come.
    fn hear(&mut self, text: &str) -> String {
        let mut heard = Vec::new();
        wait::until(wait::COMMAND, text, || {
            let mut part = [0; 1 << 16];
            while let Ok(count @ 1..) = self.0.read(&mut part) {
                heard.extend_from_slice(&part[..count]);
            }
            let heard = String::from_utf8_lossy(&heard).into_owned();
            heard.contains(text).then_some(heard)
        })
    }
}

/// Firmware that never stops talking, and nobody who listens.
fn full_pipe_behind_the_firmware_port(context: &Context) {
    let kernel = context.path("chatty");
    host::make_chatty_kernel(&kernel, 0x402, b'x');
    let (reader, writer) = pipe().unwrap();
    let builder = Builder::new(context).with("payload", json!({"kernel": kernel}));
    let mut vm = builder.agent(AgentOn::Nobody).output(writer).start();
    vm.create();
    vm.boot();
    wait::until_true(wait::COMMAND, "a full pipe", || {
        rustix::io::ioctl_fionread(&reader).unwrap() == fcntl_getpipe_size(&reader).unwrap() as u64
    });
    vm.api().put("vm.pause").expect(204);
    assert_eq!(vm.api().info()["state"], "Paused");
    vm.api().put("vm.resume").expect(204);
    let mut reader = Listener::new(reader);
    reader.hear("xxxx");
    reader.hear("xxxx");
    vm.api().put("vm.reboot").expect(204);
    vm.api().put("vm.shutdown").expect(204);
    vm.boot();
    kill_process(Pid::from_raw(vm.vmm.pid().cast_signed()).unwrap(), Signal::TERM).unwrap();
    assert_eq!(vm.vmm.wait_exit().code(), Some(0));
}

fn fifo_behind_the_serial_port(context: &Context) {
    let path = context.path("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let vm = Builder::new(context)
        .agent(AgentOn::Console)
        .with("console", json!({"mode": "Pty"}))
        .with("serial", json!({"mode": "Null"}))
        .start();
    let mut config = vm.config.clone();
    config["serial"] = json!({"mode": "File", "file": path});
    vm.api().put_json("vm.create", &config).expect(204);
    vm.boot();
    vm.wait_ready();
    vm.ok("echo said before anybody listened >/dev/ttyS0");
    Listener::new(File::open(&path).unwrap().into()).hear("before anybody listened");
}

/// Linux takes 256 bytes per interrupt at most.
fn long_pastes(context: &Context) {
    let vm = Builder::new(context).boot();
    for length in [100, 250, 270, 300, 310, 800] {
        let text = "x".repeat(length);
        assert_eq!(vm.ok(&format!("echo {text}")), text);
    }
}

const LIMIT: u64 = 1 << 20;

fn disk_beyond_the_size_limit(context: &Context) {
    let disk = context.path("disk");
    host::make_disk(&disk, 8);
    let mut vm = Builder::new(context).disk(&disk).boot();
    vm.vmm.set_limit(Resource::Fsize, LIMIT);
    let write = |block: u32| {
        vm.run(&format!("dd if=/dev/zero of=/dev/vda bs=64k seek={block} count=1 oflag=direct")).status
    };
    assert_ne!(write(32), 0, "a write beyond the limit is an I/O error");
    assert_eq!(write(0), 0, "one within it works");
    assert!(vm.vmm.is_running());
}

fn console_file_beyond_the_size_limit(context: &Context) {
    let path = context.path("console.txt");
    let mut vm = Builder::new(context).with("console", json!({"mode": "File", "file": path})).boot();
    vm.vmm.set_limit(Resource::Fsize, LIMIT);
    vm.ok("head -c 1200000 /dev/zero >/dev/hvc0");
    assert_eq!(vm.ok("echo alive"), "alive");
    assert!(vm.vmm.is_running());
    assert!(std::fs::metadata(&path).unwrap().len() <= LIMIT);
}

fn missing_huge_pages(context: &Context) {
    const POOL: &str = "/proc/sys/vm/nr_hugepages";
    let before = std::fs::read_to_string(POOL).unwrap();
    let memory = json!({"size": 256u64 << 20, "hugepages": true});
    for pages in ["0", "20"] {
        std::fs::write(POOL, pages).unwrap();
        let mut vm = Builder::new(context).with("memory", memory.clone()).start();
        vm.create();
        let refusal = vm.api().put("vm.boot").expect(400).body;
        assert!(refusal.contains("huge pages"), "{refusal}");
        assert!(vm.vmm.is_running());
    }
    std::fs::write(POOL, before.trim()).unwrap();
}

/// The file of a memory zone may be longer than its file system has room for.
fn memory_on_a_full_file_system(context: &Context) {
    let (dir, idle) = (context.path("full"), context.path("idle"));
    std::fs::create_dir(&dir).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8k", "none"]).arg(&dir).status();
    assert!(mount.unwrap().success());
    host::make_idle_kernel(&idle);
    // What a confined VM may use is there before.
    std::fs::write(dir.join("ram"), b"").unwrap();
    let zone = json!({"id": "z", "size": 256u64 << 20, "file": dir.join("ram"), "shared": true});
    let memory = json!({"size": 0, "zones": [zone]});
    let mut vm = Builder::new(context).grant(&idle).with("memory", memory).start();
    // The first kernel is larger than all that there is. The second fits, and what belongs beside it does not.
    for kernel in [vm.config["payload"]["kernel"].clone(), json!(idle)] {
        let mut config = vm.config.clone();
        config["payload"] = json!({"kernel": kernel});
        vm.api().put_json("vm.create", &config).expect(204);
        let refusal = vm.api().put("vm.boot").expect(400).body;
        // The host's kernel reads the first one straight into memory, and calls what is not there a bad address.
        let told = ["The host has nothing behind", "Bad address"].iter().any(|text| refusal.contains(text));
        assert!(told, "{refusal}");
        assert!(vm.vmm.is_running());
        vm.api().put("vm.delete").expect(204);
    }
    assert!(Command::new("umount").arg(&dir).status().unwrap().success());
}

/// The kernel chooses the number in a tap's name, and what an image is shows in its first bytes.
fn names_that_the_host_chose(context: &Context) {
    let disk = context.path("disk");
    host::make_disk(&disk, 8);
    let name = format!("{}x", context.tap());
    let vm = Builder::new(context)
        .with("disks", json!([{"path": disk}]))
        .with("net", json!([{"tap": format!("{name}%d")}, {}]))
        .boot();
    let config = &vm.api().info()["config"];
    assert_eq!(config["disks"][0]["image_type"], "Raw");
    for net in config["net"].as_array().unwrap() {
        let tap = net["tap"].as_str().unwrap();
        wait::until_true(wait::COMMAND, tap, || std::path::Path::new("/sys/class/net").join(tap).exists());
    }
    assert_eq!(config["net"][0]["tap"], format!("{name}0"));
    vm.api().put("vm.shutdown").expect(204);
    assert_eq!(vm.api().info()["config"]["net"][0]["tap"], format!("{name}%d"));
}

//! Is the lab itself sound? Boots the guest images under QEMU with KVM and talks to the agent, without any code of ours
//! on the host side but the harness. When all guest tests fail, this tells whose fault it is.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;
use vmtest::agent::Agent;
use vmtest::console::Console;
use vmtest::wait;

/// Boots, runs commands, powers off. Returns whether all went well.
pub(crate) fn run() -> bool {
    let images = PathBuf::from(std::env::var_os("VMTEST_IMAGES").unwrap());
    println!("work takes {:.1} times as long as on a core of 3 GHz", wait::slowness());
    let socket = std::env::temp_dir().join(format!("selfcheck-{}", std::process::id()));
    let begin = Instant::now();
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-accel", "kvm", "-cpu", "host", "-m", "512M", "-smp", "2", "-machine", "q35"])
        .args(["-nodefaults", "-display", "none", "-no-reboot", "-device", "virtio-rng-pci"])
        .arg("-kernel")
        .arg(images.join("vmlinux"))
        .arg("-initrd")
        .arg(images.join("initramfs"))
        .args([
            "-append",
            &format!("console=ttyS0 agent=ttyS0 quiet {}", std::env::var("CMDLINE").unwrap_or_default()),
        ])
        .args(["-serial", &format!("unix:{},server=on,wait=off", socket.display())])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let console = Console::socket(socket);
    let agent = Agent::new(console.clone());
    let console_seen = console.clone();
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        println!("{}", console_seen.text());
    }));
    agent.wait_ready();
    println!("booted in {:.1} s", begin.elapsed().as_secs_f64());
    assert_eq!(agent.ok("nproc"), "2");
    assert_eq!(agent.run("echo a; echo b >&2; exit 3").status, 3);
    assert!(agent.ok("uname -r").contains("cloud"));
    assert_eq!(agent.ok("seq 20000 | wc -l"), "20000");
    assert_eq!(agent.ok("seq 200").lines().count(), 200);
    println!("commands in {:.1} s", begin.elapsed().as_secs_f64());
    agent.start("poweroff -f");
    let status = wait::until(wait::COMMAND, "QEMU to end", || qemu.try_wait().unwrap());
    console.close();
    println!("ended in {:.1} s", begin.elapsed().as_secs_f64());
    status.success()
}

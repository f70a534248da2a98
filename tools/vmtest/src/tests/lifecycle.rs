//! The life of a VM: pause, reboot, power, shutdown, delete, and what is left behind.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use vmtest::context::Context;
use vmtest::host;
use vmtest::process::Leftovers;
use vmtest::vm::{Builder, Vm};
use vmtest::wait;

vmtest::tests![
    lifecycle: ping, pause_and_resume, clocks_after_a_pause, guest_reboot, api_reboot, guest_power_off, no_shutdown, power_button, nmi,
    shutdown_then_boot, delete_then_create, refused_actions, shutdown_of_the_vmm, terminated_by_a_signal,
    fifty_rounds_leave_nothing,
];

fn ping(context: &Context) {
    let vm = Builder::new(context).start();
    let pong = vm.api().get("vmm.ping").expect(200).json();
    assert_eq!(pong["pid"], vm.vmm.pid());
    assert_eq!(pong["version"], "54.0.0");
    assert!(pong["build_version"].as_str().unwrap().starts_with('v'));
    assert!(pong["features"].as_array().unwrap().iter().any(|feature| feature == "kvm"));
}

/// The guest counts on its second console; the host sees whether it goes on.
fn pause_and_resume(context: &Context) {
    let path = context.path("counter");
    let vm = Builder::new(context).with("console", json!({"mode": "File", "file": path})).boot();
    let counted = || std::fs::metadata(&path).map(|meta| meta.len()).unwrap_or(0);
    vm.ok("(while true; do echo tick >/dev/hvc0; usleep 10000; done) >/dev/null 2>&1 &");
    wait::until_true(wait::COMMAND, "the first ticks", || counted() > 0);
    vm.api().put("vm.pause").expect(204);
    assert_eq!(vm.api().info()["state"], "Paused");
    let (at_pause, cpu_at_pause) = (counted(), vcpu_time(&vm));
    // Work of some length on the host, in which a running guest would count on.
    let filler = context.path("filler");
    host::make_full_disk(&filler, 64);
    assert_eq!(host::sha256(&filler), host::sha256(&filler));
    assert_eq!(counted(), at_pause, "the guest counts while it is paused");
    assert_eq!(vcpu_time(&vm), cpu_at_pause, "the vCPU runs while it is paused");
    vm.api().put("vm.resume").expect(204);
    assert_eq!(vm.api().info()["state"], "Running");
    wait::until_true(wait::COMMAND, "more ticks", || counted() > at_pause);
    assert_eq!(vm.ok("echo back"), "back");
}

/// Whatever clock the guest keeps its time by, a pause leaves it neither behind the host nor in doubt about its clocks.
fn clocks_after_a_pause(context: &Context) {
    const SOURCES: &str = "/sys/devices/system/clocksource/clocksource0";
    const PAUSE: Duration = Duration::from_secs(10);
    let vm = Builder::new(context).boot();
    let available = vm.ok(&format!("cat {SOURCES}/available_clocksource"));
    let sources: Vec<&str> =
        available.split_whitespace().filter(|name| ["kvm-clock", "tsc"].contains(name)).collect();
    assert!(sources.contains(&"kvm-clock"), "{available}");
    for source in sources {
        vm.ok(&format!("echo {source} >{SOURCES}/current_clocksource"));
        let before = ahead_of_host(&vm);
        vm.api().put("vm.pause").expect(204);
        let end = Instant::now() + PAUSE;
        wait::until_true(wait::COMMAND, "the end of the pause", || Instant::now() >= end);
        vm.api().put("vm.resume").expect(204);
        let after = ahead_of_host(&vm);
        let moved = (after.start() - before.end()).max(before.start() - after.end());
        assert!(
            moved < 3.0,
            "{source}: the guest was {before:?} s ahead of the host, and is {after:?} s ahead after a pause"
        );
        assert_eq!(vm.ok(&format!("cat {SOURCES}/current_clocksource")), source);
    }
    assert_eq!(vm.ok("dmesg | grep -i 'clocksource.*unstable' || true"), "");
}

/// Between which bounds the guest's wall clock is ahead of the host's, in seconds.
fn ahead_of_host(vm: &Vm) -> RangeInclusive<f64> {
    let host = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let (from, guest, to) = (host(), vm.ok("date +%s").parse::<f64>().unwrap(), host());
    guest - to..=guest + 1.0 - from
}

/// CPU time of the vCPU threads in clock ticks.
fn vcpu_time(vm: &Vm) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", vm.vmm.pid())).unwrap();
    let stats = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap());
    let vcpus: Vec<String> = stats.filter(|stat| stat.contains("(vcpu")).collect();
    assert!(!vcpus.is_empty(), "no thread is called vcpu");
    let spent = |stat: &String| -> u64 {
        // Behind the name, which may hold spaces: user and system time are fields 14 and 15 of the whole.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    vcpus.iter().map(spent).sum()
}

fn boot_id(vm: &Vm) -> String {
    vm.ok("cat /proc/sys/kernel/random/boot_id")
}

fn guest_reboot(context: &Context) {
    let mut vm = Builder::new(context).cpus(2).boot();
    let first = boot_id(&vm);
    vm.agent().start("reboot -f");
    vm.wait_ready();
    assert_ne!(boot_id(&vm), first);
    assert!(vm.vmm.is_running());
    assert_eq!(vm.ok("nproc"), "2");
    assert_eq!(vm.api().info()["state"], "Running");
}

fn api_reboot(context: &Context) {
    let vm = Builder::new(context).boot();
    let first = boot_id(&vm);
    vm.api().put("vm.reboot").expect(204);
    vm.wait_ready();
    assert_ne!(boot_id(&vm), first);
}

fn guest_power_off(context: &Context) {
    let mut vm = Builder::new(context).boot();
    vm.agent().start("poweroff -f");
    assert_eq!(vm.vmm.wait_exit().code(), Some(0));
    assert!(!vm.vmm.has_socket(), "the socket goes with a VMM that ended well");
}

fn no_shutdown(context: &Context) {
    let mut vm = Builder::new(context).flag("--no-shutdown").boot();
    vm.agent().start("poweroff -f");
    vm.wait_event("vm/shutdown", 1);
    vm.wait_state("Created");
    assert!(vm.vmm.is_running());
    vm.boot();
    vm.wait_ready();
    assert_eq!(vm.ok("echo again"), "again");
}

fn power_button(context: &Context) {
    let vm = Builder::new(context).boot();
    let handlers = vm.ok("grep -A 4 'Power Button' /proc/bus/input/devices | grep -o 'event[0-9]*'");
    vm.ok(&format!("(head -c 24 /dev/input/{handlers} >/tmp/pressed) </dev/null >/dev/null 2>&1 &"));
    // Pressed until seen: the reader may not have opened the device yet.
    wait::until_true(wait::COMMAND, "the button in the guest", || {
        vm.api().put("vm.power-button").expect(204);
        vm.ok("wc -c </tmp/pressed") == "24"
    });
    // A key event (type 1) of KEY_POWER (116).
    assert_eq!(vm.ok("od -An -t u2 -j 16 -N 4 /tmp/pressed | xargs"), "1 116");
}

fn nmi(context: &Context) {
    let vm = Builder::new(context).boot();
    assert_eq!(vm.run("dmesg | grep -c 'NMI received'").stdout.trim(), "0");
    vm.api().put("vm.nmi").expect(204);
    wait::until_true(wait::COMMAND, "the NMI in the guest's log", || {
        vm.run("dmesg | grep 'NMI received'").status == 0
    });
}

fn shutdown_then_boot(context: &Context) {
    let vm = Builder::new(context).boot();
    let first = boot_id(&vm);
    vm.api().put("vm.shutdown").expect(204);
    assert_eq!(vm.api().info()["state"], "Created");
    vm.boot();
    vm.wait_ready();
    assert_ne!(boot_id(&vm), first);
}

fn delete_then_create(context: &Context) {
    let vm = Builder::new(context).boot();
    vm.api().put("vm.delete").expect(204);
    vm.api().get("vm.info").expect(404);
    vm.create();
    vm.boot();
    vm.wait_ready();
    assert_eq!(vm.ok("echo again"), "again");
}

fn refused_actions(context: &Context) {
    let vm = Builder::new(context).start();
    let status = |action: &str| vm.api().put(action).status;
    for (action, code) in [("vm.boot", 404), ("vm.pause", 404), ("vm.shutdown", 404), ("vm.reboot", 404)] {
        assert_eq!(status(action), code, "{action} without a VM");
    }
    vm.api().get("vm.info").expect(404);
    vm.api().get("vm.no-such-action").expect(404);
    vm.create();
    assert_eq!(vm.api().info()["state"], "Created");
    for (action, code) in [("vm.pause", 405), ("vm.resume", 405), ("vm.nmi", 405), ("vm.reboot", 405)] {
        assert_eq!(status(action), code, "{action} before the boot");
    }
    vm.api().put_json("vm.create", &vm.config).expect(409);
    vm.boot();
    vm.wait_ready();
    for (action, code) in [("vm.boot", 405), ("vm.resume", 405)] {
        assert_eq!(status(action), code, "{action} of a running VM");
    }
    vm.api().put("vm.pause").expect(204);
    vm.api().put("vm.pause").expect(405);
    vm.api().put("vm.resume").expect(204);
    assert_eq!(vm.ok("echo unharmed"), "unharmed");
}

fn shutdown_of_the_vmm(context: &Context) {
    let mut vm = Builder::new(context).boot();
    vm.api().put("vmm.shutdown").expect(200);
    assert_eq!(vm.vmm.wait_exit().code(), Some(0));
    assert!(!vm.vmm.has_socket());
}

fn terminated_by_a_signal(context: &Context) {
    use rustix::process::{Pid, Signal, kill_process};
    let mut vm = Builder::new(context).boot();
    let pid = Pid::from_raw(i32::try_from(vm.vmm.pid()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(vm.vmm.wait_exit().code(), Some(0));
    assert!(!vm.vmm.has_socket());
}

fn fifty_rounds_leave_nothing(context: &Context) {
    let disk = context.path("disk");
    host::make_disk(&disk, 8);
    let builder = Builder::new(context).cpus(2).memory_mib(128).disk(&disk).net_with(json!({}));
    let vm = builder.with("console", json!({"mode": "Null"})).with("serial", json!({"mode": "Null"})).start();
    let round = || {
        vm.create();
        vm.boot();
        vm.api().put("vm.delete").expect(204);
    };
    // The first rounds fill what is made once: arenas of the allocator, lazily opened files.
    for _ in 0..5 {
        round();
    }
    let leftovers = Leftovers::of(&vm.vmm);
    for _ in 0..50 {
        round();
    }
    leftovers.assert_none(&vm.vmm);
}

//! CPUs that come to a running guest and leave it.

use serde_json::json;
use vmtest::context::{Context, rounds};
use vmtest::vm::{Builder, Vm};
use vmtest::wait;

vmtest::tests![
    cpus: come_and_go, leave_when_the_guest_runs_again, stay_after_a_reboot, hyper_v, the_254th,
    x2apic_ids_beyond_254,
];

/// A VM of `boot` CPUs that may have 4.
fn boot(context: &Context, boot: u32) -> Vm {
    Builder::new(context).with("cpus", json!({"boot_vcpus": boot, "max_vcpus": 4})).boot()
}

fn resize(vm: &Vm, vcpus: u32, status: u16) {
    vm.api().put_json("vm.resize", &json!({"desired_vcpus": vcpus})).expect(status);
    if status == 204 {
        assert_eq!(vm.api().info()["config"]["cpus"]["boot_vcpus"], vcpus);
    }
}

/// Waits until the guest has the CPUs up to `last` and no others.
fn wait_present(vm: &Vm, last: u32) {
    let expected = if last == 0 { "0".into() } else { format!("0-{last}") };
    wait::until_true(wait::COMMAND, &format!("CPUs {expected} in the guest"), || {
        vm.ok("cat /sys/devices/system/cpu/present") == expected
    });
}

/// Starts the CPU, which has come late, and lets it work.
fn use_late(vm: &Vm, cpu: u32) {
    vm.ok(&format!("echo 1 >/sys/devices/system/cpu/cpu{cpu}/online"));
    let on = vm.ok(&format!("taskset -c {cpu} sh -c 'cut -d\" \" -f39 /proc/self/stat'"));
    assert_eq!(on, cpu.to_string());
}

/// Ticks of the guest's clock that a CPU was busy for its programs.
fn busy(vm: &Vm, cpu: u32) -> u64 {
    vm.ok(&format!("awk '$1 == \"cpu{cpu}\" {{ print $2 }}' /proc/stat")).parse().unwrap()
}

/// Keeps a CPU busy until it has spent some time on it.
fn work_on(vm: &Vm, cpu: u32) {
    const TICKS: u64 = 20;
    let before = busy(vm, cpu);
    vm.ok(&format!("(taskset -c {cpu} sh -c 'while :; do :; done' & echo $! >/tmp/loop) >/dev/null 2>&1"));
    wait::until_true(wait::COMMAND, &format!("work on CPU {cpu}"), || busy(vm, cpu) >= before + TICKS);
}

fn come_and_go(context: &Context) {
    let vm = boot(context, 1);
    assert_eq!(vm.ok("nproc"), "1");
    // The last that has come is started before another one comes.
    resize(&vm, 2, 204);
    wait_present(&vm, 1);
    use_late(&vm, 1);
    resize(&vm, 4, 204);
    wait_present(&vm, 3);
    (2..4).for_each(|cpu| use_late(&vm, cpu));
    assert_eq!(vm.ok("nproc"), "4");
    work_on(&vm, 3);
    vm.api().put("vm.pause").expect(204);
    vm.api().put("vm.resume").expect(204);
    let after = busy(&vm, 3);
    wait::until_true(wait::COMMAND, "more work on CPU 3", || busy(&vm, 3) > after);

    // The loop does not keep the guest from letting go of its CPU.
    resize(&vm, 2, 204);
    wait_present(&vm, 1);
    assert_eq!(vm.ok("nproc"), "2");
    vm.ok("kill $(cat /tmp/loop)");

    resize(&vm, 4, 204);
    wait_present(&vm, 3);
    (2..4).for_each(|cpu| use_late(&vm, cpu));
    assert_eq!(vm.ok("nproc"), "4");
    work_on(&vm, 2);
    vm.ok("kill $(cat /tmp/loop)");
    assert_eq!(vm.run("dmesg | grep -i 'acpi.*error'").stdout, "");
    resize(&vm, 5, 400);
    resize(&vm, 0, 400);
    vm.wait_event("vm/resized", 3);
}

fn leave_when_the_guest_runs_again(context: &Context) {
    let vm = boot(context, 4);
    vm.api().put("vm.pause").expect(204);
    resize(&vm, 2, 204);
    resize(&vm, 3, 429);
    resize(&vm, 2, 204);
    vm.api().put("vm.resume").expect(204);
    wait_present(&vm, 1);
    assert_eq!(vm.ok("nproc"), "2");
    vm.api().put("vm.pause").expect(204);
    resize(&vm, 3, 204);
    vm.api().put("vm.resume").expect(204);
    wait_present(&vm, 2);
    use_late(&vm, 2);
}

fn stay_after_a_reboot(context: &Context) {
    let vm = boot(context, 1);
    resize(&vm, 3, 204);
    // Whether the guest has found them by now or not.
    vm.agent().start("reboot -f");
    vm.wait_ready();
    assert_eq!(vm.ok("nproc"), "3");
    resize(&vm, 2, 204);
    vm.api().put("vm.reboot").expect(204);
    vm.wait_ready();
    assert_eq!(vm.ok("nproc"), "2");
    wait_present(&vm, 1);
}

/// A guest that knows no hypervisor's interface but KVM's and Microsoft's own finds none here. It has no clock then whose rate it could
/// tell; where it is told, it runs.
fn hyper_v(context: &Context) {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let mut rates = cpuinfo.lines().filter_map(|line| line.strip_prefix("cpu MHz")?.split(": ").nth(1));
    let khz = 1000.0 * rates.next().unwrap().parse::<f64>().unwrap();
    let cpus = json!({"boot_vcpus": 2, "max_vcpus": 2, "kvm_hyperv": true});
    let builder = Builder::new(context).with("cpus", cpus);
    let vm = builder.cmdline(&format!("tsc_early_khz={khz:.0} no_timer_check")).boot();
    assert_eq!(vm.ok("nproc"), "2");
    assert_eq!(vm.run("dmesg | grep 'Hypervisor detected'").stdout, "");
}

/// Of as many as a byte of APIC id can tell apart, all but one come late, or some of those.
fn the_254th(context: &Context) {
    let vm = Builder::new(context).with("cpus", json!({"boot_vcpus": 1, "max_vcpus": 254})).boot();
    assert_eq!(vm.ok("cat /sys/devices/system/cpu/possible"), "0-253");
    let count = u32::try_from(rounds(254)).unwrap();
    resize(&vm, count, 204);
    wait_present(&vm, count - 1);
    use_late(&vm, count - 1);
    assert_eq!(vm.ok("nproc"), "2");
    assert_eq!(last_apic_id(&vm), count - 1);
    assert_eq!(vm.run("dmesg | grep -i 'acpi.*error'").stdout, "");
}

/// The APIC id of the last CPU that runs.
fn last_apic_id(vm: &Vm) -> u32 {
    vm.ok("awk '/^apicid/ { id = $3 } END { print id }' /proc/cpuinfo").parse().unwrap()
}

/// Groups of 5 in fields of 3 bits: the 101st vCPU has APIC id 256. The guest starts it alone, and lets it serve a device's interrupts.
fn x2apic_ids_beyond_254(context: &Context) {
    let topology = json!({"threads_per_core": 1, "cores_per_die": 5, "dies_per_package": 5, "packages": 5});
    let cpus = json!({"boot_vcpus": 101, "max_vcpus": 125, "topology": topology});
    let vm = Builder::new(context).with("cpus", cpus).cmdline("maxcpus=1").boot();
    assert_eq!(vm.ok("nproc"), "1");
    use_late(&vm, 100);
    assert_eq!(last_apic_id(&vm), 256);
    // The entropy device's, because the guest's kernel keeps those of disks where it has put them.
    let line = "grep virtio.*-input /proc/interrupts";
    let irq = vm.ok(&format!("{line} | cut -d: -f1"));
    vm.ok(&format!("echo 100 >/proc/irq/{irq}/smp_affinity_list"));
    // The second of the two CPUs that are online.
    let served = || vm.ok(&format!("{line} | awk '{{ print $3 }}'")).parse::<u64>().unwrap();
    let before = served();
    vm.ok("dd if=/dev/hwrng of=/dev/null bs=64 count=8");
    assert!(served() > before, "{before}");
}

//! Kernels, processors, memory, a whole distribution.

use serde_json::json;
use vmtest::context::Context;
use vmtest::host;
use vmtest::vm::{AgentOn, Builder, Vm};
use vmtest::wait;

vmtest::tests![
    boot: elf_kernel, bzimage_kernel, from_flags, one_cpu, two_cpus, four_cpus, memory_256_mib, memory_1_gib,
    memory_5_gib, debian_to_login, firmware_tables, entropy,
];

fn elf_kernel(context: &Context) {
    let vm = Builder::new(context).boot();
    assert!(vm.ok("uname -r").contains("cloud"));
    assert_eq!(vm.api().info()["state"], "Running");
}

fn bzimage_kernel(context: &Context) {
    let vm = Builder::new(context).kernel("bzImage").boot();
    assert!(vm.ok("uname -r").contains("cloud"));
    // The command line arrived whole.
    let sent = vm.config["payload"]["cmdline"].as_str().unwrap().to_owned();
    assert_eq!(vm.ok("cat /proc/cmdline"), sent);
}

fn from_flags(context: &Context) {
    let disk = context.path("disk");
    host::make_disk(&disk, 8);
    let vm = Builder::new(context)
        .cpus(2)
        .memory_mib(384)
        .disk_with(&disk, json!({"readonly": true}))
        .boot_from_flags();
    assert_eq!(vm.ok("nproc"), "2");
    assert_eq!(vm.ok("cat /sys/block/vda/ro"), "1");
    let info = vm.api().info();
    assert_eq!(info["state"], "Running");
    assert_eq!(info["config"]["memory"]["size"], 384 << 20);
}

fn cpus(context: &Context, count: u32) {
    let vm = Builder::new(context).cpus(count).boot();
    assert_eq!(vm.ok("nproc"), count.to_string());
    // Each of them does work.
    for cpu in 0..count {
        assert_eq!(
            vm.ok(&format!("taskset -c {cpu} sh -c 'cut -d\" \" -f39 /proc/self/stat'")),
            cpu.to_string()
        );
    }
}

fn one_cpu(context: &Context) {
    cpus(context, 1);
}

fn two_cpus(context: &Context) {
    cpus(context, 2);
}

fn four_cpus(context: &Context) {
    cpus(context, 4);
}

fn memory(context: &Context, mib: u64) -> Vm {
    let vm = Builder::new(context).memory_mib(mib).boot();
    let total: u64 = vm.ok("sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo").parse().unwrap();
    let size = mib << 10;
    // The kernel keeps its own image and a page descriptor (64 of 4096 bytes) per page, and more for a large map.
    let kept = size.checked_sub(total).unwrap_or_else(|| panic!("{total} kB of {size} kB"));
    assert!(kept < (64 << 10) + size / 32, "{total} kB of {size} kB");
    let info = vm.api().info();
    assert_eq!(info["memory_actual_size"], mib << 20);
    vm
}

fn memory_256_mib(context: &Context) {
    memory(context, 256);
}

fn memory_1_gib(context: &Context) {
    memory(context, 1024);
}

fn memory_5_gib(context: &Context) {
    let vm = memory(context, 5 << 10);
    // The part above 4 GiB is there and is used.
    assert!(
        vm.ok("cat /proc/iomem")
            .lines()
            .any(|line| line.starts_with("100000000-") && line.contains("System RAM"))
    );
    vm.ok("mount -t tmpfs -o size=4g tmpfs /mnt && dd if=/dev/zero of=/mnt/fill bs=1M count=64");
}

fn debian_to_login(context: &Context) {
    let disk = context.path("root");
    host::copy_disk(&context.image("debian.img"), &disk);
    let mut vm = Builder::new(context).cpus(2).memory_mib(1024).disk(&disk).agent(AgentOn::Nobody);
    // On a busy machine, devices take longer to appear than systemd has patience for; then nobody asks for a login.
    let patience = "systemd.default_device_timeout_sec=3600 systemd.default_timeout_start_sec=3600";
    vm = vm.cmdline(&format!("root=/dev/vda rw {patience}"));
    let mut vm = vm.start();
    vm.create();
    vm.boot();
    let serial = vm.serial.clone().unwrap();
    let at = serial.wait_for("guest login:", 0, 3 * wait::BOOT);
    serial.send("root\n");
    let at = serial.wait_for("root@guest:~#", at, wait::BOOT);
    // The echo of what is typed must not look like the answer.
    serial.send("echo \"answer $((6 * 7))\"; cat /etc/debian_version\n");
    let at = serial.wait_for("answer 42", at, wait::COMMAND);
    let at = serial.wait_for("12.", at, wait::COMMAND);
    serial.send("systemctl poweroff\n");
    serial.wait_for("Power down", at, wait::BOOT);
    assert!(vm.vmm.wait_exit().success());
}

fn firmware_tables(context: &Context) {
    let vm = Builder::new(context).boot();
    assert_eq!(vm.ok("cat /sys/class/dmi/id/sys_vendor"), "Cloud Hypervisor");
    assert_eq!(vm.ok("cat /sys/class/dmi/id/product_name"), "cloud-hypervisor");
    let tables = vm.ok("ls /sys/firmware/acpi/tables");
    for table in ["DSDT", "FACP", "APIC", "MCFG"] {
        assert!(tables.lines().any(|line| line == table), "{table} in {tables}");
    }
    assert_eq!(vm.ok("dd if=/sys/firmware/acpi/tables/FACP bs=1 skip=10 count=6 2>/dev/null"), "CLOUDH");
    // The VM generation ID, which Debian's cloud kernel has no driver for.
    assert_eq!(vm.ok("cat /sys/bus/acpi/devices/CHVMGNID:00/path"), r"\_SB_.VGEN");
    let generation = vm
        .ok("dd if=/dev/mem bs=16 skip=$((0xef010 / 16)) count=1 2>/dev/null | hexdump -v -e '1/1 \"%02x\"'");
    assert_eq!(generation.len(), 32);
    assert_ne!(generation, "0".repeat(32));
    assert_eq!(vm.run("dmesg | grep -i 'acpi.*error'").stdout, "");
}

fn entropy(context: &Context) {
    let vm = Builder::new(context).boot();
    assert_eq!(vm.ok("cat /sys/class/misc/hw_random/rng_current"), "virtio_rng.0");
    let read = || vm.ok("head -c 32 /dev/hwrng | hexdump -v -e '1/1 \"%02x\"'");
    let (first, second) = (read(), read());
    assert_eq!(first.len(), 64);
    assert_ne!(first, second);
}

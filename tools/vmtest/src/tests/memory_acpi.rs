//! RAM that comes to a running guest through ACPI, and the NUMA nodes that RAM and CPUs are in.

use serde_json::{Value, json};
use vmtest::context::Context;
use vmtest::host;
use vmtest::vm::{Builder, Vm};
use vmtest::wait;

vmtest::tests![
    memory_acpi: grows, grows_while_paused, refused, nodes, nodes_of_what_comes_later,
];

const MIB: u64 = 1 << 20;
/// RAM of the guests here when they boot.
const RAM: u64 = 512 * MIB;
/// Room for more.
const ROOM: u64 = 1024 * MIB;

fn boot(context: &Context) -> Vm {
    Builder::new(context).with("memory", json!({"size": RAM, "hotplug_size": ROOM})).boot()
}

/// Asks for this much RAM, and expects that it is there at once.
fn grow(vm: &Vm, ram: u64) {
    vm.api().put_json("vm.resize", &json!({"desired_ram": ram})).expect(204);
    let info = vm.api().info();
    assert_eq!((&info["config"]["memory"]["size"], &info["memory_actual_size"]), (&json!(ram), &json!(ram)));
}

/// Bytes of RAM that the guest uses, all of it or that of a node.
fn used(vm: &Vm, table: &str) -> u64 {
    let kib = vm.ok(&format!("sed -n 's/^.*MemTotal: *\\([0-9]*\\) kB$/\\1/p' {table}"));
    kib.trim().parse::<u64>().unwrap() << 10
}

const ALL: &str = "/proc/meminfo";

/// Waits until the guest has found `more` bytes beyond those it `had`, and uses them: as a kernel may leave it to its user when, this
/// is one who does it at once.
fn wait_for_more(vm: &Vm, table: &str, had: u64, more: u64) {
    wait::until_true(wait::COMMAND, &format!("{more} bytes more in {table}"), || {
        vm.ok("for state in $(grep -l offline /sys/devices/system/memory/memory*/state); do echo online >$state; done");
        // Page descriptors of the new memory are taken from the old, or from itself: a part in 64.
        let now = used(vm, table);
        now <= had + more && now + more / 32 >= had + more
    });
}

fn assert_no_complaints(vm: &Vm) {
    assert_eq!(vm.run("dmesg | grep -i -E 'acpi.*error|memhotplug|SRAT.*(bad|not)|SLIT.*bad'").stdout, "");
}

/// Lets the guest fill so many MiB of its memory.
fn use_memory(vm: &Vm, mib: u64) {
    vm.ok("mount -o remount,size=90% /tmp");
    vm.ok(&format!("dd if=/dev/zero of=/tmp/full bs=1048576 count={mib}"));
    assert_eq!(vm.ok("wc -c </tmp/full && rm /tmp/full").trim(), (mib * MIB).to_string());
}

fn grows(context: &Context) {
    let vm = boot(context);
    let had = used(&vm, ALL);
    grow(&vm, 2 * RAM);
    wait_for_more(&vm, ALL, had, RAM);
    // More than it had before.
    use_memory(&vm, 560);
    // A second piece, beside the first.
    grow(&vm, 2 * RAM + 128 * MIB);
    wait_for_more(&vm, ALL, had, RAM + 128 * MIB);
    let places = vm.ok("cat /sys/bus/acpi/devices/PNP0C80:0*/status | grep -c 15");
    assert_eq!(places, "2");
    assert_no_complaints(&vm);

    // The next machine has all of it from the start.
    vm.agent().start("reboot -f");
    vm.wait_ready();
    let after = used(&vm, ALL);
    assert!(after > had + RAM + 64 * MIB, "{after} after the reboot, {had} before");
    assert_eq!(vm.api().info()["memory_actual_size"], 2 * RAM + 128 * MIB);
    // And room for more again.
    grow(&vm, 3 * RAM);
    wait_for_more(&vm, ALL, after, RAM - 128 * MIB);
}

fn grows_while_paused(context: &Context) {
    let vm = boot(context);
    let had = used(&vm, ALL);
    vm.api().put("vm.pause").expect(204);
    grow(&vm, RAM + 256 * MIB);
    grow(&vm, RAM + 512 * MIB);
    vm.api().put("vm.resume").expect(204);
    wait_for_more(&vm, ALL, had, 512 * MIB);
}

fn refused(context: &Context) {
    let vm = boot(context);
    let had = used(&vm, ALL);
    let refuse = |ram: u64, text: &str| {
        let reply = vm.api().put_json("vm.resize", &json!({"desired_ram": ram})).expect(400).body;
        assert!(reply.contains(text), "{reply}");
        assert_eq!(vm.api().info()["config"]["memory"]["size"], RAM);
    };
    refuse(RAM + MIB, "multiples of 134217728 bytes");
    refuse(RAM + ROOM + 128 * MIB, "memory.hotplug_size");
    refuse(0, "Memory size is 0");
    assert_eq!(used(&vm, ALL), had);
    // Less is what the next machine begins with.
    vm.api().put_json("vm.resize", &json!({"desired_ram": RAM / 2})).expect(204);
    let info = vm.api().info();
    assert_eq!(
        (&info["config"]["memory"]["size"], &info["memory_actual_size"]),
        (&json!(RAM / 2), &json!(RAM))
    );
    assert_eq!(used(&vm, ALL), had);
    vm.api().put("vm.reboot").expect(204);
    vm.wait_ready();
    assert!(used(&vm, ALL) < had - RAM / 4);
    assert_eq!(vm.api().info()["memory_actual_size"], RAM / 2);
}

/// What the guest says of a node, without what surrounds it.
fn of_node(vm: &Vm, node: u32, file: &str) -> String {
    vm.ok(&format!("cat /sys/devices/system/node/node{node}/{file}")).trim().to_owned()
}

fn meminfo(node: u32) -> String {
    format!("/sys/devices/system/node/node{node}/meminfo")
}

fn with_nodes<'a>(context: &'a Context, memory: Value, nodes: Value) -> Builder<'a> {
    let cpus = json!({"boot_vcpus": 2, "max_vcpus": 4});
    Builder::new(context).with("memory", memory).with("cpus", cpus).with("numa", nodes)
}

fn nodes(context: &Context) {
    let zones = json!([{"id": "a", "size": 384 * MIB}, {"id": "b", "size": 256 * MIB, "host_numa_node": 0}]);
    let nodes = json!([
        {"guest_numa_id": 0, "cpus": [0, 2], "memory_zones": ["a"], "distances": [{"destination": 1, "distance": 15}]},
        {"guest_numa_id": 1, "cpus": [1, 3], "memory_zones": ["b"], "pci_segments": [1],
            "distances": [{"destination": 0, "distance": 25}]},
    ]);
    let disk = context.path("disk");
    host::make_disk(&disk, 8);
    let vm = with_nodes(context, json!({"size": 0, "zones": zones}), nodes)
        .with("platform", json!({"num_pci_segments": 2}))
        .disk_with(&disk, json!({"pci_segment": 1}))
        .boot();
    assert_eq!(vm.ok("cat /sys/devices/system/node/online").trim(), "0-1");
    assert_eq!([0, 1].map(|node| of_node(&vm, node, "cpulist")), ["0", "1"]);
    assert_eq!([0, 1].map(|node| of_node(&vm, node, "distance")), ["10 15", "25 10"]);
    let [first, second] = [0, 1].map(|node| used(&vm, &meminfo(node)) / MIB);
    assert!((200..=384).contains(&first) && (200..=256).contains(&second), "{first} and {second} MiB");
    assert_eq!(vm.ok("cat /sys/bus/pci/devices/0001:00:00.0/numa_node").trim(), "1");
    assert_eq!(vm.ok("cat /sys/bus/pci/devices/0000:00:00.0/numa_node").trim(), "0");

    let policies = std::fs::read_to_string(format!("/proc/{}/numa_maps", vm.vmm.pid())).unwrap();
    assert_eq!(policies.lines().filter(|line| line.contains(" bind:0")).count(), 1, "{policies}");

    // CPUs that come later are where they were said to be.
    vm.api().put_json("vm.resize", &json!({"desired_vcpus": 4})).expect(204);
    wait::until_true(wait::COMMAND, "four CPUs", || {
        vm.ok("cat /sys/devices/system/cpu/present").trim() == "0-3"
    });
    vm.ok("for cpu in 2 3; do echo 1 >/sys/devices/system/cpu/cpu$cpu/online; done");
    assert_eq!([0, 1].map(|node| of_node(&vm, node, "cpulist")), ["0,2", "1,3"]);
    // Zones have their sizes for good.
    let reply = vm.api().put_json("vm.resize", &json!({"desired_ram": 1024 * MIB})).expect(400).body;
    assert!(reply.contains("user defined memory regions"), "{reply}");
    assert_no_complaints(&vm);
}

/// All RAM is in node 1, and what comes is, too. Nodes may have gaps.
fn nodes_of_what_comes_later(context: &Context) {
    let nodes = json!([
        {"guest_numa_id": 0, "cpus": [1, 2, 3]},
        {"guest_numa_id": 2, "cpus": [0], "memory_zones": ["mem0"], "distances": [{"destination": 0, "distance": 40}]},
    ]);
    let vm = with_nodes(context, json!({"size": RAM, "hotplug_size": ROOM}), nodes).boot();
    let full = vm.ok("cat /sys/devices/system/node/has_memory").trim().to_owned();
    assert!(["1", "2"].contains(&full.as_str()), "{full}");
    let node = full.parse().unwrap();
    assert_eq!(of_node(&vm, node, "cpulist"), "0");
    let mut distances: Vec<_> = of_node(&vm, node, "distance").split(' ').map(str::to_owned).collect();
    distances.sort();
    assert_eq!(distances, ["10", "40"]);
    let had = used(&vm, &meminfo(node));
    grow(&vm, 2 * RAM);
    wait_for_more(&vm, &meminfo(node), had, RAM);
    assert_no_complaints(&vm);
}

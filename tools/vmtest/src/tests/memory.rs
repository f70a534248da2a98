//! Guest RAM that comes and goes while the guest runs.

use serde_json::{Value, json};
use vmtest::context::Context;
use vmtest::vm::{Builder, Vm};
use vmtest::wait;

vmtest::tests![
    memory: balloon, balloon_of_shared_memory, balloon_of_huge_pages, balloon_deflates_on_oom, free_page_reporting,
    virtio_mem, virtio_mem_zone_of_shared_memory,
];

const MIB: u64 = 1 << 20;
/// RAM of the guests here.
const RAM: u64 = 256 * MIB;

/// Bytes of host memory that the VMM and its guest occupy, without huge pages.
fn resident(vm: &Vm) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", vm.vmm.pid())).unwrap();
    kib(&status, "VmRSS") << 10
}

/// The number behind `name:` in a table such as `/proc/meminfo`.
fn kib(table: &str, name: &str) -> u64 {
    let line = table.lines().find(|line| line.split(':').next() == Some(name));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    number.unwrap_or_else(|| panic!("no {name} in {table}"))
}

/// A row of the guest's `/proc/meminfo`, in bytes.
fn guest_memory(vm: &Vm, row: &str) -> u64 {
    kib(&vm.ok("cat /proc/meminfo"), row) << 10
}

/// Lets the guest write to so many MiB of its memory, bit by bit: an emulated CPU needs long for each page of shared memory.
fn fill_memory(vm: &Vm, mib: u64) {
    const PIECE: u64 = 32;
    vm.ok("mount -o remount,size=90% /tmp");
    for _ in 0..mib / PIECE {
        vm.ok(&format!("head -c {} /dev/zero >>/tmp/full", PIECE * MIB));
    }
}

/// Lets the guest write to so many MiB of its memory, and free them again.
fn use_memory(vm: &Vm, mib: u64) {
    fill_memory(vm, mib);
    vm.ok("rm /tmp/full");
}

fn resize_balloon(vm: &Vm, size: u64) {
    vm.api().put_json("vm.resize", &json!({"desired_balloon": size})).expect(204);
}

/// Waits until the guest has given all that it was asked for, or taken back the rest.
fn wait_for_balloon(vm: &Vm, size: u64) {
    wait::until_true(wait::COMMAND, &format!("a balloon of {size} bytes"), || {
        vm.api().info()["memory_actual_size"] == RAM - size
    });
}

fn with_balloon<'a>(context: &'a Context, memory: &Value, balloon: Value) -> Builder<'a> {
    let mut whole = json!({"size": RAM});
    for (key, value) in memory.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    Builder::new(context).with("memory", whole).with("balloon", balloon)
}

/// The guest uses `used` MiB of its RAM.
fn balloon_over(context: &Context, memory: &Value, used: u64) -> Vm {
    let vm = with_balloon(context, memory, json!({"size": 0})).boot();
    use_memory(&vm, used);
    let (full, total) = (resident(&vm), guest_memory(&vm, "MemTotal"));
    assert!(full > used * MIB, "{full}");
    resize_balloon(&vm, 128 * MIB);
    wait_for_balloon(&vm, 128 * MIB);
    wait::until_true(wait::COMMAND, "memory back", || resident(&vm) < full - 32 * MIB);
    assert_eq!(guest_memory(&vm, "MemTotal"), total - 128 * MIB);
    assert_eq!(vm.api().info()["config"]["balloon"]["size"], 128 * MIB);
    resize_balloon(&vm, 32 * MIB);
    wait_for_balloon(&vm, 32 * MIB);
    assert_eq!(guest_memory(&vm, "MemTotal"), total - 32 * MIB);
    // The balloon has as much.
    use_memory(&vm, used - 32);
    vm
}

fn balloon(context: &Context) {
    let vm = balloon_over(context, &json!({}), 160);
    // The next machine has the balloon that this one was to have.
    vm.api().put("vm.reboot").expect(204);
    vm.wait_ready();
    wait_for_balloon(&vm, 32 * MIB);
    let too_much = vm.api().put_json("vm.resize", &json!({"desired_balloon": RAM})).expect(400).body;
    assert!(too_much.contains("greater than RAM"), "{too_much}");
}

fn balloon_of_shared_memory(context: &Context) {
    balloon_over(context, &json!({"shared": true}), 128);
}

/// The guest gives 4 KiB at a time, and whole pages go back to the host's pool.
fn balloon_of_huge_pages(context: &Context) {
    const POOL: &str = "/proc/sys/vm/nr_hugepages";
    let free = || kib(&std::fs::read_to_string("/proc/meminfo").unwrap(), "HugePages_Free");
    let before = std::fs::read_to_string(POOL).unwrap();
    std::fs::write(POOL, "160").unwrap();
    let vm = with_balloon(context, &json!({"hugepages": true}), json!({"size": 0})).boot();
    use_memory(&vm, 160);
    let full = free();
    resize_balloon(&vm, 128 * MIB);
    wait_for_balloon(&vm, 128 * MIB);
    // Some have parts that the guest keeps.
    wait::until_true(wait::COMMAND, "huge pages back", || free() >= full + 32);
    resize_balloon(&vm, 0);
    wait_for_balloon(&vm, 0);
    use_memory(&vm, 160);
    vm.api().put("vm.delete").expect(204);
    std::fs::write(POOL, before.trim()).unwrap();
}

fn balloon_deflates_on_oom(context: &Context) {
    let balloon = json!({"size": 144 * MIB, "deflate_on_oom": true});
    let vm = with_balloon(context, &json!({}), balloon).boot();
    wait_for_balloon(&vm, 144 * MIB);
    // More than there is, held in memory of its own.
    let all = guest_memory(&vm, "MemAvailable") + 16 * MIB;
    let hog = vm.ok(&format!("head -c {all} /dev/zero | tail -c {all} | wc -c"));
    assert_eq!(hog, all.to_string());
    let left = vm.api().info()["memory_actual_size"].as_u64().unwrap();
    assert!(left > RAM - 144 * MIB, "{left}");
}

fn free_page_reporting(context: &Context) {
    let balloon = json!({"size": 0, "free_page_reporting": true});
    let vm = with_balloon(context, &json!({}), balloon).boot();
    fill_memory(&vm, 160);
    let full = resident(&vm);
    assert!(full > 160 * MIB, "{full}");
    vm.ok("rm /tmp/full");
    wait::until_true(wait::COMMAND, "memory back", || resident(&vm) < full - 96 * MIB);
    assert_eq!(vm.api().info()["memory_actual_size"], RAM);
    use_memory(&vm, 160);
}

/// Room for more RAM.
const ROOM: u64 = 256 * MIB;

/// Waits until the guest has plugged this much beyond its RAM at boot, and uses it.
fn wait_for_plugged(vm: &Vm, total: u64, plugged: u64) {
    wait::until_true(wait::COMMAND, &format!("{plugged} bytes plugged"), || {
        vm.api().info()["memory_actual_size"] == RAM + plugged
    });
    wait::until_true(wait::COMMAND, "the guest's own count", || {
        // Page descriptors of the new memory are taken from it, a part in 64.
        let now = guest_memory(vm, "MemTotal");
        now <= total + plugged && now + plugged / 32 >= total + plugged
    });
}

/// New memory is movable, so that it can be unplugged again.
fn with_room(context: &Context, memory: Value) -> Vm {
    Builder::new(context).with("memory", memory).cmdline("memhp_default_state=online_movable").boot()
}

fn virtio_mem(context: &Context) {
    let memory = json!({"size": RAM, "hotplug_method": "VirtioMem", "hotplug_size": ROOM});
    let vm = with_room(context, memory);
    let total = guest_memory(&vm, "MemTotal");
    let resize = |ram: u64| vm.api().put_json("vm.resize", &json!({"desired_ram": ram}));
    resize(RAM + ROOM).expect(204);
    wait_for_plugged(&vm, total, ROOM);
    use_memory(&vm, 320);
    let full = resident(&vm);
    assert!(full > 320 * MIB, "{full}");
    resize(RAM + ROOM / 2).expect(204);
    wait_for_plugged(&vm, total, ROOM / 2);
    resize(RAM).expect(204);
    wait_for_plugged(&vm, total, 0);
    wait::until_true(wait::COMMAND, "memory back", || resident(&vm) < full - 64 * MIB);
    resize(RAM + ROOM / 2).expect(204);
    wait_for_plugged(&vm, total, ROOM / 2);
    assert_eq!(vm.api().info()["config"]["memory"]["hotplugged_size"], ROOM / 2);
    for wrong in [RAM - 2 * MIB, RAM + MIB, RAM + ROOM + 2 * MIB] {
        resize(wrong).expect(400);
    }
    // The next machine begins with what this one was to have.
    vm.api().put("vm.reboot").expect(204);
    vm.wait_ready();
    wait_for_plugged(&vm, total, ROOM / 2);
    use_memory(&vm, 280);
}

fn virtio_mem_zone_of_shared_memory(context: &Context) {
    let zone = json!({"id": "more", "size": RAM / 2, "shared": true, "hotplug_size": ROOM});
    let zones = json!([{"id": "less", "size": RAM / 2}, zone]);
    let vm = with_room(context, json!({"size": 0, "hotplug_method": "VirtioMem", "zones": zones}));
    let total = guest_memory(&vm, "MemTotal");
    let resize =
        |id: &str, ram: u64| vm.api().put_json("vm.resize-zone", &json!({"id": id, "desired_ram": ram}));
    resize("more", RAM / 2 + ROOM).expect(204);
    wait_for_plugged(&vm, total, ROOM);
    // New memory is used first, as files may be moved.
    use_memory(&vm, 128);
    let full = resident(&vm);
    resize("more", RAM / 2).expect(204);
    wait_for_plugged(&vm, total, 0);
    wait::until_true(wait::COMMAND, "memory back", || resident(&vm) < full - 32 * MIB);
    resize("less", RAM).expect(400);
    assert!(vm.api().info()["device_tree"]["more"].is_object());
}

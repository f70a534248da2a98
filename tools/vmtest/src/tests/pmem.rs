//! Persistent memory.

use super::hotplug;
use serde_json::json;
use vmtest::context::{Context, rounds};
use vmtest::host;
use vmtest::process::Leftovers;
use vmtest::vm::{Builder, Vm};
use vmtest::wait;

vmtest::tests![pmem: checksums_agree_across_a_reboot, discarded_writes, in_a_directory, comes_and_goes];

/// The checksum that the guest sees.
fn sha256(vm: &Vm) -> String {
    vm.ok("sha256sum </dev/pmem0").chars().take(64).collect()
}

fn checksums_agree_across_a_reboot(context: &Context) {
    let file = context.path("file");
    host::make_full_disk(&file, 16);
    let mut vm = Builder::new(context).with("pmem", json!([{"file": file, "id": "p"}])).boot();
    // The guest has it where the device tree says it is.
    let range = vm.api().info()["device_tree"]["p"]["resources"][0]["MmioAddressRange"].clone();
    let base = range["base"].as_u64().unwrap();
    assert_eq!(vm.ok("cat /sys/bus/nd/devices/region0/resource"), format!("{base:#x}"), "{range}");
    assert_eq!(vm.ok("cat /sys/block/pmem0/size"), "32768");
    assert_eq!(sha256(&vm), host::sha256(&file));
    // Flushed, and so in the host's file; odd sizes and places too.
    vm.ok("dd if=/dev/urandom of=/dev/pmem0 bs=1M seek=4 count=7 conv=fsync");
    vm.ok("dd if=/dev/urandom of=/dev/pmem0 bs=512 seek=3 count=5 conv=fsync");
    let written = sha256(&vm);
    assert_eq!(written, host::sha256(&file));
    vm.agent().start("reboot -f");
    vm.wait_ready();
    assert_eq!(sha256(&vm), written);
    vm.agent().start("poweroff -f");
    assert!(vm.vmm.wait_exit().success());
    assert_eq!(written, host::sha256(&file));
}

fn discarded_writes(context: &Context) {
    let file = context.path("file");
    host::make_full_disk(&file, 8);
    let before = host::sha256(&file);
    let vm = Builder::new(context).with("pmem", json!([{"file": file, "discard_writes": true}])).boot();
    assert_eq!(sha256(&vm), before);
    vm.ok("dd if=/dev/urandom of=/dev/pmem0 bs=1M count=3 conv=fsync");
    assert_ne!(sha256(&vm), before);
    assert_eq!(host::sha256(&file), before);
    // Nothing of it is left in the next machine.
    vm.api().put("vm.reboot").expect(204);
    vm.wait_ready();
    assert_eq!(sha256(&vm), before);
    // Somebody makes the file shorter while the guest has it.
    std::fs::File::options().write(true).open(&file).unwrap().set_len(4 << 20).unwrap();
    let told = vm.wait_event("vm/memory-file-shortened", 1);
    assert!(told.properties["memory"].as_str().unwrap().contains(file.to_str().unwrap()), "{told:?}");
    vm.ok("true");
}

fn in_a_directory(context: &Context) {
    let dir = context.path("dir");
    std::fs::create_dir(&dir).unwrap();
    let vm = Builder::new(context).with("pmem", json!([{"file": dir, "size": 8 << 20}])).boot();
    assert_eq!(vm.ok("cat /sys/block/pmem0/size"), "16384");
    vm.ok("cmp -n 8388608 /dev/pmem0 /dev/zero");
    vm.ok("dd if=/dev/urandom of=/tmp/random bs=1M count=5");
    vm.ok("dd if=/tmp/random of=/dev/pmem0 bs=1M conv=fsync");
    vm.ok("echo 3 >/proc/sys/vm/drop_caches; cmp -n 5242880 /dev/pmem0 /tmp/random");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "its file has no name");
    // Without a size there is nothing to make.
    vm.api().put("vm.delete").expect(204);
    let mut config = vm.config.clone();
    config["pmem"] = json!([{"file": dir}]);
    vm.api().put_json("vm.create", &config).expect(204);
    let refusal = vm.api().put("vm.boot").expect(400);
    assert!(refusal.body.contains("no size specified"), "{}", refusal.body);
}

/// To a running guest, at addresses that are free again when it is gone. The guest has a file system on it that lets programs at the
/// memory itself, without a copy in the page cache (DAX), and finds there what it wrote the round before.
fn comes_and_goes(context: &Context) {
    let file = context.path("file");
    host::make_disk(&file, 8);
    host::make_file_system(&file);
    let vm = Builder::new(context).grant(&file).boot();
    vm.ok("mkdir /pmem && dd if=/dev/urandom of=/tmp/data bs=64k count=16");
    // The guest numbers its regions, and calls the devices after them.
    let names = || vm.run("cd /dev && ls pmem* 2>/dev/null").stdout.trim().to_owned();
    let round = |number: usize| {
        let added = vm.api().put_json("vm.add-pmem", &json!({"file": file, "id": "p"})).expect(200).json();
        hotplug::wait_for(&vm, added["bdf"].as_str().unwrap(), true);
        wait::until_true(wait::COMMAND, "the guest to take the memory", || !names().is_empty());
        let name = names();
        let range = vm.api().info()["device_tree"]["p"]["resources"][0]["MmioAddressRange"].clone();
        let base = range["base"].as_u64().unwrap();
        assert_eq!(vm.ok("cat /sys/bus/nd/devices/region*/resource"), format!("{base:#x}"), "{range}");
        vm.ok(&format!("mount -t ext4 -o dax=always /dev/{name} /pmem"));
        if number > 0 {
            vm.ok(&format!("cmp /pmem/{} /tmp/data && rm /pmem/{0}", number - 1));
        }
        vm.ok(&format!("cp /tmp/data /pmem/{number} && umount /pmem"));
        // Without a file system too.
        let inside = vm.ok(&format!("sha256sum </dev/{name}"));
        assert_eq!(inside.split(' ').next(), Some(host::sha256(&file).as_str()));
        hotplug::assert_agreement(&vm);
        hotplug::remove(&vm, "p");
        hotplug::assert_agreement(&vm);
        assert_eq!(names(), "");
        base
    };
    // The first fills what is made once.
    let base = round(0);
    let leftovers = Leftovers::of(&vm.vmm);
    (1..=rounds(20)).for_each(|number| assert_eq!(round(number), base));
    leftovers.assert_none(&vm.vmm);
    host::check_file_system(&file);
}

//! Disks.

use serde_json::json;
use vmtest::context::Context;
use vmtest::host;
use vmtest::vm::{Builder, raw_disk};
use vmtest::wait;

vmtest::tests![
    block: two_disks_in_order, checksums_agree_across_a_reboot, read_only, serial_number, multi_queue, discard,
    counters, one_writer_only, added_and_removed_before_the_boot, metrics, resized_under_load,
    a_file_system_grows,
];

const MIB: u64 = 1 << 20;

fn two_disks_in_order(context: &Context) {
    let (first, second) = (context.path("first"), context.path("second"));
    host::make_full_disk(&first, 8);
    host::make_full_disk(&second, 16);
    let vm = Builder::new(context).disk(&first).disk(&second).boot();
    for (name, path, mib) in [("vda", &first, 8), ("vdb", &second, 16)] {
        assert_eq!(vm.ok(&format!("cat /sys/block/{name}/size")), (mib * MIB / 512).to_string());
        assert_eq!(
            vm.ok(&format!("sha256sum </dev/{name}")).split(' ').next(),
            Some(host::sha256(path).as_str())
        );
    }
}

fn checksums_agree_across_a_reboot(context: &Context) {
    let disk = context.path("disk");
    host::make_full_disk(&disk, 32);
    let mut vm = Builder::new(context).cpus(2).disk(&disk).boot();
    assert_eq!(vm.ok("sha256sum </dev/vda").split(' ').next(), Some(host::sha256(&disk).as_str()));
    vm.ok("dd if=/dev/urandom of=/dev/vda bs=1M seek=4 count=20 conv=fsync");
    // Odd sizes and places too.
    vm.ok("dd if=/dev/urandom of=/dev/vda bs=512 seek=3 count=5 conv=fsync");
    let written = vm.ok("sha256sum </dev/vda");
    vm.agent().start("reboot -f");
    vm.wait_ready();
    assert_eq!(vm.ok("sha256sum </dev/vda"), written);
    vm.agent().start("poweroff -f");
    assert!(vm.vmm.wait_exit().success());
    assert_eq!(written.split(' ').next(), Some(host::sha256(&disk).as_str()));
}

fn read_only(context: &Context) {
    let disk = context.path("disk");
    host::make_full_disk(&disk, 8);
    let before = host::sha256(&disk);
    let vm = Builder::new(context).disk_with(&disk, json!({"readonly": true})).boot();
    assert_eq!(vm.ok("cat /sys/block/vda/ro"), "1");
    assert_ne!(vm.run("dd if=/dev/urandom of=/dev/vda bs=4k count=1 conv=fsync").status, 0);
    assert_eq!(vm.ok("sha256sum </dev/vda").split(' ').next(), Some(before.as_str()));
    assert_eq!(host::sha256(&disk), before);
}

fn serial_number(context: &Context) {
    let disk = context.path("disk");
    host::make_disk(&disk, 8);
    let vm = Builder::new(context).disk_with(&disk, json!({"serial": "a-serial-number"})).boot();
    assert_eq!(vm.ok("cat /sys/block/vda/serial"), "a-serial-number");
}

fn multi_queue(context: &Context) {
    let disk = context.path("disk");
    host::make_full_disk(&disk, 32);
    let vm = Builder::new(context).cpus(2).disk_with(&disk, json!({"num_queues": 2})).boot();
    assert_eq!(vm.ok("ls /sys/block/vda/mq | wc -l"), "2");
    // Both queues at once: a reader and a writer, each on its own CPU.
    vm.ok("taskset -c 0 dd if=/dev/urandom of=/dev/vda bs=64k count=128 conv=fsync & \
        taskset -c 1 dd if=/dev/vda of=/tmp/upper bs=64k skip=256 count=256; wait");
    vm.ok("dd if=/dev/vda bs=64k skip=256 count=256 iflag=direct 2>/dev/null | cmp - /tmp/upper");
    let inside = vm.ok("sync; echo 3 >/proc/sys/vm/drop_caches; sha256sum </dev/vda");
    assert_eq!(inside.split(' ').next(), Some(host::sha256(&disk).as_str()));
}

fn discard(context: &Context) {
    let disk = context.path("disk");
    host::make_full_disk(&disk, 32);
    let vm = Builder::new(context).disk(&disk).boot();
    assert_ne!(vm.ok("cat /sys/block/vda/queue/discard_max_bytes"), "0");
    let before = host::allocated(&disk);
    vm.ok(&format!("blkdiscard -o {} -l {} /dev/vda", 8 * MIB, 16 * MIB));
    let after = host::allocated(&disk);
    assert!(after + 15 * MIB <= before, "{before} bytes allocated before, {after} after");
    // What was thrown away reads as zeroes, the rest is untouched.
    let inside = vm.ok("echo 3 >/proc/sys/vm/drop_caches; sha256sum </dev/vda");
    assert_eq!(inside.split(' ').next(), Some(host::sha256(&disk).as_str()));
    vm.ok("dd if=/dev/vda bs=1M skip=8 count=16 2>/dev/null | cmp -n 16777216 - /dev/zero");
}

fn counters(context: &Context) {
    let disk = context.path("disk");
    host::make_full_disk(&disk, 8);
    let vm = Builder::new(context).disk_with(&disk, json!({"id": "mydisk"})).boot();
    let count = |name: &str| vm.api().get("vm.counters").expect(200).json()["mydisk"][name].as_u64().unwrap();
    let before = count("write_bytes");
    vm.ok("dd if=/dev/zero of=/dev/vda bs=64k count=16 oflag=direct");
    assert_eq!(count("write_bytes") - before, MIB);
    vm.ok("echo 3 >/proc/sys/vm/drop_caches; cat /dev/vda >/dev/null");
    assert!(count("read_bytes") >= 8 * MIB);
    assert!(count("read_ops") > 0);
}

fn one_writer_only(context: &Context) {
    let disk = context.path("disk");
    host::make_disk(&disk, 8);
    let first = Builder::new(context).disk(&disk).boot();
    let second = Builder::new(context).disk(&disk).start();
    second.create();
    let refusal = second.api().put("vm.boot").expect(400);
    assert!(refusal.body.to_lowercase().contains("lock"), "{}", refusal.body);
    // When the first is gone the second may have it.
    first.api().put("vm.delete").expect(204);
    let _ = second.api().put("vm.shutdown");
    wait::until_true(wait::COMMAND, "the disk to be free", || second.api().put("vm.boot").status == 204);
    second.wait_ready();
    assert_eq!(second.ok("cat /sys/block/vda/size"), (8 * MIB / 512).to_string());
}

fn added_and_removed_before_the_boot(context: &Context) {
    let (first, second) = (context.path("first"), context.path("second"));
    host::make_full_disk(&first, 8);
    host::make_full_disk(&second, 16);
    let vm = Builder::new(context).disk(&first).grant(&second).start();
    vm.create();
    vm.api().put_json("vm.add-disk", &raw_disk(&second, json!({"id": "later"}))).expect(204);
    vm.boot();
    vm.wait_ready();
    assert_eq!(vm.ok("sha256sum </dev/vdb").split(' ').next(), Some(host::sha256(&second).as_str()));
    vm.api().put("vm.shutdown").expect(204);
    vm.api().put_json("vm.remove-device", &json!({"id": "_disk0"})).expect(204);
    vm.api().put_json("vm.remove-device", &json!({"id": "_disk0"})).expect(404);
    vm.boot();
    vm.wait_ready();
    assert_eq!(vm.ok("sha256sum </dev/vda").split(' ').next(), Some(host::sha256(&second).as_str()));
    assert_eq!(vm.run("test -e /dev/vdb").status, 1);
}

/// Queue by queue, and the vCPUs besides.
fn metrics(context: &Context) {
    let disk = context.path("disk");
    host::make_full_disk(&disk, 8);
    let vm = Builder::new(context).cpus(2).disk_with(&disk, json!({"id": "d", "num_queues": 2})).boot();
    let value = |sample: &str| -> f64 {
        let text = vm.api().get("metrics").expect(200).body;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("cloud_hypervisor_{sample} ")));
        line.unwrap_or_else(|| panic!("no {sample} in {text}")).parse().unwrap()
    };
    let count = |queue: u32| {
        value(&format!(r#"queue_request_duration_seconds_count{{device="d",queue="{queue}",op="read"}}"#))
    };
    // Each CPU has a queue of its own.
    for queue in [0, 1] {
        let before = count(queue);
        vm.ok(&format!("taskset {} dd if=/dev/vda of=/dev/null bs=4k count=64 iflag=direct", 1 << queue));
        assert!(count(queue) >= before + 64.0);
        let bucket = format!(
            r#"queue_request_duration_seconds_bucket{{device="d",queue="{queue}",op="read",le="+Inf"}}"#
        );
        assert_eq!(value(&bucket), count(queue));
    }
    for vcpu in [0, 1] {
        assert!(value(&format!(r#"vcpu_exits_total{{vcpu="{vcpu}",reason="mmio_write"}}"#)) > 0.0);
    }
}

/// While the guest writes to the disk's end. What lies beyond the end of a disk that has become smaller is not there any more.
fn resized_under_load(context: &Context) {
    let disk = context.path("disk");
    host::make_full_disk(&disk, 16);
    let vm = Builder::new(context).disk_with(&disk, json!({"id": "d"})).boot();
    let len = || std::fs::metadata(&disk).unwrap().len();
    let resize = |mib: u64| {
        let body = json!({"id": "d", "desired_size": mib * MIB});
        vm.api().put_json("vm.resize-disk", &body).expect(204);
        assert_eq!(len(), mib * MIB);
        let sectors = (mib * MIB / 512).to_string();
        let is_seen = || vm.ok("cat /sys/block/vda/size") == sectors;
        wait::until_true(wait::COMMAND, "the guest to see the size", is_seen);
    };
    let write = "dd if=/dev/urandom of=/dev/vda bs=256k seek=48 oflag=direct";
    vm.ok(&format!("(while :; do {write}; done) >/dev/null 2>&1 & echo $! >/tmp/load"));
    resize(40);
    vm.ok("dd if=/dev/vda of=/dev/null bs=1M skip=32 count=8 iflag=direct");
    resize(24);
    vm.ok("kill $(cat /tmp/load); while pidof dd; do usleep 1000; done");
    assert_eq!(len(), 24 * MIB, "no request was late");
    assert_ne!(vm.run("dd if=/dev/urandom of=/dev/vda bs=1M seek=30 count=1 conv=fsync").status, 0);
    resize(32);
    vm.ok("dd if=/dev/vda bs=1M skip=24 | cmp -n 8388608 - /dev/zero");
    let inside = vm.ok("echo 3 >/proc/sys/vm/drop_caches; sha256sum </dev/vda");
    assert_eq!(inside.split(' ').next(), Some(host::sha256(&disk).as_str()));
    // Refused sizes change nothing, and a reboot neither.
    let refused = json!({"id": "d", "desired_size": 1000});
    vm.api().put_json("vm.resize-disk", &refused).expect(400);
    vm.api().put_json("vm.resize-disk", &json!({"id": "e", "desired_size": MIB})).expect(404);
    vm.api().put("vm.reboot").expect(204);
    vm.wait_ready();
    assert_eq!(vm.ok("cat /sys/block/vda/size"), (32 * MIB / 512).to_string());
}

/// Into the room that its disk has got, with Debian's own tool, while a program writes to it and reads again what it wrote.
fn a_file_system_grows(context: &Context) {
    const FS: &str = "/debian/mnt";
    const LOAD: &str = "cp /tmp/data /debian/mnt/load && sync && echo 3 >/proc/sys/vm/drop_caches && cmp /tmp/data /debian/mnt/load";
    let disk = context.path("disk");
    host::make_disk(&disk, 16);
    host::make_file_system(&disk);
    let builder = Builder::new(context).disk_with(&disk, json!({"id": "d"}));
    let vm = builder.disk_with(&context.image("debian.img"), json!({"readonly": true})).boot();
    vm.ok("mkdir /debian && mount -t ext4 -o ro /dev/vdb /debian");
    vm.ok(&format!(
        "mount --bind /dev /debian/dev && mount --bind /proc /debian/proc && mount -t ext4 /dev/vda {FS}"
    ));
    vm.ok(&format!("dd if=/dev/urandom of=/tmp/data bs=1M count=2 && cp /tmp/data {FS}/kept"));
    vm.ok(&format!(
        "(while [ ! -e /tmp/stop ]; do {LOAD} || touch /tmp/failed; touch /tmp/written; done; touch /tmp/ended) >/dev/null 2>&1 &"
    ));
    let room = || vm.ok(&format!("stat -f -c %b {FS}")).parse::<u64>().unwrap() * 4096;
    for (mib, more) in [(24, 8), (48, 24)] {
        let before = room();
        vm.api().put_json("vm.resize-disk", &json!({"id": "d", "desired_size": mib * MIB})).expect(204);
        let sectors = (mib * MIB / 512).to_string();
        let is_seen = || vm.ok("cat /sys/block/vda/size") == sectors;
        wait::until_true(wait::COMMAND, "the guest to see the size", is_seen);
        vm.ok("chroot /debian resize2fs /dev/vda");
        assert!(room() - before > more * MIB * 9 / 10, "{before} bytes before, {} after", room());
        // The load goes on in it.
        vm.ok("rm -f /tmp/written");
        wait::until_true(wait::COMMAND, "more load", || vm.run("test -e /tmp/written").status == 0);
    }
    vm.ok("touch /tmp/stop");
    wait::until_true(wait::COMMAND, "the load's end", || vm.run("test -e /tmp/ended").status == 0);
    assert_ne!(vm.run("test -e /tmp/failed").status, 0, "the load reads what it wrote");
    // Twice as much as there was room for.
    vm.ok(&format!("dd if=/dev/urandom of=/tmp/large bs=1M count=32 && cp /tmp/large {FS}/large"));
    vm.ok(&format!(
        "sync; echo 3 >/proc/sys/vm/drop_caches; cmp /tmp/large {FS}/large && cmp /tmp/data {FS}/kept"
    ));
    vm.ok(&format!("umount {FS}"));
    vm.api().put("vm.delete").expect(204);
    host::check_file_system(&disk);
}

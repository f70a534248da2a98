//! The event monitor, and devices whose whole point is an event.

use serde_json::json;
use vmtest::context::Context;
use vmtest::host;
use vmtest::vm::Builder;

vmtest::tests![events: of_a_boot, of_a_pause, of_a_reboot, of_the_end, guest_panic, watchdog_is_there];

/// The names of the events so far.
fn names(vm: &vmtest::vm::Vm) -> Vec<String> {
    vm.events().into_iter().map(|event| event.name).collect()
}

/// Asserts that `expected` appear in this order, with others between them perhaps.
fn assert_order(names: &[String], expected: &[&str]) {
    let mut rest = names.iter();
    for name in expected {
        assert!(rest.any(|seen| seen == name), "{name} in its place in {names:?}");
    }
}

fn of_a_boot(context: &Context) {
    let disk = context.path("disk");
    host::make_disk(&disk, 8);
    let vm = Builder::new(context).disk_with(&disk, json!({"id": "mydisk"})).boot();
    assert_order(&names(&vm), &["vmm/starting", "vm/booting", "vm/booted"]);
    vm.ok("dd if=/dev/vda of=/dev/null count=1");
    let activated: Vec<_> =
        vm.events().into_iter().filter(|event| event.name == "virtio-device/activated").collect();
    assert!(activated.iter().any(|event| event.properties["id"] == "mydisk"), "{activated:?}");
    assert!(activated.iter().any(|event| event.properties["id"] == "__rng"), "{activated:?}");
}

fn of_a_pause(context: &Context) {
    let vm = Builder::new(context).boot();
    vm.api().put("vm.pause").expect(204);
    vm.api().put("vm.resume").expect(204);
    vm.wait_event("vm/resumed", 1);
    assert_order(&names(&vm), &["vm/booted", "vm/pausing", "vm/paused", "vm/resuming", "vm/resumed"]);
    // A refused action leaves the first half of its pair.
    vm.api().put("vm.resume").expect(405);
    vm.wait_event("vm/resuming", 2);
    assert_eq!(names(&vm).iter().filter(|name| *name == "vm/resumed").count(), 1);
}

fn of_a_reboot(context: &Context) {
    let vm = Builder::new(context).boot();
    vm.agent().start("reboot -f");
    vm.wait_ready();
    vm.wait_event("vm/rebooted", 1);
    assert_order(&names(&vm), &["vm/booted", "vm/rebooting", "vm/rebooted"]);
}

fn of_the_end(context: &Context) {
    let mut vm = Builder::new(context).boot();
    vm.api().put("vmm.shutdown").expect(200);
    vm.vmm.wait_exit();
    assert_order(&names(&vm), &["vm/booted", "vm/shutdown", "vm/deleted", "vmm/shutdown"]);
}

fn guest_panic(context: &Context) {
    let mut vm = Builder::new(context).with("pvpanic", json!(true)).cmdline("panic=0").boot();
    // The driver found the device.
    vm.ok("ls /sys/bus/pci/drivers/pvpanic-pci | grep 0000:");
    vm.agent().start("echo c >/proc/sysrq-trigger");
    let event = vm.wait_event("guest/panic", 1);
    assert_eq!(event.properties["event"], "panic");
    assert!(vm.vmm.is_running());
    assert_eq!(vm.api().info()["state"], "Running");
}

fn watchdog_is_there(context: &Context) {
    let vm = Builder::new(context).with("watchdog", json!(true)).boot();
    // Linux 6.1 has no driver for it, but sees it on the bus.
    let devices = vm.ok("cat /sys/bus/pci/devices/*/device");
    assert!(devices.lines().any(|device| device == "0x1063"), "{devices}");
}

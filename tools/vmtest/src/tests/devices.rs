//! A device that only tests have: all that one needs is its section, its folder and its line in the catalogue.

use serde_json::json;
use vmtest::context::Context;
use vmtest::vm::Builder;

vmtest::tests![devices: a_device_for_tests];

fn a_device_for_tests(context: &Context) {
    let vm = Builder::new(context).with("echo", json!({"queue_size": 16, "pci_device_id": 9})).boot();
    let there = || {
        let types = vm.ok("cat /sys/bus/virtio/devices/*/device");
        assert!(types.lines().any(|number| number == "0x003f"), "{types}");
        assert_eq!(vm.ok("cat /sys/bus/pci/devices/0000:00:09.0/device"), "0x107f");
    };
    there();
    assert_eq!(vm.api().info()["config"]["echo"]["id"], "_echo0");
    vm.api().put("vm.reboot").expect(204);
    vm.wait_ready();
    there();
}

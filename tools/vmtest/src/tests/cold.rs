//! Devices of each kind that are added before the boot: they work, and a running guest lets go of them and takes them again.

use super::{hotplug, net, vsock};
use serde_json::{Value, json};
use std::path::Path;
use vmtest::context::Context;
use vmtest::host;
use vmtest::vm::{Builder, Vm, raw_disk};
use vmtest::wait;

vmtest::tests![cold: each_kind_works_and_leaves];

/// What the guest calls the device `id` in this class.
fn name_of(vm: &Vm, id: &str, class: &str) -> String {
    let bdf = &vm.api().info()["device_tree"][format!("_virtio-pci-{id}")]["pci_bdf"];
    hotplug::name_of(vm, bdf.as_str().unwrap(), class)
}

/// Reads from the disk and the memory, sends over the network and the socket.
fn use_all(context: &Context, vm: &Vm, disk: &Path, file: &Path) {
    wait::until_true(wait::COMMAND, "the guest to take the memory", || vm.run("ls /dev/pmem*").status == 0);
    for (name, file) in [(name_of(vm, "d", "block").as_str(), disk), ("pmem*", file)] {
        let inside = vm.ok(&format!("cat /dev/{name} | sha256sum"));
        assert_eq!(inside.split(' ').next(), Some(host::sha256(file).as_str()), "{name}");
    }
    let (_, guest) = context.addresses();
    let eth = name_of(vm, "n", "net");
    vm.ok(&format!("ip addr add {guest}/24 dev {eth} && ip link set {eth} up"));
    net::send_to_host(context, vm);
    assert_eq!(vsock::exchange(vsock::connect(context, 51), b"over a socket"), b"over a socket");
}

fn each_kind_works_and_leaves(context: &Context) {
    let (disk, file) = (context.path("disk"), context.path("file"));
    host::make_full_disk(&disk, 2);
    host::make_full_disk(&file, 4);
    let (address, _) = context.addresses();
    let devices: [(&str, &str, Value); 4] = [
        ("vm.add-disk", "disks", raw_disk(&disk, json!({"id": "d"}))),
        (
            "vm.add-net",
            "net",
            json!({"tap": context.tap(), "ip": address, "mask": "255.255.255.0", "id": "n"}),
        ),
        ("vm.add-pmem", "pmem", json!({"file": file, "id": "p"})),
        ("vm.add-vsock", "vsock", json!({"cid": vsock::CID, "socket": vsock::socket(context), "id": "v"})),
    ];
    // No rule could name the tap's device before there is one.
    let vm = Builder::new(context).unconfined().start();
    vm.create();
    for (verb, _, section) in &devices {
        vm.api().put_json(verb, section).expect(204);
    }
    vm.boot();
    vm.wait_ready();
    vsock::start(&vm, "vmguest echo 51");
    use_all(context, &vm, &disk, &file);
    hotplug::assert_agreement(&vm);
    for (_, name, section) in &devices {
        hotplug::remove(&vm, section["id"].as_str().unwrap());
        hotplug::assert_agreement(&vm);
        let left = &vm.api().info()["config"][name];
        assert!(left.as_array().is_none_or(Vec::is_empty) && !left.is_object(), "{left}");
    }
    // Neither locks nor names of theirs are left, so that they may come again.
    assert!(!vsock::socket(context).exists());
    assert!(!Path::new("/sys/class/net").join(context.tap()).exists());
    for (verb, _, section) in &devices {
        let added = vm.api().put_json(verb, section).expect(200).json();
        hotplug::wait_for(&vm, added["bdf"].as_str().unwrap(), true);
    }
    use_all(context, &vm, &disk, &file);
    hotplug::assert_agreement(&vm);
}

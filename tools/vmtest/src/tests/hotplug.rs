//! Devices that come to a running guest and leave it.

use super::net;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use vmtest::context::{Context, rounds};
use vmtest::host;
use vmtest::process::Leftovers;
use vmtest::vm::{Builder, Vm, raw_disk};
use vmtest::wait;

vmtest::tests![
    hotplug: disks_come_and_go, nets_come_and_go, far_segments, a_full_segment, kept_over_a_reboot, while_paused,
    refused, a_guest_that_does_not_let_go,
];

/// How often a device comes and goes in one process.
const ROUNDS: usize = 20;

/// Adds a disk and waits until the guest has it. Its address comes out.
fn add_disk(vm: &Vm, path: &Path, more: Value) -> String {
    let added = vm.api().put_json("vm.add-disk", &raw_disk(path, more)).expect(200).json();
    let bdf = added["bdf"].as_str().unwrap().to_owned();
    wait_for(vm, &bdf, true);
    bdf
}

/// Waits until the guest has a driver on the device at `bdf`, or no device there.
pub(crate) fn wait_for(vm: &Vm, bdf: &str, is_there: bool) {
    let what = if is_there { "the guest to take the device" } else { "the guest to let go of the device" };
    let test = format!("ls /sys/bus/pci/devices/{bdf}/virtio*/driver >/dev/null 2>&1");
    wait::until_true(wait::COMMAND, what, || (vm.run(&test).status == 0) == is_there);
}

/// Asks the guest to let go of a device and waits until it has.
pub(crate) fn remove(vm: &Vm, id: &str) {
    let removed = |event: &vmtest::events::Event| event.name == "vm/device-removed";
    let before = vm.events().iter().filter(|event| removed(event)).count();
    vm.api().put_json("vm.remove-device", &json!({"id": id})).expect(204);
    let event = vm.wait_event("vm/device-removed", before + 1);
    assert_eq!(event.properties["id"], id);
}

/// The guest finds PCI functions where `vm.info` says they are, and no others but the host bridge.
pub(crate) fn assert_agreement(vm: &Vm) {
    let inside = vm.ok("ls /sys/bus/pci/devices");
    let inside: BTreeSet<_> =
        inside.split_whitespace().map(str::to_owned).filter(|bdf| bdf != "0000:00:00.0").collect();
    let info = vm.api().info();
    let tree = info["device_tree"].as_object().unwrap();
    let outside = tree.values().filter_map(|node| node["pci_bdf"].as_str());
    assert_eq!(inside, outside.map(str::to_owned).collect());
}

/// A builder of guests that find an image at the result later.
fn with_image<'a>(context: &'a Context, name: &str, mib: u64) -> (Builder<'a>, PathBuf) {
    let image = context.path(name);
    host::make_full_disk(&image, mib);
    (Builder::new(context).grant(&image), image)
}

/// What the guest calls the disk at `bdf`, once it is whole.
pub(crate) fn block_device(vm: &Vm, bdf: &str) -> String {
    name_of(vm, bdf, "block")
}

pub(crate) fn name_of(vm: &Vm, bdf: &str, class: &str) -> String {
    let list = format!("ls /sys/bus/pci/devices/{bdf}/virtio*/{class}");
    let listed = || Some(vm.run(&list)).filter(|output| output.status == 0);
    wait::until(wait::COMMAND, "the guest's name of a device", listed).stdout.trim().to_owned()
}

fn disks_come_and_go(context: &Context) {
    let (builder, image) = with_image(context, "disk", 2);
    let vm = builder.cpus(2).boot();
    let round = |number: usize| {
        let bdf = add_disk(&vm, &image, json!({"id": "d", "num_queues": 2}));
        let name = block_device(&vm, &bdf);
        vm.ok(&format!("echo round {number} | dd of=/dev/{name} bs=512 seek=7 conv=fsync"));
        let inside = vm.ok(&format!("echo 3 >/proc/sys/vm/drop_caches; sha256sum </dev/{name}"));
        assert_eq!(inside.split(' ').next(), Some(host::sha256(&image).as_str()));
        assert_agreement(&vm);
        remove(&vm, "d");
        assert_agreement(&vm);
    };
    // The first fills what is made once.
    round(0);
    let leftovers = Leftovers::of(&vm.vmm);
    (1..=rounds(ROUNDS)).for_each(round);
    leftovers.assert_none(&vm.vmm);
    // Nobody holds the image any more.
    add_disk(&vm, &image, json!({"id": "e"}));
}

fn nets_come_and_go(context: &Context) {
    // No rule could name the tap's device before there is one.
    let vm = Builder::new(context).unconfined().boot();
    let (host, guest) = context.addresses();
    let net = json!({"tap": context.tap(), "ip": host, "mask": "255.255.255.0", "id": "n"});
    let last = rounds(ROUNDS);
    let round = |number: usize| {
        let added = vm.api().put_json("vm.add-net", &net).expect(200).json();
        let bdf = added["bdf"].as_str().unwrap();
        wait_for(&vm, bdf, true);
        let name = name_of(&vm, bdf, "net");
        vm.ok(&format!(
            "ip addr add {guest}/24 dev {name} && ip link set {name} up && ping -c 1 -W 10 {host}"
        ));
        // Mebibytes take an emulated CPU some seconds, so the first round and the last carry them.
        if number == 0 || number == last {
            net::send_to_host(context, &vm);
            net::send_to_guest(context, &vm);
        }
        assert_agreement(&vm);
        remove(&vm, "n");
        assert_agreement(&vm);
    };
    round(0);
    let leftovers = Leftovers::of(&vm.vmm);
    (1..=last).for_each(round);
    leftovers.assert_none(&vm.vmm);
}

fn far_segments(context: &Context) {
    let (builder, image) = with_image(context, "disk", 2);
    let cold = context.path("cold");
    host::make_full_disk(&cold, 1);
    let builder = builder.with("platform", json!({"num_pci_segments": 96}));
    let vm = builder.disk_with(&cold, json!({"pci_segment": 7, "pci_device_id": 31})).boot();
    let bdf = add_disk(&vm, &image, json!({"id": "far", "pci_segment": 95}));
    assert_eq!(bdf, "005f:00:00.0");
    for (bdf, image) in [(bdf.as_str(), &image), ("0007:00:1f.0", &cold)] {
        let inside = vm.ok(&format!("sha256sum </dev/{}", block_device(&vm, bdf)));
        assert_eq!(inside.split(' ').next(), Some(host::sha256(image).as_str()));
    }
    assert_agreement(&vm);
    remove(&vm, "far");
    assert_agreement(&vm);
}

fn a_full_segment(context: &Context) {
    let dir = context.path("images");
    std::fs::create_dir(&dir).unwrap();
    let vm = Builder::new(context).grant(&dir).boot();
    let taken = vm.api().info()["device_tree"]
        .as_object()
        .unwrap()
        .values()
        .filter(|n| n["pci_bdf"].is_string())
        .count();
    let image = |number: usize| {
        let path = dir.join(number.to_string());
        host::make_disk(&path, 1);
        raw_disk(&path, json!({"id": format!("d{number}")}))
    };
    for number in taken..31 {
        vm.api().put_json("vm.add-disk", &image(number)).expect(200);
    }
    wait_for(&vm, "0000:00:1f.0", true);
    let before = vm.api().info();
    let leftovers = Leftovers::of(&vm.vmm);
    let refusal = vm.api().put_json("vm.add-disk", &image(31)).expect(400);
    assert!(refusal.body.contains("PCI segment 0 has"), "{}", refusal.body);
    assert_eq!(vm.api().info(), before);
    leftovers.assert_none(&vm.vmm);
    assert_agreement(&vm);
    remove(&vm, "d20");
    let added = vm.api().put_json("vm.add-disk", &image(31)).expect(200).json();
    wait_for(&vm, added["bdf"].as_str().unwrap(), true);
    assert_agreement(&vm);
}

fn kept_over_a_reboot(context: &Context) {
    let (builder, stays) = with_image(context, "stays", 1);
    let goes = context.path("goes");
    host::make_full_disk(&goes, 1);
    let vm = builder.grant(&goes).boot();
    add_disk(&vm, &goes, json!({"id": "goes"}));
    let bdf = add_disk(&vm, &stays, json!({"id": "stays"}));
    remove(&vm, "goes");
    for reboot in ["vm.reboot", ""] {
        match reboot {
            "" => drop(vm.agent().start("reboot -f")),
            verb => drop(vm.api().put(verb).expect(204)),
        }
        vm.wait_ready();
        assert_eq!(vm.ok(&format!("cat /sys/bus/pci/devices/{bdf}/device")), "0x1042");
        assert_agreement(&vm);
    }
    assert_eq!(vm.api().info()["config"]["disks"].as_array().unwrap().len(), 1);
}

fn while_paused(context: &Context) {
    let (builder, first) = with_image(context, "first", 1);
    let second = context.path("second");
    host::make_full_disk(&second, 1);
    let vm = builder.grant(&second).boot();
    add_disk(&vm, &first, json!({"id": "first"}));
    vm.api().put("vm.pause").expect(204);
    let added =
        vm.api().put_json("vm.add-disk", &raw_disk(&second, json!({"id": "second"}))).expect(200).json();
    vm.api().put_json("vm.remove-device", &json!({"id": "first"})).expect(204);
    assert_eq!(vm.api().info()["device_tree"]["_virtio-pci-first"]["removal"], "pending");
    vm.api().put("vm.resume").expect(204);
    wait_for(&vm, added["bdf"].as_str().unwrap(), true);
    assert_eq!(vm.wait_event("vm/device-removed", 1).properties["id"], "first");
    assert_agreement(&vm);
}

/// What cannot be is refused with a code, and changes nothing.
fn refused(context: &Context) {
    let (builder, image) = with_image(context, "disk", 1);
    let dir = context.path("");
    let vm = builder.grant(&dir).disk_with(&image, json!({"id": "d"})).boot();
    let before = vm.api().info();
    let leftovers = Leftovers::of(&vm.vmm);
    let other = context.path("other");
    host::make_disk(&other, 1);
    for (verb, body, status, names) in [
        ("vm.add-disk", raw_disk(&other, json!({"id": "d"})), 409, "d"),
        ("vm.add-disk", raw_disk(&other, json!({"pci_segment": 1})), 400, "segment"),
        ("vm.add-disk", raw_disk(&other, json!({"pci_device_id": 32})), 400, "32"),
        ("vm.add-disk", raw_disk(&other, json!({"pci_device_id": 1})), 400, "0000:00:01.0"),
        ("vm.add-disk", raw_disk(&image, json!({})), 400, "lock"),
        ("vm.add-disk", raw_disk(&context.path("nowhere"), json!({})), 400, "nowhere"),
        ("vm.add-net", json!({"tap": "a-name-that-is-too-long"}), 400, "a-name-that-is-too-long"),
        ("vm.remove-device", json!({"id": "nobody"}), 404, "nobody"),
        ("vm.remove-device", json!({"id": "__rng"}), 400, "__rng"),
    ] {
        let reply = vm.api().put_json(verb, &body).expect(status);
        assert!(reply.body.contains(names), "{verb} {body}: {}", reply.body);
    }
    assert_eq!(vm.api().info(), before);
    leftovers.assert_none(&vm.vmm);
    assert_agreement(&vm);
}

/// Without its driver for hot-plug, the guest hears nothing.
fn a_guest_that_does_not_let_go(context: &Context) {
    let (builder, image) = with_image(context, "disk", 1);
    let vm = builder.disk_with(&image, json!({"id": "d"})).cmdline("acpiphp.disable=1").boot();
    vm.api().put_json("vm.remove-device", &json!({"id": "d"})).expect(204);
    vm.api().put_json("vm.remove-device", &json!({"id": "d"})).expect(429);
    assert_eq!(vm.wait_event("vm/device-removal-overdue", 1).properties["id"], "d");
    assert_eq!(vm.api().info()["device_tree"]["_virtio-pci-d"]["removal"], "overdue");
    // The device works on, and may be asked for again.
    vm.ok("dd if=/dev/vda of=/dev/null bs=1M iflag=direct");
    vm.api().put_json("vm.remove-device", &json!({"id": "d"})).expect(204);
    vm.api().put_json("vm.remove-device", &json!({"id": "d"})).expect(429);
    vm.api().put("vm.reboot").expect(204);
    assert_eq!(vm.wait_event("vm/device-removed", 1).properties["id"], "d");
    vm.wait_ready();
    assert_agreement(&vm);
}

//! A guest that is changed in many ways at once, in an order that a seed gives: in the end it and `vm.info` agree.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use vmtest::context::{Context, rounds};
use vmtest::host;
use vmtest::vm::{Builder, Vm, raw_disk};
use vmtest::wait;

vmtest::tests![changes: in_random_order];

/// How many changes.
const STEPS: usize = 200;
const MIB: u64 = 1 << 20;
const BOOT_RAM: u64 = 512 * MIB;

/// The same numbers for the same seed.
struct Dice(u64);

impl Dice {
    /// A number below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What a guest is changed into.
struct Changing<'a> {
    vm: &'a Vm,
    dice: Dice,
    images: Vec<PathBuf>,
    /// Numbers of the images that are disks now, and of those on their way out.
    disks: BTreeSet<usize>,
    paused: bool,
}

impl Changing<'_> {
    fn step(&mut self) {
        match self.dice.below(8) {
            0 | 1 => self.add(),
            2 | 3 => self.remove(),
            4 => self.toggle(),
            5 => {
                let vcpus = 1 + self.dice.below(4);
                self.may_be_pending("vm.resize", &json!({"desired_vcpus": vcpus}));
            }
            6 => {
                let (ram, balloon) =
                    (BOOT_RAM + 128 * MIB * self.dice.below(5), 32 * MIB * self.dice.below(3));
                let sizes = json!({"desired_ram": ram, "desired_balloon": balloon});
                self.vm.api().put_json("vm.resize", &sizes).expect(204);
            }
            _ => self.reboot(),
        }
    }

    /// A change that an earlier one may still stand in the way of.
    fn may_be_pending(&self, verb: &str, body: &Value) {
        let reply = self.vm.api().put_json(verb, body);
        assert!([204, 429].contains(&reply.status), "{verb} {body}: {} {}", reply.status, reply.body);
    }

    /// A disk that the guest has not let go of yet is refused.
    fn add(&mut self) {
        let number = self.dice.below(self.images.len() as u64) as usize;
        let disk = raw_disk(&self.images[number], json!({"id": format!("d{number}")}));
        let reply = self.vm.api().put_json("vm.add-disk", &disk);
        let may_be = !self.disks.contains(&number) && reply.status == 200;
        assert!(may_be || reply.status == 409, "{disk}: {} {}", reply.status, reply.body);
        if may_be {
            self.disks.insert(number);
        }
    }

    fn remove(&mut self) {
        let at = self.dice.below(self.disks.len().max(1) as u64) as usize;
        if let Some(number) = self.disks.iter().copied().nth(at) {
            self.vm.api().put_json("vm.remove-device", &json!({"id": format!("d{number}")})).expect(204);
            self.disks.remove(&number);
        }
    }

    fn toggle(&mut self) {
        self.vm.api().put(if self.paused { "vm.resume" } else { "vm.pause" }).expect(204);
        self.paused = !self.paused;
    }

    fn reboot(&mut self) {
        self.vm.api().put("vm.reboot").expect(204);
        self.paused = false;
        self.vm.wait_ready();
    }

    /// Waits until the guest has let go of all that it was asked for; asks again for what it has not heard of.
    fn settle(&mut self) {
        if self.paused {
            self.toggle();
        }
        wait::until_true(2 * wait::COMMAND, "the guest to let go of devices", || {
            let info = self.vm.api().info();
            let tree = info["device_tree"].as_object().unwrap();
            let leaving: Vec<_> = tree.iter().filter(|(_, node)| node["removal"].is_string()).collect();
            for (id, _) in leaving.iter().filter(|(_, node)| node["removal"] == "overdue") {
                self.may_be_pending("vm.remove-device", &json!({"id": id}));
            }
            leaving.is_empty()
        });
    }
}

fn in_random_order(context: &Context) {
    let images: Vec<PathBuf> = (0..6).map(|number| context.path(&format!("image{number}"))).collect();
    images.iter().for_each(|image| host::make_full_disk(image, 1));
    let vm = Builder::new(context)
        .grant(&context.dir)
        .with("cpus", json!({"boot_vcpus": 2, "max_vcpus": 4}))
        .with("memory", json!({"size": BOOT_RAM, "hotplug_method": "VirtioMem", "hotplug_size": 512 * MIB}))
        .with("balloon", json!({"size": 0}))
        .boot();
    let mut changing = Changing { vm: &vm, dice: Dice(54), images, disks: BTreeSet::new(), paused: false };
    for _ in 0..rounds(STEPS) {
        changing.step();
    }
    changing.settle();
    super::hotplug::assert_agreement(&vm);
    wait::until_true(2 * wait::COMMAND, "the CPUs that vm.info shows", || {
        let wanted = vm.api().info()["config"]["cpus"]["boot_vcpus"].as_u64().unwrap();
        // One that was asked for before the guest listened is asked for again.
        changing.may_be_pending("vm.resize", &json!({"desired_vcpus": wanted}));
        vm.online_cpus() == wanted
    });
    // Each disk is the one that it should be.
    for number in &changing.disks {
        let node = &vm.api().info()["device_tree"][format!("_virtio-pci-d{number}")]["pci_bdf"];
        let name = super::hotplug::block_device(&vm, node.as_str().unwrap());
        let inside = vm.ok(&format!("sha256sum </dev/{name}"));
        assert_eq!(inside.split(' ').next(), Some(host::sha256(&changing.images[*number]).as_str()));
    }
}

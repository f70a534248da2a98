//! Live migration of a guest that works meanwhile, from process to process.

use serde_json::{Value, json};
use vmtest::context::Context;
use vmtest::vm::{AgentOn, Builder, Vm};
use vmtest::wait;

vmtest::tests![migrations: precopy, local, postcopy, nobody_there, after_a_restore, over_a_pty];

/// A guest that counts, and has a file with its checksum.
fn busy(vm: &Vm) {
    vm.ok("mkdir -p /tmp/w && dd if=/dev/urandom of=/tmp/w/data bs=1M count=16 2>/dev/null && sha256sum /tmp/w/data >/tmp/w/sum");
    vm.ok("(n=0; while true; do n=$((n+1)); echo $n >/tmp/w/n.new; mv /tmp/w/n.new /tmp/w/n; done) >/dev/null 2>&1 &");
}

fn count(vm: &Vm) -> u64 {
    vm.ok("cat /tmp/w/n").parse().unwrap()
}

/// The guest goes on with all that it had.
fn check(vm: &Vm, least: u64) -> u64 {
    vm.ok("sha256sum -c /tmp/w/sum");
    let counted = count(vm);
    assert!(counted >= least, "{counted} is behind {least}");
    wait::until_true(wait::COMMAND, "the counter to go on", || count(vm) > counted);
    count(vm)
}

/// Hands the VM over to a new process, and waits until the old one has ended.
fn hand_over(context: &Context, vm: Vm, url: &str, send: Value, receive: Value) -> Vm {
    hand_over_to(vm, Builder::new(context), url, send, receive)
}

fn hand_over_to(mut vm: Vm, builder: Builder<'_>, url: &str, send: Value, receive: Value) -> Vm {
    let arrived = builder.with("serial", vm.config["serial"].clone()).start();
    let with = |key: &str, more: Value| {
        let mut body = json!({key: url});
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    };
    std::thread::scope(|scope| {
        let api = arrived.api().clone();
        let body = with("receiver_url", receive);
        let receiving = scope.spawn(move || api.put_json("vm.receive-migration", &body));
        wait::until_true(wait::COMMAND, "the receiver", || {
            let jobs = arrived.api().get("vm.jobs").expect(200).json();
            jobs["jobs"].as_array().unwrap().iter().any(|job| job["state"] == "running")
        });
        vm.api().put_json("vm.send-migration", &with("destination_url", send)).expect(204);
        receiving.join().unwrap().expect(204);
    });
    assert!(vm.vmm.wait_exit().success(), "a source that has handed its VM over ends");
    arrived
}

/// There and back, over every way, with a disk on board.
fn precopy(context: &Context) {
    let disk = context.path("disk");
    vmtest::host::make_disk(&disk, 8);
    let mut vm = Builder::new(context).cpus(2).disk(&disk).boot();
    busy(&vm);
    vm.ok("echo before >/dev/vda; sync");
    let mut least = count(&vm);
    let unix = format!("unix:{}", context.path("migration").display());
    for (url, send) in [
        (unix.as_str(), json!({})),
        ("tcp:127.0.0.1:7001", json!({"connections": 4})),
        ("tcp:127.0.0.1:7002", json!({"downtime_ms": 50})),
    ] {
        vm = hand_over(context, vm, url, send, json!({}));
        assert_eq!(vm.api().info()["state"], "Running", "{url}");
        least = check(&vm, least);
        assert_eq!(vm.ok("head -n 1 /dev/vda"), "before", "{url}");
    }
    vm.api().put("vm.pause").expect(204);
    vm = hand_over(context, vm, &unix, json!({}), json!({}));
    assert_eq!(vm.api().info()["state"], "Paused", "a paused VM arrives paused");
    vm.api().put("vm.resume").expect(204);
    check(&vm, least);
}

/// Memory goes as descriptors.
fn local(context: &Context) {
    let memory = json!({"size": 512 << 20, "shared": true});
    let mut vm = Builder::new(context).with("memory", memory).boot();
    busy(&vm);
    let least = count(&vm);
    let url = format!("unix:{}", context.path("migration").display());
    for _ in 0..2 {
        vm = hand_over(context, vm, &url, json!({"local": true}), json!({}));
        assert_eq!(vm.api().info()["restored_memory"][0]["mode"], "Shared");
        check(&vm, least);
    }
}

/// Memory follows the guest.
fn postcopy(context: &Context) {
    let vm = Builder::new(context).boot();
    busy(&vm);
    let least = count(&vm);
    let mode = json!({"memory_mode": "Postcopy"});
    let vm = hand_over(context, vm, "tcp:127.0.0.1:7003", mode.clone(), mode);
    check(&vm, least);
}

/// A VM that nobody takes runs on where it is.
fn nobody_there(context: &Context) {
    let vm = Builder::new(context).boot();
    busy(&vm);
    let least = count(&vm);
    let url = format!("unix:{}", context.path("nobody").display());
    vm.api().put_json("vm.send-migration", &json!({"destination_url": url})).expect(204);
    wait::until_true(wait::COMMAND, "the end of the migration", || {
        let jobs = vm.api().get("vm.jobs").expect(200).json();
        jobs["jobs"][0]["state"] == "failed"
    });
    assert_eq!(vm.api().info()["state"], "Running");
    check(&vm, least);
}

/// A VM whose memory lies in a snapshot's file takes all of it along.
fn after_a_restore(context: &Context) {
    let vm = Builder::new(context).grant(&context.path("")).boot();
    busy(&vm);
    let least = count(&vm);
    let directory = context.path("snapshot");
    std::fs::create_dir(&directory).unwrap();
    let url = format!("file://{}", directory.display());
    vm.api().put_json("vm.snapshot", &json!({"destination_url": url})).expect(204);
    vm.api().put("vm.delete").expect(204);
    vm.api().put_json("vm.restore", &json!({"source_url": url, "resume": true})).expect(204);
    check(&vm, least);
    let url = format!("unix:{}", context.path("migration").display());
    let vm = hand_over(context, vm, &url, json!({}), json!({}));
    check(&vm, least);
}

/// A console whose other end is made anew.
fn over_a_pty(context: &Context) {
    let pty = || Builder::new(context).agent(AgentOn::Console).with("console", json!({"mode": "Pty"}));
    let vm = pty().boot();
    let url = format!("unix:{}", context.path("migration").display());
    let arrived = hand_over_to(vm, pty(), &url, json!({}), json!({}));
    assert_eq!(arrived.ok("echo here"), "here");
}

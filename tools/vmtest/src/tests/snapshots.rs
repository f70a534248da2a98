//! Snapshots, restores and clones of a guest that works meanwhile.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use vmtest::context::Context;
use vmtest::host;
use vmtest::vm::{Builder, Vm};

vmtest::tests![snapshots: comes_back, chains, while_paging, clones, coredump, cancelled];

/// A guest that writes: a counter that rises, and a file with its checksum in front of it.
fn busy(vm: &Vm) {
    vm.ok("mkdir -p /tmp/w && dd if=/dev/urandom of=/tmp/w/data bs=1M count=16 2>/dev/null && sha256sum /tmp/w/data >/tmp/w/sum");
    vm.ok("(n=0; while true; do n=$((n+1)); echo $n >/tmp/w/n.new; mv /tmp/w/n.new /tmp/w/n; done) >/dev/null 2>&1 &");
}

fn count(vm: &Vm) -> u64 {
    vm.ok("cat /tmp/w/n").parse().unwrap()
}

fn snapshot(vm: &Vm, directory: &Path, parent: Option<&Path>) {
    std::fs::create_dir(directory).unwrap();
    snapshot_into(vm, directory, parent);
}

fn snapshot_into(vm: &Vm, directory: &Path, parent: Option<&Path>) {
    let url = format!("file://{}", directory.display());
    vm.api().put_json("vm.snapshot", &json!({"destination_url": url, "parent": parent})).expect(204);
}

/// Another VMM with the VM of a snapshot, and what is different in it.
fn restored(context: &Context, directory: &Path, more: Value) -> Vm {
    let vm = Builder::new(context).start();
    let socket = vm.config["serial"]["socket"].as_str().unwrap();
    let url = format!("file://{}", directory.display());
    let mut body = json!({"source_url": url, "resume": true, "serial": format!("socket={socket}")});
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    vm.api().put_json("vm.restore", &body).expect(204);
    vm
}

/// Seconds by which the guest's clock is ahead of the host's.
fn ahead(vm: &Vm) -> f64 {
    let host = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    vm.ok("date +%s").parse::<f64>().unwrap() - host
}

/// The guest goes on from its snapshot, with all that it had.
fn check(vm: &Vm, least: u64) -> u64 {
    vm.ok("sha256sum -c /tmp/w/sum");
    let counted = count(vm);
    assert!(counted >= least, "{counted} is behind {least}");
    vmtest::wait::until_true(vmtest::wait::COMMAND, "the counter to go on", || count(vm) > counted);
    count(vm)
}

/// A busy guest is written while it runs and comes back in every way.
fn comes_back(context: &Context) {
    let disk = context.path("disk");
    host::make_disk(&disk, 8);
    let vm = Builder::new(context).grant(&context.path("")).cpus(2).disk(&disk).boot();
    busy(&vm);
    vm.ok("echo before >/dev/vda; sync");
    let (least, before) = (count(&vm), ahead(&vm));
    let running = context.path("running");
    snapshot(&vm, &running, None);
    assert_eq!(vm.api().info()["state"], "Running");
    check(&vm, least);
    vm.api().put("vm.pause").expect(204);
    let paused = context.path("paused");
    snapshot(&vm, &paused, None);
    drop(vm);
    for (directory, mode) in
        [(&running, "CopyOnWrite"), (&running, "Copy"), (&paused, "CopyOnWrite"), (&paused, "OnDemand")]
    {
        let vm = restored(context, directory, json!({"memory_restore_mode": mode}));
        check(&vm, least);
        assert_eq!(vm.api().info()["restored_memory"][0]["mode"], mode);
        assert_eq!(vm.ok("head -n 1 /dev/vda"), "before", "{mode}");
        vm.ok("echo before >/dev/vda; sync");
        assert_eq!(vm.ok("nproc"), "2");
        let after = ahead(&vm);
        assert!((after - before).abs() < 4.0, "{mode}: {before} s ahead of the host before, {after} after");
    }
}

/// Each snapshot of a chain stores what has changed since the one before it.
fn chains(context: &Context) {
    let mut vm = Builder::new(context).grant(&context.path("")).boot();
    busy(&vm);
    let mut last: Option<PathBuf> = None;
    let mut least = 0;
    for number in 0..vmtest::context::rounds(20).max(3) {
        let directory = context.path(&format!("link{number}"));
        least = check(&vm, least);
        snapshot(&vm, &directory, last.as_deref());
        drop(vm);
        let mode = if number % 2 == 0 { "CopyOnWrite" } else { "Copy" };
        vm = restored(context, &directory, json!({"memory_restore_mode": mode}));
        last = Some(directory);
    }
    check(&vm, least);
}

/// A VM whose RAM is still coming is written all the same, with all that it has.
fn while_paging(context: &Context) {
    let vm = Builder::new(context).grant(&context.path("")).boot();
    busy(&vm);
    let least = count(&vm);
    let first = context.path("first");
    snapshot(&vm, &first, None);
    drop(vm);
    let vm = restored(context, &first, json!({"memory_restore_mode": "OnDemand", "background": "Off"}));
    vm.ok("echo later >/tmp/w/later");
    let (second, third) = (context.path("second"), context.path("third"));
    snapshot(&vm, &second, Some(&first));
    check(&vm, least);
    drop(vm);
    let vm =
        restored(context, &second, json!({"memory_restore_mode": "OnDemand", "background_rate": 64 << 20}));
    assert_eq!(vm.ok("cat /tmp/w/later"), "later");
    vm.api().put("vm.pause").expect(204);
    snapshot(&vm, &third, None);
    drop(vm);
    let vm = restored(context, &third, json!({}));
    assert_eq!(vm.ok("cat /tmp/w/later"), "later");
    check(&vm, least);
}

/// Clones of one snapshot share its memory, and none sees what another writes.
fn clones(context: &Context) {
    let vm = Builder::new(context).grant(&context.path("")).memory_mib(256).boot();
    busy(&vm);
    let least = count(&vm);
    let directory = context.path("original");
    snapshot(&vm, &directory, None);
    drop(vm);
    let count = vmtest::context::rounds(32);
    let clones: Vec<Vm> = (0..count).map(|_| restored(context, &directory, json!({}))).collect();
    for (number, clone) in clones.iter().enumerate() {
        clone.ok(&format!("echo clone {number} >/tmp/w/own"));
    }
    let private: u64 = clones.iter().map(|clone| host::private_memory(clone.vmm.pid())).sum();
    for (number, clone) in clones.iter().enumerate() {
        assert_eq!(clone.ok("cat /tmp/w/own"), format!("clone {number}"));
        check(clone, least);
    }
    let copies = count as u64 * (256 << 20);
    assert!(private < copies / 4, "{private} bytes of their own, of {copies}");
}

/// The core of a running guest, which runs on.
fn coredump(context: &Context) {
    let vm = Builder::new(context).grant(&context.path("")).boot();
    busy(&vm);
    let least = count(&vm);
    let path = context.path("core");
    let url = format!("file://{}", path.display());
    vm.api().put_json("vm.coredump", &json!({"destination_url": url})).expect(204);
    check(&vm, least);
    let mut head = [0; 20];
    std::io::Read::read_exact(&mut std::fs::File::open(&path).unwrap(), &mut head).unwrap();
    assert_eq!((&head[..4], head[16]), (&b"\x7fELF"[..], 4), "an ELF file of type CORE");
    assert!(std::fs::metadata(&path).unwrap().len() > 512 << 20);
    let again = vm.api().put_json("vm.coredump", &json!({"destination_url": url}));
    again.expect(400);
}

/// A job that is cancelled leaves a guest that runs and no files.
fn cancelled(context: &Context) {
    let vm = Builder::new(context).grant(&context.path("")).boot();
    busy(&vm);
    let least = count(&vm);
    let directory = context.path("never");
    std::fs::create_dir(&directory).unwrap();
    let body = json!({"destination_url": format!("file://{}", directory.display())});
    let running = || {
        let jobs = vm.api().get("vm.jobs").expect(200).json();
        let job = jobs["jobs"].as_array().unwrap().iter().find(|job| job["state"] == "running").cloned();
        job.map(|job| job["id"].clone())
    };
    std::thread::scope(|scope| {
        let api = vm.api().clone();
        let call = scope.spawn(move || api.put_json("vm.snapshot", &body));
        let id = vmtest::wait::until(vmtest::wait::COMMAND, "the job", running);
        // Nothing else may change the machine meanwhile.
        vm.api().put("vm.pause").expect(429);
        vm.api().put_json("vm.cancel-job", &json!({"id": id})).expect(204);
        call.join().unwrap().expect(405);
    });
    assert_eq!(vm.api().info()["state"], "Running");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
    check(&vm, least);
    snapshot_into(&vm, &directory, None);
}

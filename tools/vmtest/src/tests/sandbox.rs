//! What the VMM may do on the host. All other tests run under seccomp filters and Landlock too; here is what these forbid.

use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use vmtest::context::Context;
use vmtest::host;
use vmtest::vm::{Builder, Vm};

vmtest::tests![
    sandbox: every_thread_is_filtered, no_filters_on_demand, a_file_outside_the_rules, confined_by_flag,
    consoles_after_a_reboot, files_are_the_owner_s,
];

/// Name, `Seccomp` and `NoNewPrivs` of each thread, as `proc(5)` shows them.
fn threads(vm: &Vm) -> Vec<(String, String, String)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", vm.vmm.pid())).unwrap();
    let status = |task: &fs::DirEntry| fs::read_to_string(task.path().join("status")).unwrap();
    let field = |status: &str, key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("{key} in {status}")).trim().to_owned()
    };
    let row =
        |status: String| (field(&status, "Name"), field(&status, "Seccomp"), field(&status, "NoNewPrivs"));
    tasks.map(|task| row(status(&task.unwrap()))).collect()
}

/// A VM with a thread of nearly every kind.
fn furnished(context: &Context) -> Builder<'_> {
    let disk = context.path("disk");
    host::make_disk(&disk, 8);
    let builder = Builder::new(context).disk(&disk).net_with(json!({})).with("watchdog", json!(true));
    builder.with("console", json!({"mode": "Pty"}))
}

fn every_thread_is_filtered(context: &Context) {
    let vm = furnished(context).boot();
    let threads = threads(&vm);
    for name in ["event-monitor", "http-server", "vcpu0", "serial-manager", "_disk0_q0", "__rng", "__console"]
    {
        assert!(threads.iter().any(|(thread, ..)| thread == name), "{name} among {threads:?}");
    }
    for (name, filtered, no_new_privileges) in &threads {
        assert_eq!((filtered.as_str(), no_new_privileges.as_str()), ("2", "1"), "{name}");
    }
}

fn no_filters_on_demand(context: &Context) {
    let vm = furnished(context).unconfined().flag("--seccomp").flag("false").boot();
    for (name, filtered, no_new_privileges) in threads(&vm) {
        assert_eq!((filtered.as_str(), no_new_privileges.as_str()), ("0", "0"), "{name}");
    }
}

fn a_file_outside_the_rules(context: &Context) {
    let (first, second) = (context.path("first"), context.path("second"));
    host::make_disk(&first, 8);
    host::make_disk(&second, 8);
    let vm = Builder::new(context).disk(&first).start();
    vm.create();
    let section = json!({"path": second, "image_type": "Raw", "id": "later"});
    vm.api().put_json("vm.add-disk", &section).expect(204);
    let refusal = vm.api().put("vm.boot").expect(400);
    assert!(refusal.body.contains("Permission denied"), "{}", refusal.body);
    // Without it everything else is there, also a second time.
    vm.api().put_json("vm.remove-device", &json!({"id": "later"})).expect(204);
    vm.boot();
    vm.wait_ready();
    vm.api().put("vm.reboot").expect(204);
    vm.wait_ready();
    vm.ok("test -b /dev/vda");
}

/// With the flag the API's thread is confined as well, and still removes its socket.
fn confined_by_flag(context: &Context) {
    let mut vm = furnished(context).with("console", json!({"mode": "Null"})).boot_from_flags();
    assert_eq!(vm.api().info()["config"]["landlock_enable"], true);
    vm.api().put("vmm.shutdown").expect(200);
    assert!(vm.vmm.wait_exit().success());
    assert!(!vm.vmm.has_socket());
}

/// A reboot opens the consoles anew, by then confined.
fn consoles_after_a_reboot(context: &Context) {
    let builder = Builder::new(context).with("serial", json!({"mode": "Tty"}));
    let vm = builder.with("console", json!({"mode": "Pty"})).boot();
    let before = vm.api().pty("console");
    vm.api().put("vm.reboot").expect(204);
    vm.wait_ready();
    assert_eq!(vm.ok("echo hello"), "hello");
    vm.ok("seq 100 >/dev/hvc0");
    assert!(before.is_some() && vm.api().pty("console").is_some());
}

fn files_are_the_owner_s(context: &Context) {
    let file = context.path("console");
    let vm = Builder::new(context).with("console", json!({"mode": "File", "file": file})).boot();
    let serial = vm.config["serial"]["socket"].as_str().unwrap();
    for path in [file.as_path(), serial.as_ref(), vm.vmm.events.as_path(), vm.vmm.socket()] {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
    }
}

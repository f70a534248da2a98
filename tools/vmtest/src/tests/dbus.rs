//! A whole life over D-Bus: by `busctl`, as anybody has it, and by `ch-remote`.

use serde_json::Value;
use std::fs;
use vmtest::bus::{Bus, FLAGS, INTERFACE, NAME, PATH};
use vmtest::context::Context;
use vmtest::vm::{Builder, Vm};
use vmtest::wait;

vmtest::tests![dbus: by_busctl, by_ch_remote];

fn start(context: &Context) -> Vm {
    FLAGS.iter().fold(Builder::new(context), |builder, flag| builder.flag(flag)).start()
}

fn by_busctl(context: &Context) {
    let bus = Bus::start(context);
    let mut vm = start(context);
    let run = |arguments: &[&str]| {
        let output = bus.busctl(INTERFACE, arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        (text, String::from_utf8(output.stderr).unwrap())
    };
    let ok = |arguments: &[&str]| {
        let (text, error) = run(arguments);
        assert_eq!(error, "", "{arguments:?}");
        text
    };
    let state = || {
        // busctl writes strings as C does, which is nearly how JSON does.
        let text: String = serde_json::from_str(ok(&["VmInfo"]).trim().strip_prefix("s ").unwrap()).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["state"].as_str().unwrap().to_owned()
    };
    let mut monitor = bus.program("gdbus");
    monitor.args(["monitor", "--session", "--dest", NAME, "--object-path", PATH]);
    let monitor = Bus::listen(context, &mut monitor, "is owned by");
    let told = |event: &str| monitor.wait_for(&format!("\"event\": \"{event}\""));

    assert!(ok(&["VmmPing"]).contains("dbus_api"));
    ok(&["VmCreate", "s", &vm.config.to_string()]);
    assert_eq!(state(), "Created");
    ok(&["VmBoot"]);
    told("booted");
    vm.wait_ready();
    assert_eq!(state(), "Running");
    ok(&["VmPause"]);
    told("paused");
    assert_eq!(state(), "Paused");
    let (_, refused) = run(&["VmPause"]);
    assert!(refused.contains("The VM could not be paused\n"), "{refused}");
    ok(&["VmResume"]);
    told("resumed");
    assert_eq!(vm.ok("echo there"), "there");
    ok(&["VmShutdown"]);
    assert_eq!(state(), "Created");
    ok(&["VmDelete"]);
    told("deleted");
    let (_, none) = run(&["VmInfo"]);
    assert!(none.contains("VM is not created"), "{none}");
    // Whatever else a peer may ask for kills no confined thread.
    bus.busctl("org.freedesktop.DBus.Peer", &["GetMachineId"]);
    bus.busctl("org.freedesktop.DBus.Properties", &["GetAll", "s", INTERFACE]);
    bus.busctl("org.freedesktop.DBus.Introspectable", &["Introspect"]);
    ok(&["VmmShutdown"]);
    assert!(vm.vmm.wait_exit().success());
    monitor.wait_for("\"source\": \"vmm\"");
}

fn by_ch_remote(context: &Context) {
    let bus = Bus::start(context);
    let mut vm = start(context);
    let remote = || {
        let mut command = bus.program(&std::env::var("VMTEST_REMOTE").unwrap());
        command.args(FLAGS);
        command
    };
    let run = |arguments: &[&str]| {
        let output = remote().args(arguments).output().unwrap();
        let (text, error) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        (text, error, output.status.code())
    };
    let ok = |arguments: &[&str]| {
        let (text, error, code) = run(arguments);
        assert_eq!((error.as_str(), code), ("", Some(0)), "{arguments:?}");
        text
    };
    let config = context.path("config.json");
    fs::write(&config, vm.config.to_string()).unwrap();

    assert!(ok(&["ping"]).contains("dbus_api"));
    ok(&["create", config.to_str().unwrap()]);
    ok(&["boot"]);
    ok(&["wait", "--state", "running"]);
    vm.wait_ready();
    assert!(ok(&["info", "--output", "table"]).contains("Running"));
    let mut events = Bus::listen(context, remote().arg("events"), "");
    wait::until_true(wait::COMMAND, "an event", || {
        ok(&["pause"]);
        ok(&["resume"]);
        events.heard().contains(r#""event":"paused""#)
    });
    ok(&["pause"]);
    ok(&["wait", "--state", "paused"]);
    let (_, refused, code) = run(&["pause"]);
    let expected = "  0: dbus api client error\n  1: org.cloudhypervisor.DBusApi1.Error.IllegalState: The VM could not be paused\n";
    assert!(refused.contains(expected) && code == Some(1), "{refused}");
    ok(&["resume"]);
    assert_eq!(vm.ok("echo there"), "there");
    ok(&["power-button"]);
    ok(&["shutdown"]);
    ok(&["delete"]);
    let (_, none, _) = run(&["info"]);
    assert!(
        none.contains("DBusApi1.Error.VmNotCreated: ") && none.contains(": VM is not created\n"),
        "{none}"
    );
    ok(&["shutdown-vmm"]);
    assert!(vm.vmm.wait_exit().success());
    events.wait_exit();
    assert!(events.heard().contains(r#""source":"vmm""#), "{}", events.heard());
}

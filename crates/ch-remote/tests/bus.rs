//! `ch-remote` over D-Bus, against a door with a fake control loop behind: what it asks for, prints and ends with.

#![cfg(test)]
#![cfg(feature = "dbus_api")]

mod feed;

use std::io::{BufRead, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Output, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use api::testing::succeed;
use api::{ApiError, Code, Command, EventRecord, PciDeviceInfo, Timestamp};
use dbus::testing::{Daemon, House, NAME, PATH};

use feed::feed;

const PLACE: [&str; 4] = ["--dbus-service-name", NAME, "--dbus-object-path", PATH];

fn run_on(daemon: &Daemon, arguments: &[&str], stdin: &str) -> Output {
    feed(daemon.program(env!("CARGO_BIN_EXE_ch-remote")).args(PLACE).args(arguments), stdin)
}

/// Standard output, standard error and exit code.
fn run(house: &House, arguments: &[&str]) -> (String, String, i32) {
    let output = run_on(&house.daemon, arguments, r#"{"payload":{"kernel":"/k"}}"#);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code().unwrap())
}

/// Each subcommand with its verb; `every_verb_has_its_subcommand` in the program's table sees to it that these are all.
const CASES: [(&[&str], &str); 31] = [
    (&["add-device", "path=/d"], "vm.add-device"),
    (&["add-disk", "path=/d"], "vm.add-disk"),
    (&["add-fs", "tag=t,socket=/s"], "vm.add-fs"),
    (&["add-generic-vhost-user", "virtio_id=26,socket=/s,queue_sizes=[64]"], "vm.add-generic-vhost-user"),
    (&["add-net", "tap=tap0"], "vm.add-net"),
    (&["add-pmem", "file=/p,size=128M"], "vm.add-pmem"),
    (&["add-user-device", "socket=/u"], "vm.add-user-device"),
    (&["add-vdpa", "path=/v"], "vm.add-vdpa"),
    (&["add-vsock", "cid=3,socket=/v"], "vm.add-vsock"),
    (&["boot"], "vm.boot"),
    (&["coredump", "file:///c"], "vm.coredump"),
    (&["counters"], "vm.counters"),
    (&["create"], "vm.create"),
    (&["delete"], "vm.delete"),
    (&["info"], "vm.info"),
    (&["nmi"], "vm.nmi"),
    (&["pause"], "vm.pause"),
    (&["ping"], "vmm.ping"),
    (&["power-button"], "vm.power-button"),
    (&["reboot"], "vm.reboot"),
    (&["receive-migration", "receiver_url=unix:/m"], "vm.receive-migration"),
    (&["remove-device", "_disk0"], "vm.remove-device"),
    (&["resize", "--cpus", "4"], "vm.resize"),
    (&["resize-disk", "--disk", "d0", "--size", "1M"], "vm.resize-disk"),
    (&["resize-zone", "--id", "z0", "--size", "1G"], "vm.resize-zone"),
    (&["restore", "source_url=file:///s"], "vm.restore"),
    (&["resume"], "vm.resume"),
    (&["send-migration", "destination_url=unix:/m"], "vm.send-migration"),
    (&["shutdown"], "vm.shutdown"),
    (&["shutdown-vmm"], "vmm.shutdown"),
    (&["snapshot", "file:///s"], "vm.snapshot"),
];

#[test]
fn every_subcommand_reaches_its_verb() {
    let (sender, asked) = mpsc::channel();
    let house = House::with(move |command| {
        sender.send(command.verb().name).unwrap();
        succeed(command);
    });
    for (arguments, verb) in CASES {
        let (stdout, stderr, code) = run(&house, arguments);
        match (verb, code) {
            ("vmm.ping" | "vm.counters", 0) => assert!(stdout.starts_with('{') && stdout.ends_with("}\n")),
            (_, 0) => assert_eq!((stdout.as_str(), stderr.as_str()), ("", ""), "{verb}"),
            _ => {
                let fails = api::Verb::find(verb).unwrap().fails;
                assert!(stderr.contains("  0: dbus api client error\n  1: org.cloudhypervisor."), "{stderr}");
                assert!(stderr.contains(fails), "{verb}: {stderr}");
                assert_eq!((stdout.as_str(), code), ("", 1), "{verb}");
            }
        }
        if !["vmm.ping", "vm.info", "vm.counters"].contains(&verb) {
            assert_eq!(asked.recv().unwrap(), verb);
        }
    }
}

#[test]
fn replies_and_chains_are_printed() {
    let house = House::with(|command| match command {
        Command::VmAddDisk { reply, .. } => {
            reply.send(Ok(Some(PciDeviceInfo { id: "_disk0".into(), bdf: "0000:00:06.0".into() })));
        }
        Command::VmBoot { reply, .. } => {
            reply.send(Err(ApiError::new(Code::Internal, ["Error building".into(), "No space".into()])));
        }
        other => succeed(other),
    });
    let added = "{\"id\":\"_disk0\",\"bdf\":\"0000:00:06.0\"}\n";
    assert_eq!(run(&house, &["add-disk", "path=/d"]).0, added);
    assert!(run(&house, &["ping", "--output", "table"]).0.contains("version        54.0.0\n"));
    let chain = "Error: ch-remote exited with the following chain of errors:\n  0: dbus api client error\n  \
                 1: org.cloudhypervisor.DBusApi1.Error.Internal: The VM could not boot\n  2: Error building\n  \
                 3: No space\n";
    assert_eq!(run(&house, &["boot"]), (String::new(), chain.into(), 1));
    let binary = house
        .daemon
        .program(env!("CARGO_BIN_EXE_ch-remote"))
        .args(PLACE)
        .args(["create", "/bin/true"])
        .output();
    let text = String::from_utf8(binary.unwrap().stderr).unwrap();
    assert!(text.contains("  1: The configuration is no UTF-8 text\n"), "{text}");
}

#[test]
fn descriptors_travel_with_the_call() {
    let (sender, added) = mpsc::channel::<Vec<OwnedFd>>();
    let house = House::with(move |command| match command {
        Command::VmAddNet { body, reply } => {
            assert_eq!(body.body.pci.id.as_deref(), Some("n0"));
            sender.send(body.descriptors).unwrap();
            reply.send(Ok(None));
        }
        other => succeed(other),
    });
    let (mut reader, writer) = std::io::pipe().unwrap();
    // Unlike the original, a plain duplicate is inherited.
    let inherited = rustix::io::dup(&writer).unwrap();
    drop(writer);
    let argument = format!("id=n0,fd=[{0},{0}]", inherited.as_raw_fd());
    assert_eq!(run(&house, &["add-net", &argument]), (String::new(), String::new(), 0));
    let [first, second] = added.recv().unwrap().try_into().unwrap();
    drop(inherited);
    for fd in [first, second] {
        std::fs::File::from(fd).write_all(b"through ").unwrap();
    }
    // Not to the end of it: programs of the tests beside this one have inherited the writer too.
    let mut text = [0; 16];
    reader.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"through through ");
}

#[test]
fn events_are_followed_until_the_vmm_ends() {
    let mut house = House::new();
    let mut command = house.daemon.program(env!("CARGO_BIN_EXE_ch-remote"));
    let mut child = command.args(PLACE).arg("events").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let push = |event| {
        let timestamp = Timestamp { secs: 1, nanos: 2 };
        house.events().push(Arc::new(EventRecord { timestamp, source: "vm", event, properties: None }));
    };
    // Until the program listens, nobody hears of it.
    let (sender, heard) = mpsc::channel();
    let first = std::thread::spawn(move || {
        let line = lines.next().unwrap().unwrap();
        sender.send(()).unwrap();
        (line, lines)
    });
    while heard.recv_timeout(Duration::from_millis(1)) == Err(RecvTimeoutError::Timeout) {
        push("paused");
    }
    let (line, lines) = first.join().unwrap();
    assert_eq!(
        line,
        r#"{"event":"paused","properties":null,"source":"vm","timestamp":{"nanos":2,"secs":1}}"#
    );
    push("resumed");
    house.server.take().unwrap().stop().unwrap();
    let last = lines.last().unwrap().unwrap();
    assert!(last.contains(r#""event":"resumed""#), "{last}");
    assert!(child.wait().unwrap().success());
    let (_, text, code) = run(&House::new(), &["events", "--all"]);
    assert!(text.contains("use --api-socket for what has been") && code == 1, "{text}");
}

#[test]
fn nobody_there_is_an_error_or_worth_waiting_for() {
    let daemon = Daemon::new();
    let run = |arguments: &[&str]| {
        let output = run_on(&daemon, arguments, "");
        (String::from_utf8(output.stderr).unwrap(), output.status.code())
    };
    let (text, code) = run(&["ping"]);
    let expected = "  0: dbus api client error\n  1: org.freedesktop.DBus.Error.ServiceUnknown: ";
    assert!(text.contains(expected) && code == Some(1), "{text}");
    let (text, code) = run(&["wait", "--state", "running", "--timeout", "0"]);
    assert!(
        text.contains("The VM is not Running in time: the VMM does not answer") && code == Some(1),
        "{text}"
    );
    let house = House::new();
    let late = run_on(&house.daemon, &["wait", "--state", "running", "--timeout", "1"], "");
    let text = String::from_utf8(late.stderr).unwrap();
    assert!(text.contains("The VM is not Running in time: there is no VM"), "{text}");
    let address = ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere/bus");
    let mut lost = house.daemon.program(env!("CARGO_BIN_EXE_ch-remote"));
    let lost = lost.env(address.0, address.1).args(PLACE).arg("ping").output().unwrap();
    let text = String::from_utf8(lost.stderr).unwrap();
    assert!(
        text.contains("  1: Error connecting to the session bus: see that DBUS_SESSION_BUS_ADDRESS names it"),
        "{text}"
    );
}

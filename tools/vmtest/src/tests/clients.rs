//! Clients that others wrote or generated lead a VM through its life.

use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use vmtest::context::Context;
use vmtest::foreign::{Caller, Curl, Process, Told, tool};
use vmtest::host;
use vmtest::outside::{Program, SOCKET};
use vmtest::rest::{read_reply, request_text};
use vmtest::vm::{Builder, Vm};
use vmtest::wait::{self, Patient};

vmtest::tests![clients: published_crate, progenitor, openapi_python_client, curl, a_thousand_at_once];

/// The crate `cloud-hypervisor-client`, made from the reference's document.
fn published_crate(context: &Context) {
    life(context, |socket| program(context, "published", socket));
}

/// A Rust client that progenitor generated from our document.
fn progenitor(context: &Context) {
    life(context, |socket| program(context, "generated", socket));
}

/// A Python client that openapi-python-client generated from our document.
fn openapi_python_client(context: &Context) {
    life(context, |socket| {
        let mut python = Program::new(&tool("VMTEST_PYTHON").join("bin/python"));
        python.arg(tool("VMTEST_PYTHON_SCRIPTS").join("generated.py").to_string_lossy());
        Process::start(context, python.arg(SOCKET), socket)
    });
}

fn curl(context: &Context) {
    life(context, |socket| Curl { socket: socket.to_owned() });
}

fn program(context: &Context, name: &str, socket: &Path) -> Process {
    Process::start(context, Program::new(&tool("VMTEST_CLIENTS")).arg(name).arg(SOCKET), socket)
}

fn reply(client: &mut impl Caller, verb: &str) -> Value {
    match client.call(verb, None) {
        Told::Reply(reply) => reply,
        Told::Refusal(status) => panic!("{verb} is refused with {status}"),
    }
}

fn done(client: &mut impl Caller, verb: &str) {
    assert_eq!(reply(client, verb), Value::Null, "{verb}");
}

fn expect_state(client: &mut impl Caller, vm: &Vm, state: &str) {
    let info = reply(client, "vm.info");
    assert_eq!(info["state"], state);
    // The client's types carry what they describe there and back.
    assert_eq!(info["config"]["memory"]["size"], vm.config["memory"]["size"]);
    assert_eq!(info["config"]["payload"], vm.config["payload"]);
    assert_eq!(info["config"]["disks"][0]["path"], vm.config["disks"][0]["path"]);
    assert_eq!(info["device_tree"]["_disk0"]["id"].is_string(), state != "Created");
}

/// A VM's whole life through one client, and a look into the guest wherever there is one.
fn life<C: Caller>(context: &Context, connect: impl FnOnce(&Path) -> C) {
    let disk = context.path("disk");
    host::make_disk(&disk, 8);
    let mut vm = Builder::new(context).disk(&disk).start();
    let client = &mut connect(vm.vmm.socket());
    let pong = reply(client, "vmm.ping");
    assert_eq!((&pong["version"], &pong["pid"]), (&"54.0.0".into(), &vm.vmm.pid().into()));
    assert_eq!(client.call("vm.info", None), Told::Refusal(404));
    assert_eq!(client.call("vm.boot", None), Told::Refusal(404));

    assert_eq!(client.call("vm.create", Some(&vm.config)), Told::Reply(Value::Null));
    expect_state(client, &vm, "Created");
    assert_eq!(client.call("vm.create", Some(&vm.config)), Told::Refusal(409));
    assert_eq!(client.call("vm.pause", None), Told::Refusal(405));

    done(client, "vm.boot");
    vm.wait_ready();
    expect_state(client, &vm, "Running");
    // Both ways, because a latency without a sample is more than some clients can read.
    vm.ok("dd if=/dev/vda of=/dev/null bs=64k count=4 && dd if=/dev/zero of=/dev/vda bs=64k count=4 && sync");
    let counters = reply(client, "vm.counters");
    for name in ["read_bytes", "write_bytes"] {
        assert!(counters["_disk0"][name].as_u64().unwrap() >= 256 << 10, "{counters}");
    }

    done(client, "vm.pause");
    expect_state(client, &vm, "Paused");
    assert_eq!(client.call("vm.pause", None), Told::Refusal(405));
    done(client, "vm.resume");
    expect_state(client, &vm, "Running");
    assert_eq!(vm.ok("echo unharmed"), "unharmed");

    done(client, "vm.shutdown");
    expect_state(client, &vm, "Created");
    done(client, "vm.delete");
    assert_eq!(client.call("vm.info", None), Told::Refusal(404));
    done(client, "vmm.shutdown");
    assert_eq!(vm.vmm.wait_exit().code(), Some(0));
}

/// There is room for 256 clients; the next one is told, the others may be turned away, and the guest counts on.
fn a_thousand_at_once(context: &Context) {
    const ROOM: usize = 256;
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.current.map(|current| current.max(2048));
    setrlimit(Resource::Nofile, limit).unwrap();
    let path = context.path("counter");
    let vm = Builder::new(context).with("console", json!({"mode": "File", "file": path})).boot();
    let counted = || std::fs::metadata(&path).map(|meta| meta.len()).unwrap_or(0);
    vm.ok("(while true; do echo tick >/dev/hvc0; usleep 10000; done) >/dev/null 2>&1 &");

    let ping = request_text("GET", "vmm.ping", None);
    let mut clients: Vec<_> = (0..1000)
        .map(|_| {
            let mut client = UnixStream::connect(vm.vmm.socket()).unwrap();
            // In vain for a client that is turned away.
            let _ = client.write_all(ping.as_bytes());
            Patient::new(client, wait::COMMAND)
        })
        .collect();
    let replies = clients.iter_mut().map(|client| read_reply(&mut BufReader::new(client)));
    for (number, reply) in replies.enumerate() {
        match (number < ROOM, reply.map(|reply| reply.status)) {
            (true, status) => assert_eq!(status.unwrap(), 200, "client {number}"),
            (false, Ok(status)) => assert_eq!(status, 503, "client {number}"),
            (false, Err(error)) => assert_ne!(number, ROOM, "{error}"),
        }
    }

    let so_far = counted();
    wait::until_true(wait::COMMAND, "the guest to count on", || counted() > so_far);
    assert_eq!(vm.ok("echo unharmed"), "unharmed");
    drop(clients);
    wait::until_true(wait::COMMAND, "room again", || vm.api().answers());
    assert_eq!(vm.api().info()["state"], "Running");
}

//! The network device over a tap.

use config::plan::Net;
use serde_json::json;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use vmtest::context::Context;
use vmtest::host;
use vmtest::vm::{Builder, Vm};
use vmtest::wait::{self, Patient};

vmtest::tests![
    net: ping_both_ways, tcp_to_the_host, tcp_to_the_guest, multi_queue, mac_address, counters, by_descriptors,
];

const DATA_MIB: u64 = 8;

/// Boots a guest with its end of the tap up.
fn boot(context: &Context, builder: Builder) -> Vm {
    let vm = builder.boot();
    let (_, guest) = context.addresses();
    vm.ok(&format!("ip addr add {guest}/24 dev eth0 && ip link set eth0 up"));
    vm
}

fn ping_both_ways(context: &Context) {
    let vm = boot(context, Builder::new(context).net_with(json!({})));
    let (host, guest) = context.addresses();
    vm.ok(&format!("ping -c 3 -W 10 {host}"));
    let busybox = Command::new("busybox").args(["ping", "-c", "3", "-W", "10", &guest]).output().unwrap();
    assert!(busybox.status.success(), "{}", String::from_utf8_lossy(&busybox.stdout));
}

/// The guest sends `DATA_MIB` to the host; both sides must have seen the same.
pub(crate) fn send_to_host(context: &Context, vm: &Vm) {
    let (host, _) = context.addresses();
    let listener = TcpListener::bind((host.as_str(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    vm.ok(&format!("dd if=/dev/urandom of=/tmp/out bs=1M count={DATA_MIB}"));
    vm.ok(&format!("(nc {host} {port} </tmp/out >/dev/null &) "));
    listener.set_nonblocking(true).unwrap();
    let (stream, _) = wait::until(wait::COMMAND, "the guest to connect", || listener.accept().ok());
    let mut stream = Patient::new(stream, wait::COMMAND);
    let mut data = Vec::new();
    stream.read_to_end(&mut data).unwrap();
    let path = context.path("received");
    std::fs::write(&path, &data).unwrap();
    assert_eq!(data.len() as u64, DATA_MIB << 20);
    assert_eq!(vm.ok("sha256sum </tmp/out").split(' ').next(), Some(host::sha256(&path).as_str()));
}

/// The host sends `DATA_MIB` to the guest; both sides must have seen the same.
pub(crate) fn send_to_guest(context: &Context, vm: &Vm) {
    let (_, guest) = context.addresses();
    let path = context.path("sent");
    host::make_full_disk(&path, DATA_MIB);
    vm.ok("rm -f /tmp/done; (nc -l -p 5000 </dev/null >/tmp/in; touch /tmp/done) >/dev/null 2>&1 &");
    let mut stream =
        wait::until(wait::COMMAND, "the guest to listen", || TcpStream::connect((guest.as_str(), 5000)).ok());
    stream.write_all(&std::fs::read(&path).unwrap()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    wait::until_true(wait::COMMAND, "the guest to receive all", || vm.run("test -e /tmp/done").status == 0);
    assert_eq!(vm.ok("sha256sum </tmp/in").split(' ').next(), Some(host::sha256(&path).as_str()));
}

fn tcp_to_the_host(context: &Context) {
    let vm = boot(context, Builder::new(context).net_with(json!({})));
    send_to_host(context, &vm);
}

fn tcp_to_the_guest(context: &Context) {
    let vm = boot(context, Builder::new(context).net_with(json!({})));
    send_to_guest(context, &vm);
}

fn multi_queue(context: &Context) {
    let vm = boot(context, Builder::new(context).cpus(2).net_with(json!({"num_queues": 4})));
    assert_eq!(vm.ok("ls -d /sys/class/net/eth0/queues/rx-* | wc -l"), "2");
    assert_eq!(vm.ok("ls -d /sys/class/net/eth0/queues/tx-* | wc -l"), "2");
    send_to_host(context, &vm);
    send_to_guest(context, &vm);
}

fn mac_address(context: &Context) {
    let mac = "2e:01:02:03:04:05";
    let vm = boot(context, Builder::new(context).net_with(json!({"mac": mac})));
    assert_eq!(vm.ok("cat /sys/class/net/eth0/address"), mac);
    assert_eq!(vm.api().info()["config"]["net"][0]["mac"], mac);
    // The host's end has the address it was given.
    let addresses =
        Command::new("busybox").args(["ip", "addr", "show", "dev", &context.tap()]).output().unwrap();
    let (host, _) = context.addresses();
    assert!(String::from_utf8_lossy(&addresses.stdout).contains(&format!("{host}/24")));
}

fn counters(context: &Context) {
    let vm = boot(context, Builder::new(context).net_with(json!({"id": "mynet"})));
    let (host, _) = context.addresses();
    let count = |name: &str| vm.api().get("vm.counters").expect(200).json()["mynet"][name].as_u64().unwrap();
    let before = ["rx_frames", "tx_frames", "rx_bytes", "tx_bytes"].map(count);
    vm.ok(&format!("ping -c 3 -s 1000 -W 10 {host}"));
    let after = ["rx_frames", "tx_frames", "rx_bytes", "tx_bytes"].map(count);
    assert!(after[0] >= before[0] + 3 && after[1] >= before[1] + 3, "{before:?} {after:?}");
    assert!(after[2] >= before[2] + 3000 && after[3] >= before[3] + 3000, "{before:?} {after:?}");
}

/// A tap that somebody else opened, handed over before the boot.
fn by_descriptors(context: &Context) {
    let (host, guest) = context.addresses();
    let name = context.tap();
    let ip = Some((host.parse().unwrap(), "255.255.255.0".parse().unwrap()));
    let guest_mac = config::MacAddr([0x2e, 0, 0, 0, 0, 1]);
    let wanted = Net { tap: Some(name.clone()), ip, queue_pairs: 2, ..Net::new(guest_mac) };
    let tap = net::Tap::open(&wanted).unwrap();
    let descriptors: Vec<_> = tap.queues().iter().map(|queue| queue.as_fd()).collect();
    let vm = Builder::new(context).cpus(2).start();
    vm.create();
    let section = json!({"id": "given", "num_queues": 4});
    let refused = vm.api().put_with("vm.add-net", &section, &descriptors[..1]).expect(400);
    assert!(refused.body.contains("does not match the number of FDs"), "{}", refused.body);
    vm.api().put_with("vm.add-net", &section, &descriptors).expect(204);
    drop(tap);
    let reach = || {
        vm.wait_ready();
        vm.ok(&format!("ip addr add {guest}/24 dev eth0 && ip link set eth0 up && ping -c 3 -W 10 {host}"));
        assert_eq!(vm.ok("ls -d /sys/class/net/eth0/queues/rx-* | wc -l"), "2");
    };
    vm.boot();
    reach();
    vm.api().put("vm.reboot").expect(204);
    reach();
    vm.api().put("vm.shutdown").expect(204);
    vm.boot();
    reach();
    vm.api().put("vm.shutdown").expect(204);
    let interface = Path::new("/sys/class/net").join(&name);
    assert!(interface.exists());
    vm.api().put_json("vm.remove-device", &json!({"id": "given"})).expect(204);
    assert!(!interface.exists(), "the tap goes with its last descriptor");
    vm.boot();
    vm.wait_ready();
    assert_eq!(vm.run("test -e /sys/class/net/eth0").status, 1);
}

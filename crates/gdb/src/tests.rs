//! The stub over a machine whose vCPUs execute instructions of one byte: asked by hand, and by gdb where it is installed.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use config::VmConfig;
use device::{Events, NoSink};
use hv::Registers;
use hv::fake::FakeHypervisor;
use machine::{Consoles, Descriptors, Machine, Start};

use crate::{Server, bind, serve};

/// Of two vCPUs, on the stub's desk and let go by control.
struct Rig {
    machine: Machine,
    server: Server,
    socket: PathBuf,
    dir: tempfile::TempDir,
}

/// Somewhere in RAM where the fake kernel is not.
const CODE: u64 = 0x5000;

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (kernel, socket) = (dir.path().join("kernel"), dir.path().join("gdb"));
        std::fs::write(&kernel, boot::fake::kernel()).unwrap();
        let text = format!(
            r#"{{"payload":{{"kernel":{kernel:?}}},"cpus":{{"boot_vcpus":2,"max_vcpus":2}},
            "memory":{{"size":134217728}},"console":{{"mode":"Null"}},"serial":{{"mode":"Null"}}}}"#
        );
        let plan = config::check(VmConfig::from_json(text.as_bytes()).unwrap().0).unwrap();
        let events = Events::new(Arc::new(NoSink)).unwrap();
        let (hypervisor, consoles) = (FakeHypervisor::default(), Consoles::open(&plan).unwrap());
        let machine = machine::build(
            &plan,
            Start::Boot { generation: None },
            &hypervisor,
            consoles,
            &Descriptors::new(),
            &events,
        );
        let mut machine = machine.unwrap();
        let server = serve(bind(&socket).unwrap(), events).unwrap();
        server.desk().take_in(machine.debugger()).unwrap();
        machine.start();
        let rig = Self { machine, server, socket, dir };
        rig.machine.debugger().write(CODE, b"0123456789abcdef");
        rig.set_rip(0, CODE);
        // Behind all breakpoints, so that it meets none.
        rig.set_rip(1, 1 << 40);
        rig
    }

    /// Without paging, so that addresses are physical; the fake CPUs keep what they are given.
    fn set_rip(&self, vcpu: u32, rip: u64) {
        let registers = Registers { rip, rbx: 0x1234, rflags: 2, ..Registers::default() };
        self.machine.debugger().set_registers(vcpu, &registers).unwrap();
    }

    fn code(&self) -> [u8; 16] {
        let mut code = [0; 16];
        assert!(self.machine.debugger().read(CODE, &mut code));
        code
    }

    fn rip(&self) -> u64 {
        self.machine.debugger().state(0).unwrap().unwrap().registers.rip
    }

    fn connect(&self) -> Client {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Client(stream)
    }
}

/// A client of the remote protocol.
struct Client(UnixStream);

impl Client {
    fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        self.0.write_all(format!("${packet}#{sum:02x}").as_bytes()).unwrap();
    }

    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.0.read_exact(&mut byte).unwrap();
        byte[0]
    }

    fn receive(&mut self) -> String {
        while self.byte() != b'$' {}
        let text = std::iter::from_fn(|| Some(self.byte()).filter(|byte| *byte != b'#')).collect();
        let _sum = (self.byte(), self.byte());
        // The other side does not wait for it after its last word.
        let _ = self.0.write_all(b"+");
        String::from_utf8(text).unwrap()
    }

    fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        self.receive()
    }

    /// Reads until the other side has closed the connection.
    fn see_the_end(mut self) {
        let end = self.0.read_to_end(&mut Vec::new());
        // The last acknowledgement may have come when nobody read any more.
        assert!(end.is_ok() || end.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
    }
}

#[test]
fn a_client_looks_around_steps_and_lets_go() {
    let rig = Rig::new();
    let desk = rig.server.desk();
    assert!(desk.is_stopped(), "it waits");
    let mut client = rig.connect();
    assert!(client.ask("qSupported:swbreak+;hwbreak+;vContSupported+").contains("PacketSize"));
    assert!(client.ask("?").starts_with("T05thread:"), "it stands still");
    assert_eq!(client.ask("Hg1"), "OK");
    assert_eq!(client.ask("m5000,4"), "30313233");
    assert_eq!(client.ask("M5001,2:4142"), "OK");
    assert_eq!(&rig.code()[..4], b"0AB3");
    assert_eq!(client.ask("m40000000,4").get(..1), Some("E"), "no RAM");
    rig.machine.debugger().write((128 << 20) - 2, b"yz");
    assert_eq!(client.ask("m7fffffe,4"), "797a", "as far as RAM goes");

    // RIP is the seventeenth, and gdb names it by its number.
    assert_eq!(client.ask("P10=0350000000000000"), "OK");
    assert_eq!(rig.rip(), CODE + 3);
    assert_eq!(client.ask("p10").get(..4), Some("0350"));
    assert_eq!(client.ask("vCont;s:1").get(..3), Some("T05"));
    assert_eq!(rig.rip(), CODE + 4);
    assert_eq!(client.ask("D"), "OK");
    client.see_the_end();
    assert!(!desk.is_stopped());
    desk.take_in(rig.machine.debugger()).unwrap();
    assert!(!desk.is_stopped(), "nobody debugs any more");
    rig.server.stop();
    assert!(!rig.socket.exists());
}

#[test]
fn breakpoints_are_in_ram_while_the_guest_runs_and_nobody_sees_them() {
    let rig = Rig::new();
    let mut client = rig.connect();
    client.ask("qSupported:swbreak+;hwbreak+;vContSupported+");
    assert_eq!(client.ask("Z0,5004,1"), "OK");
    assert_eq!(rig.code()[4], 0xcc);
    assert_eq!(client.ask("m5003,3"), "333435");
    assert_eq!(client.ask("M5004,2:4142"), "OK");
    assert_eq!(rig.code()[4..6], [0xcc, b'B']);
    assert_eq!(client.ask("vCont;c"), "T05thread:01;swbreak:;");
    assert_eq!(rig.rip(), CODE + 4);
    assert_eq!(client.ask("z0,5004,1"), "OK");
    assert_eq!(rig.code()[4..6], *b"AB");

    // Four in hardware and no more; where there is no RAM, they serve as the other kind.
    for address in ["5008", "5009", "500a"] {
        assert_eq!(client.ask(&format!("Z1,{address},1")), "OK");
    }
    assert_eq!(client.ask("Z0,40000000,1"), "OK");
    assert_ne!(client.ask("Z1,500b,1"), "OK");
    assert_eq!(client.ask("z0,40000000,1"), "OK");
    assert_eq!(client.ask("vCont;c"), "T05thread:01;hwbreak:;");
    assert_eq!(rig.rip(), CODE + 8);

    // A client that is simply gone leaves nothing in the guest.
    assert_eq!(client.ask("Z0,500c,1"), "OK");
    drop(client);
    let mut next = rig.connect();
    next.ask("?");
    assert_eq!(rig.code()[12], b'c');
}

#[test]
fn a_running_guest_is_interrupted_and_a_machine_that_ends_is_told() {
    let rig = Rig::new();
    let mut client = rig.connect();
    client.ask("qSupported:vContSupported+");
    client.send("vCont;c");
    client.0.write_all(&[3]).unwrap();
    assert!(client.receive().starts_with("T02thread:"), "SIGINT");
    client.send("vCont;c");
    rig.server.desk().update(None);
    assert_eq!(client.receive(), "W00");
    client.see_the_end();
    // The next client waits for a machine, and the VMM's end does not wait for the client.
    let waiting = rig.connect();
    rig.server.stop();
    waiting.see_the_end();
}

#[test]
fn gdb_itself_attaches() {
    if Command::new("gdb").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("skipped: this host has no gdb");
        return;
    }
    let rig = Rig::new();
    let script = rig.dir.path().join("script");
    let commands = format!(
        "set architecture i386:x86-64\nset remotetimeout 60\ntarget remote {}\n\
         info threads\nprint /x $rbx\nx /4cb 0x5000\nbreak *0x5007\ncontinue\nprint /x $pc\nhbreak *0x5009\ncontinue\n\
         print /x $pc\ndelete\nset $rbx = 0x77\nstepi\nprint /x $pc\nprint /x $rbx\ndetach\n",
        rig.socket.display()
    );
    std::fs::write(&script, commands).unwrap();
    let gdb = Command::new("gdb").args(["--batch", "--nx", "-x"]).arg(&script).output().unwrap();
    let text = String::from_utf8_lossy(&[gdb.stdout, gdb.stderr].concat()).into_owned();
    let expected = [
        "Thread 1.2",
        "$1 = 0x1234",
        "48 '0'",
        "Breakpoint 1, 0x0000000000005007",
        "$2 = 0x5007",
        "Breakpoint 2, 0x0000000000005009",
        "$3 = 0x5009",
        "$4 = 0x500a",
        "$5 = 0x77",
        "detached",
    ];
    let mut rest = text.as_str();
    for part in expected {
        let found = rest.split_once(part);
        assert!(found.is_some(), "no '{part}' in its place in: {text}");
        rest = found.map_or("", |(_, rest)| rest);
    }
    assert_eq!(&rig.code(), b"0123456789abcdef", "nothing is left");
    assert!(!rig.server.desk().is_stopped());
}

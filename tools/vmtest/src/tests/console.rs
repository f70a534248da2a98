//! Every mode of the serial port and of the virtio console.

use serde_json::json;
use std::fs;
use vmtest::context::Context;
use vmtest::vm::{AgentOn, Builder, Vm};
use vmtest::wait::{self, Patient};

vmtest::tests![
    console: serial_off, serial_null, serial_tty, serial_pty, serial_file, serial_socket, console_off, console_null,
    console_tty, console_pty, console_file, console_and_serial_at_once, serial_socket_reconnects,
];

/// What the kernel calls the serial port when it has found one.
const UART: &str = "grep -c 16550A /proc/tty/driver/serial";

/// Talks over the console the agent is on: short and long answers.
fn converse(vm: &Vm) {
    assert_eq!(vm.ok("echo hello"), "hello");
    assert_eq!(vm.ok("seq 300").lines().count(), 300);
    let long = "x".repeat(1000);
    assert_eq!(vm.ok(&format!("echo {long}")), long);
}

fn agent_on_console(context: &Context) -> Builder<'_> {
    Builder::new(context).agent(AgentOn::Console).with("console", json!({"mode": "Pty"}))
}

fn serial_off(context: &Context) {
    let vm = agent_on_console(context).with("serial", json!({"mode": "Off"})).boot();
    assert_eq!(vm.run(UART).stdout.trim(), "0");
}

fn serial_null(context: &Context) {
    let vm = agent_on_console(context).with("serial", json!({"mode": "Null"})).boot();
    assert_eq!(vm.ok(UART), "1");
    vm.ok("seq 1000 >/dev/ttyS0");
}

fn serial_tty(context: &Context) {
    let vm = Builder::new(context).with("serial", json!({"mode": "Tty"})).boot();
    converse(&vm);
}

fn serial_pty(context: &Context) {
    let vm = Builder::new(context).with("serial", json!({"mode": "Pty"})).boot();
    assert!(vm.api().pty("serial").unwrap().starts_with("/dev/pts"));
    converse(&vm);
}

fn serial_file(context: &Context) {
    let path = context.path("serial.txt");
    fs::write(&path, "left over from before").unwrap();
    let vm = agent_on_console(context).with("serial", json!({"mode": "File", "file": path})).verbose().boot();
    vm.ok("echo a line for the file >/dev/ttyS0");
    wait::until_true(wait::COMMAND, "the line in the file", || {
        fs::read(&path).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains("a line for the file"))
    });
    let text = fs::read(&path).unwrap();
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("Linux version"), "the kernel's messages go there too");
    assert!(!text.contains("left over"), "the file is truncated");
}

fn serial_socket(context: &Context) {
    let vm = Builder::new(context).verbose().boot();
    converse(&vm);
    // What was written before anybody connected was kept.
    assert!(vm.serial.as_ref().unwrap().text().contains("Linux version"));
}

fn console_off(context: &Context) {
    let vm = Builder::new(context).boot();
    assert_eq!(vm.run("ls /sys/bus/virtio/drivers/virtio_console | grep virtio").stdout, "");
}

fn console_null(context: &Context) {
    let vm = Builder::new(context).with("console", json!({"mode": "Null"})).boot();
    vm.ok("test -c /dev/hvc0");
    vm.ok("seq 1000 >/dev/hvc0");
}

fn console_tty(context: &Context) {
    let vm = agent_on_console(context).with("console", json!({"mode": "Tty"})).boot();
    converse(&vm);
}

fn console_pty(context: &Context) {
    let vm = agent_on_console(context).boot();
    assert!(vm.api().pty("console").unwrap().starts_with("/dev/pts"));
    converse(&vm);
}

fn console_file(context: &Context) {
    let path = context.path("console.txt");
    let vm = Builder::new(context).with("console", json!({"mode": "File", "file": path})).boot();
    vm.ok("seq 500 >/dev/hvc0; echo the last line >/dev/hvc0");
    wait::until_true(wait::COMMAND, "the last line in the file", || {
        fs::read_to_string(&path).is_ok_and(|text| text.contains("the last line"))
    });
    let text = fs::read_to_string(&path).unwrap();
    let numbers: Vec<u32> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
    assert_eq!(numbers, (1..=500).collect::<Vec<u32>>());
}

fn console_and_serial_at_once(context: &Context) {
    let vm = agent_on_console(context).boot();
    converse(&vm);
    let serial = vm.serial.clone().unwrap();
    let mark = serial.mark();
    vm.ok("echo to the other one >/dev/ttyS0");
    serial.wait_for("to the other one", mark, wait::COMMAND);
    // Keys typed on the serial port arrive there and nowhere else.
    vm.ok("(head -n 1 /dev/ttyS0 >/tmp/typed) </dev/null >/dev/null 2>&1 &");
    wait::until_true(wait::COMMAND, "the typed line", || {
        serial.send("typed by a person\n");
        vm.run("cat /tmp/typed").stdout.contains("typed by a person")
    });
}

fn serial_socket_reconnects(context: &Context) {
    use std::os::unix::net::UnixStream;
    let vm = agent_on_console(context).verbose().boot();
    let first = vm.serial.clone().unwrap();
    first.wait_for("Linux version", 0, wait::COMMAND);
    first.close();
    // A new client takes the old one's place.
    let path = vm.config["serial"]["socket"].as_str().unwrap().to_owned();
    let stream = UnixStream::connect(path).unwrap();
    vm.ok("echo for the second client >/dev/ttyS0");
    let mut received = Vec::new();
    let mut reader = Patient::new(stream, wait::COMMAND);
    wait::until_true(wait::COMMAND, "the line at the second client", || {
        let mut buffer = [0; 1024];
        let count = std::io::Read::read(&mut reader, &mut buffer).unwrap();
        received.extend_from_slice(&buffer[..count]);
        String::from_utf8_lossy(&received).contains("for the second client")
    });
}

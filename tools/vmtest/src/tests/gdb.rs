//! Debuggers of the guest.

use vmtest::context::Context;
use vmtest::gdb::Debugger;
use vmtest::vm::{Builder, Vm};

vmtest::tests![
    gdb: a_breakpoint_in_the_kernel,
];

fn symbol(vm: &Vm, name: &str) -> u64 {
    let address = vm.ok(&format!("grep ' {name}$' /proc/kallsyms | head -n 1 | cut -d' ' -f1"));
    u64::from_str_radix(&address, 16).unwrap()
}

/// A program that executes INT3, and if nothing comes of it ends well.
fn trap() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 0x40 + 0x38;
    const CODE: [u8; 10] = [0xcc, 0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];
    let len = HEADERS + CODE.len() as u64;
    // A static executable for x86-64 with one segment, which can be read and executed.
    let words = [
        0x0001_0102_464c_457f,
        0,
        0x1_003e_0002,
        BASE + HEADERS,
        0x40,
        0,
        0x0038_0040_0000_0000,
        1,
        0x5_0000_0001,
        0,
        BASE,
        BASE,
        len,
        len,
        0x1000,
    ];
    words.iter().flat_map(|word: &u64| word.to_le_bytes()).chain(CODE).collect()
}

fn a_breakpoint_in_the_kernel(context: &Context) {
    let socket = context.path("gdb");
    let vm = Builder::new(context).cpus(2).flag("--gdb").flag(&format!("path={}", socket.display())).start();
    vm.create();
    vm.boot();
    vm.wait_state("BreakPoint");
    let mut debugger = Debugger::attach(&socket);
    debugger.send("vCont;c");
    vm.wait_ready();
    assert_eq!(vm.api().state().as_deref(), Some("Running"));
    let (banner, call) = (symbol(&vm, "linux_banner"), symbol(&vm, "__x64_sys_sethostname"));

    debugger.interrupt();
    vm.wait_state("BreakPoint");
    let text = debugger.memory(banner, 14);
    assert_eq!(String::from_utf8_lossy(&text), "Linux version ");
    debugger.ok(&format!("Z0,{call:x},1"));
    debugger.send("vCont;c");
    assert_eq!(vm.ok("echo goes on"), "goes on");
    let text: String = trap().iter().map(|byte| format!("\\x{byte:02x}")).collect();
    vm.ok(&format!("printf '{text}' >/tmp/trap && chmod +x /tmp/trap"));
    const KILLED_BY_SIGTRAP: i32 = 128 + 5;
    assert_eq!(vm.run("/tmp/trap").status, KILLED_BY_SIGTRAP, "the guest's own INT3 are the guest's");

    let command = vm.agent().start("hostname debugged");
    let stopped = debugger.receive();
    assert!(stopped.starts_with("T05") && stopped.contains("swbreak"), "{stopped}");
    assert_eq!(debugger.rip(), call);
    debugger.ok(&format!("z0,{call:x},1"));
    // Functions begin with an instruction of some bytes.
    let thread = stopped[3..].split_once("thread:").unwrap().1.split_once(';').unwrap().0.to_owned();
    assert_eq!(debugger.ask(&format!("vCont;s:{thread}")).get(..3), Some("T05"));
    let next = debugger.rip();
    assert!(next > call && next < call + 16, "{next:x} after {call:x}");
    debugger.ok("D");
    vm.agent().finish(command);
    assert_eq!(vm.ok("hostname"), "debugged");
    vm.wait_state("Running");
}

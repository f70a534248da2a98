//! Debuggers of the guest.

use vmtest::context::Context;
use vmtest::gdb::Debugger;
use vmtest::vm::{Builder, Vm};

vmtest::tests![
    gdb: a_look_into_the_kernel,
];

fn symbol(vm: &Vm, name: &str) -> u64 {
    let address = vm.ok(&format!("grep ' {name}$' /proc/kallsyms | head -n 1 | cut -d' ' -f1"));
    u64::from_str_radix(&address, 16).unwrap()
}

/// The guest waits for the debugger, is stopped at any moment, and goes on without it.
fn a_look_into_the_kernel(context: &Context) {
    let socket = context.path("gdb");
    let vm = Builder::new(context).cpus(2).flag("--gdb").flag(&format!("path={}", socket.display())).start();
    vm.create();
    vm.boot();
    vm.wait_state("BreakPoint");
    let mut debugger = Debugger::attach(&socket);
    debugger.send("vCont;c");
    vm.wait_ready();
    assert_eq!(vm.api().state().as_deref(), Some("Running"));
    let banner = symbol(&vm, "linux_banner");

    debugger.interrupt();
    vm.wait_state("BreakPoint");
    let text = debugger.memory(banner, 14);
    assert_eq!(String::from_utf8_lossy(&text), "Linux version ");
    debugger.ok("D");
    assert_eq!(vm.ok("echo goes on"), "goes on");
    vm.wait_state("Running");
}

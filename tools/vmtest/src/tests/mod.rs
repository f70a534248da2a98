//! The guest tests, a file per theme. Each test is listed at the top of its file.

mod block;
mod boot;
mod changes;
mod clients;
mod cold;
mod console;
mod cpus;
mod dbus;
mod devices;
mod events;
mod fuzzing;
mod gdb;
mod host_side;
mod hotplug;
mod lifecycle;
mod memory;
mod memory_acpi;
mod migrations;
mod net;
mod pmem;
mod sandbox;
mod snapshots;
mod vsock;

use vmtest::runner::Test;

/// Every test, in the order they run.
pub(crate) fn all() -> Vec<Test> {
    [
        boot::TESTS,
        block::TESTS,
        net::TESTS,
        pmem::TESTS,
        vsock::TESTS,
        devices::TESTS,
        hotplug::TESTS,
        cold::TESTS,
        changes::TESTS,
        memory::TESTS,
        memory_acpi::TESTS,
        console::TESTS,
        dbus::TESTS,
        lifecycle::TESTS,
        gdb::TESTS,
        cpus::TESTS,
        host_side::TESTS,
        events::TESTS,
        clients::TESTS,
        fuzzing::TESTS,
        sandbox::TESTS,
        snapshots::TESTS,
        migrations::TESTS,
    ]
    .concat()
}

//! The guest tests, a file per theme. Each test is listed at the top of its file.

mod block;
mod boot;
mod clients;
mod console;
mod dbus;
mod devices;
mod events;
mod fuzzing;
mod host_side;
mod lifecycle;
mod net;
mod sandbox;
mod vsock;

use vmtest::runner::Test;

/// Every test, in the order they run.
pub(crate) fn all() -> Vec<Test> {
    [
        boot::TESTS,
        block::TESTS,
        net::TESTS,
        vsock::TESTS,
        devices::TESTS,
        console::TESTS,
        dbus::TESTS,
        lifecycle::TESTS,
        host_side::TESTS,
        events::TESTS,
        clients::TESTS,
        fuzzing::TESTS,
        sandbox::TESTS,
    ]
    .concat()
}

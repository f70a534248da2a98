//! The guest tests, a file per theme. Each test is listed at the top of its file.

mod block;
mod boot;
mod console;
mod events;
mod lifecycle;
mod net;
mod sandbox;

use vmtest::runner::Test;

/// Every test, in the order they run.
pub(crate) fn all() -> Vec<Test> {
    [boot::TESTS, block::TESTS, net::TESTS, console::TESTS, lifecycle::TESTS, events::TESTS, sandbox::TESTS]
        .concat()
}

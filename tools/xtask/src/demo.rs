//! `cargo xtask demo`: shows a person a whole VM in a few minutes, starting from nothing.

use crate::error::{AtPath, Error, Result};
use crate::guest;
use crate::lab;
use crate::places::Places;
use crate::step::headline;
use crate::test;
use std::path::Path;
use std::process::Command;

/// Prepares what the demo needs and runs it, in the lab if the host's KVM cannot run a stock kernel. Returns its exit
/// code.
///
/// # Errors
/// Something cannot be fetched or built, or the lab dies.
pub(crate) fn run(places: &Places, shell: bool) -> Result<u8> {
    headline("preparing the guest");
    let images = guest::prepare(places, false)?;
    guest::demo_disk(&images)?;
    headline("building the VMM");
    test::build(places)?;
    let environment = test::environment(places, &images);
    let program = places.dev_binary("vmtest");
    let mut arguments = vec!["demo"];
    if shell {
        arguments.push("--shell");
    }
    if lab::host_kvm() {
        let mut demo = Command::new(&program);
        let status = demo.args(&arguments).envs(environment).status().at(&program)?;
        return Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
    }
    headline(
        "this host's /dev/kvm cannot run a stock kernel: the same thing runs in the lab, an emulated machine",
    );
    let mut command = vec![text(&program)?];
    command.extend(arguments.into_iter().map(str::to_owned));
    let run = lab::Run { environment, terminal: shell, memory_mib: 2048, ..lab::Run::new(command) };
    lab::run(places, &run, std::io::stdout())
}

fn text(path: &Path) -> Result<String> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::Content { path: path.to_owned(), what: "not a plain path".to_owned() })
}

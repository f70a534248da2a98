//! `cargo xtask check`: every lint.

use crate::clients;
use crate::error::{Error, Result};
use crate::places::Places;
use crate::step::{cargo, loud, step};
use crate::tool::Tool;
use std::path::Path;
use std::process::Command;

/// Without its default features, which verify certificates: it fetches nothing here.
const CARGO_DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2", options: &["--no-default-features"] };

/// Runs every lint and reports all that fail, not only the first.
///
/// # Errors
/// A lint fails.
pub(crate) fn run(places: &Places) -> Result<()> {
    let clients = clients::manifest(places);
    let deny = CARGO_DENY.find(places)?;
    let lints = [
        ("format", format(&places.root.join("Cargo.toml"))),
        ("format of the clients", format(&clients)),
        ("format of the fuzzer", format(&places.root.join("fuzz/Cargo.toml"))),
        ("tidy", tidy()),
        ("clippy", clippy(&["--workspace"])),
        ("clippy with dbus_api", clippy_on_demand()),
        ("clippy of the clients", clippy_of(&clients, places)),
        ("documentation", documentation()),
        ("dependencies", dependencies(&deny, &places.root.join("Cargo.toml"))),
        ("dependencies of the clients", dependencies(&deny, &clients)),
    ];
    let mut failed = Vec::new();
    for (name, mut command) in lints {
        command.current_dir(&places.root);
        if step(name, || loud(&mut command)).is_err() {
            failed.push(name);
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(Error::Verdict(format!("check failed: {}", failed.join(", "))))
    }
}

fn format(manifest: &Path) -> Command {
    let mut format = cargo();
    format.args(["fmt", "--all", "--check", "--manifest-path"]).arg(manifest);
    format
}

fn tidy() -> Command {
    let mut tidy = cargo();
    tidy.args(["test", "--quiet", "-p", "tidy"]);
    tidy
}

fn clippy(what: &[&str]) -> Command {
    let mut clippy = cargo();
    clippy.args(["clippy", "--quiet", "--all-targets"]).args(what).args(["--", "-D", "warnings"]);
    clippy
}

fn clippy_on_demand() -> Command {
    let features = "cloud-hypervisor/dbus_api,ch-remote/dbus_api,cloud-hypervisor/test-devices";
    clippy(&["-p", "cloud-hypervisor", "-p", "ch-remote", "--features", features])
}

fn clippy_of(manifest: &Path, places: &Places) -> Command {
    let mut clippy = clippy(&["--locked", "--manifest-path", &manifest.to_string_lossy()]);
    clippy.env("CARGO_TARGET_DIR", &places.target);
    clippy
}

fn documentation() -> Command {
    let mut doc = cargo();
    doc.args(["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"]);
    // Private items are documented too, for whoever works on them: links to them are no mistake.
    doc.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links");
    doc
}

/// What `deny.toml` beside the manifest says, but advisories: their database is out of reach of most builds.
fn dependencies(deny: &Path, manifest: &Path) -> Command {
    let mut check = Command::new(deny);
    check.args(["--log-level", "error", "--manifest-path"]).arg(manifest);
    check.args(["check", "bans", "licenses", "sources"]);
    check
}

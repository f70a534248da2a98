//! `cargo xtask check`: every lint.

use crate::error::{Error, Result};
use crate::places::Places;
use crate::step::{cargo, loud, quiet, step};
use std::process::Command;

/// Runs every lint and reports all that fail, not only the first.
///
/// # Errors
/// A lint fails.
pub(crate) fn run(places: &Places) -> Result<()> {
    let mut deny_clippy = cargo();
    deny_clippy.args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    let mut on_demand = cargo();
    on_demand.args(["clippy", "--quiet", "-p", "cloud-hypervisor", "-p", "ch-remote", "--all-targets"]);
    on_demand.args(["--features", "cloud-hypervisor/dbus_api,ch-remote/dbus_api", "--", "-D", "warnings"]);
    let mut doc = cargo();
    doc.args(["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"]);
    // Private items are documented too, for whoever works on them: links to them are no mistake.
    doc.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links");
    let mut tidy = cargo();
    tidy.args(["test", "--quiet", "-p", "tidy"]);
    let mut format = cargo();
    format.args(["fmt", "--all", "--check"]);
    let mut lints: Vec<(&str, Command)> = vec![
        ("format", format),
        ("tidy", tidy),
        ("clippy", deny_clippy),
        ("clippy with dbus_api", on_demand),
        ("documentation", doc),
    ];
    if quiet(cargo().args(["deny", "--version"])).is_ok() {
        let mut deny = cargo();
        deny.args(["deny", "--log-level", "error", "check", "licenses"]);
        lints.push(("licences", deny));
    } else {
        eprintln!("    licences: skipped, cargo-deny is not installed");
    }
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

//! `docs/performance.md`: the table, and all one needs to take it again.

use crate::error::{AtPath, Result};
use crate::lab;
use crate::places::Places;
use crate::step::quiet;
use std::fs;
use std::path::Path;
use std::process::Command;
use vmbench::results::Results;
use vmbench::table;

const HOW: &str = include_str!("how.md");

/// The whole document.
///
/// # Errors
/// A program that knows a version cannot be run.
pub(crate) fn write(places: &Places, results: &Results, rounds: u32) -> Result<String> {
    let mut text = String::from("# Performance\n\nWritten by `cargo xtask bench`");
    text.push_str(&format!(" ({rounds} rounds) on {}.\n\n", said("date", &["-u", "+%Y-%m-%d"])?));
    text.push_str("A cell is `median (min–max)` over the rounds. A ratio is this VMM's value over the other's, taken round by round: below 1 is\n");
    text.push_str("better for times and memory, above 1 for rates.\n\n");
    text.push_str(&table::render(results));
    text.push_str("\n## Where\n");
    for (name, value) in surroundings(places)? {
        text.push_str(&format!("* {name}: {value}\n"));
    }
    text.push('\n');
    text.push_str(HOW);
    text.push_str("\n## The command lines\nPaths are cut down to their last part.\n```\n");
    for (title, command) in &results.commands {
        text.push_str(&format!("# {title}\n{command}\n"));
    }
    text.push_str("```\n");
    Ok(text)
}

fn surroundings(places: &Places) -> Result<Vec<(&'static str, String)>> {
    let cpuinfo = Path::new("/proc/cpuinfo");
    let cpu = fs::read_to_string(cpuinfo).at(cpuinfo)?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.unwrap_or_default().trim_start_matches([' ', '\t', ':']).to_owned();
    let count = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let root = places.root.to_string_lossy();
    let commit = said("git", &["-C", &root, "describe", "--always", "--dirty", "--exclude", "*"])?;
    let guests = if lab::host_kvm() {
        "on the host".to_owned()
    } else {
        "in the lab: QEMU's software CPU (TCG) with AMD's virtualisation instructions, one CPU, stock Debian \
         kernel with KVM. Times there are many times those of real hardware, and what is made of VM exits and \
         page faults weighs differently; only the ratios say something"
            .to_owned()
    };
    let kernel = fs::read_to_string(places.images.join("bench/vmlinux.inputs")).unwrap_or_default();
    Ok(vec![
        ("this VMM", format!("commit {commit}, profile `release`")),
        ("host", format!("{model}, {count} CPUs, Linux {}", said("uname", &["-r"])?)),
        ("guests", guests),
        ("guest kernel", format!("`{kernel}`")),
        ("QEMU", first_line(&said("qemu-system-x86_64", &["--version"])?)),
        (
            "tools",
            format!("{}, {}", said("fio", &["--version"])?, first_line(&said("iperf3", &["--version"])?)),
        ),
    ])
}

fn said(program: &str, arguments: &[&str]) -> Result<String> {
    quiet(Command::new(program).args(arguments)).map(|text| text.trim().to_owned())
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

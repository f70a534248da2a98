//! The guest tests: `vmtest list`, `vmtest run [FILTER] [--boots yes|no] [--jobs N] [--part I/N]`. `cargo xtask test --guest` runs this where there is a
//! true /dev/kvm.

#![allow(clippy::panic, clippy::unwrap_used, clippy::print_stdout)] // tests, see the library

mod demo;
mod selfcheck;
mod tests;

use std::path::Path;
use std::process::ExitCode;
use vmtest::runner;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let tests = tests::all();
    let passed = match words.as_slice() {
        ["list"] => {
            for test in &tests {
                println!("{}", test.name);
            }
            true
        }
        ["run", options @ ..] => runner::run_all(&tests, &parse_run(options)),
        ["one", name, dir] => runner::run_one(&tests, name, Path::new(dir)),
        ["outside"] => vmtest::outside::serve(),
        ["demo"] => demo::run(),
        ["demo", "--shell"] => demo::shell(),
        ["selfcheck"] => selfcheck::run(),
        _ => {
            eprintln!(
                "usage: vmtest list | run [FILTER] [--boots yes|no] [--jobs N] [--part I/N] | demo [--shell] | selfcheck | outside"
            );
            false
        }
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse_run(options: &[&str]) -> runner::Selection {
    let mut selection = runner::Selection { filter: String::new(), boots: None, jobs: 2, part: 0, parts: 1 };
    let mut words = options.iter();
    while let Some(word) = words.next() {
        match *word {
            "--boots" => selection.boots = words.next().map(|word| *word == "yes"),
            "--jobs" => selection.jobs = words.next().and_then(|n| n.parse().ok()).unwrap_or(2).max(1),
            "--part" => {
                let (part, parts) = words.next().and_then(|word| word.split_once('/')).unwrap_or(("0", "1"));
                selection.part = part.parse().unwrap();
                selection.parts = parts.parse().unwrap();
            }
            filter => filter.clone_into(&mut selection.filter),
        }
    }
    selection
}

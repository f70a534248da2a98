//! The guest tests: `vmtest list`, `vmtest run [FILTER] [--jobs N]`. `cargo xtask test --guest` runs this where there is a
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
        ["run", options @ ..] => {
            let jobs = options.iter().position(|word| *word == "--jobs");
            let count = jobs.and_then(|at| options.get(at + 1)).and_then(|n| n.parse().ok()).unwrap_or(2);
            let filter = options.first().filter(|word| **word != "--jobs").copied().unwrap_or_default();
            runner::run_all(&tests, filter, count)
        }
        ["one", name, dir] => runner::run_one(&tests, name, Path::new(dir)),
        ["demo"] => demo::run(),
        ["demo", "--shell"] => demo::shell(),
        ["selfcheck"] => selfcheck::run(),
        _ => {
            eprintln!("usage: vmtest list | run [FILTER] [--jobs N] | demo [--shell] | selfcheck");
            false
        }
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

//! `--check`: says whether a configuration is sound, and what it comes to, without starting anything.

use std::io::{self, Write};
use std::process::ExitCode;

use config::VmConfig;
use serde_json::Value;

/// Prints the whole effective configuration as JSON, or every problem with its place and a next step. Warnings go to standard error.
///
/// # Errors
/// The output's.
pub(crate) fn run(config: VmConfig, unknown_fields: &[String]) -> io::Result<ExitCode> {
    let mut notes = String::new();
    for field in unknown_fields {
        notes.push_str(&format!("warning: {field}: unknown field\n"));
    }
    match config::check(config) {
        Ok(plan) => {
            for warning in plan.warnings() {
                notes.push_str(&format!("warning: {warning}\n"));
            }
            for section in plan.unbuilt() {
                notes.push_str(&format!("warning: {section}: not implemented in this version\n"));
            }
            io::stderr().write_all(notes.as_bytes())?;
            // By way of the form that vm.info has, so that there is one writer of configurations in the program.
            let config: Value = serde_json::from_str(&serde_json::to_string(plan.config())?)?;
            writeln!(io::stdout(), "{config:#}")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(problems) => {
            for problem in problems.iter() {
                notes.push_str(&format!("error: {}: {problem}: {}\n", problem.path, problem.hint));
            }
            io::stderr().write_all(notes.as_bytes())?;
            Ok(ExitCode::FAILURE)
        }
    }
}

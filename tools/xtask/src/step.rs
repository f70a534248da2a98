//! Running programs and showing that something goes on: a spinner on a terminal, plain lines elsewhere.

use crate::error::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Does `work` under the title `what`; says when it began and how long it took.
///
/// # Errors
/// Those of `work`.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    let spinner = std::io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::new_spinner().with_style(style).with_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    });
    if spinner.is_none() {
        eprintln!("    {what} ...");
    }
    let result = work();
    if let Some(bar) = spinner {
        bar.finish_and_clear();
    }
    let verdict = if result.is_ok() { "done" } else { "FAILED" };
    eprintln!("    {what}: {verdict} ({:.1} s)", begin.elapsed().as_secs_f64());
    result
}

/// Prints a headline.
pub(crate) fn headline(text: &str) {
    eprintln!("==> {text}");
}

fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Runs a program silently and returns what it wrote to its standard output.
///
/// # Errors
/// It cannot be started, or fails; then its whole output is in the error.
pub(crate) fn quiet(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Run { program: describe(command), source })?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let output_text = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    Err(Error::Failed { command: describe(command), status: output.status.to_string(), output: output_text })
}

/// Runs a program with this process's own output.
///
/// # Errors
/// It cannot be started, or fails.
pub(crate) fn loud(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|source| Error::Run { program: describe(command), source })?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed { command: describe(command), status: status.to_string(), output: String::new() })
}

/// The cargo that runs this task.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

//! Running a program to its end with something to read.

use std::io::Write;
use std::process::{Command, Output, Stdio};

/// Runs `program` with `stdin` as its input.
pub(crate) fn feed(program: &mut Command, stdin: &str) -> Output {
    let mut child =
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Subcommands that read no input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

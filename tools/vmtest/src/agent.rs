//! Commands in the guest. The other end is `tools/xtask/src/guest-agent.sh`: one request a line, the answer in base64 between two marked lines, so that kernel
//! messages on the same console do no harm.

use crate::console::Console;
use crate::wait::{self, Limit};
use std::cell::Cell;

/// What a command in the guest did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit code.
    pub status: i32,
    /// Its standard output and errors, in the order written.
    pub stdout: String,
}

/// Runs commands over a console.
pub struct Agent {
    console: Console,
    number: Cell<u32>,
    /// Where the console was read up to.
    seen: Cell<usize>,
}

impl Agent {
    /// An agent over this console; nothing is sent yet.
    pub fn new(console: Console) -> Self {
        Self { console, number: Cell::new(0), seen: Cell::new(0) }
    }

    /// The console the agent is on.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Waits until the guest's agent says it is there; once per boot of the guest.
    ///
    /// # Panics
    /// It does not in time.
    pub fn wait_ready(&self) {
        self.seen.set(self.console.wait_for("@ready", self.seen.get(), wait::BOOT));
    }

    /// Runs a shell command to its end; fails are for the caller to judge.
    ///
    /// # Panics
    /// The guest does not answer.
    pub fn run(&self, command: &str) -> Output {
        self.run_for(command, wait::COMMAND)
    }

    /// As [`Agent::run`], with another limit.
    ///
    /// # Panics
    /// The guest does not answer, or not in the agent's words.
    pub fn run_for(&self, command: &str, limit: Limit) -> Output {
        let number = self.start(command);
        self.finish_in(number, command, limit)
    }

    /// The outcome of a command that [`Agent::start`] has started.
    ///
    /// # Panics
    /// The guest does not answer, or not in the agent's words.
    pub fn finish(&self, number: u32) -> Output {
        self.finish_in(number, "a command that was started", wait::COMMAND)
    }

    fn finish_in(&self, number: u32, command: &str, limit: Limit) -> Output {
        let begin = self.console.wait_for(&format!("@begin {number}"), self.seen.get(), limit);
        let end = self.console.wait_for(&format!("@end {number} "), begin, limit);
        let line_end = self.console.wait_for("\n", end, limit);
        self.seen.set(line_end);
        let body = self.console.slice(begin, end);
        let body = body.rsplit_once("@end").map_or(body.as_str(), |(body, _)| body);
        let status = self.console.slice(end, line_end);
        let status =
            status.trim().parse().unwrap_or_else(|_| panic!("the agent ended {command:?} with {status:?}"));
        let stdout = decode_base64(body).unwrap_or_else(|| panic!("no base64 from {command:?}: {body:?}"));
        Output { status, stdout: String::from_utf8_lossy(&stdout).into_owned() }
    }

    /// Runs a command that must succeed; returns its output without the white space around it.
    ///
    /// # Panics
    /// It fails.
    pub fn ok(&self, command: &str) -> String {
        let output = self.run(command);
        assert_eq!(output.status, 0, "in the guest: {command}\n{}", output.stdout);
        output.stdout.trim().to_owned()
    }

    /// Starts a command without waiting for an answer: the guest may not survive it, or [`Agent::finish`] waits.
    ///
    /// # Panics
    /// The command has more than one line, or the console takes no input.
    pub fn start(&self, command: &str) -> u32 {
        assert!(!command.contains('\n') && command.len() < 3000, "one short line only: {command}");
        let number = self.number.get() + 1;
        self.number.set(number);
        self.console.send(&format!("{number} {command}\n"));
        number
    }
}

/// Decodes base64 with line breaks; `None` if it is none.
pub fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace() && *b != b'=').collect();
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let mut bits = 0u32;
        for digit in group {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * (4 - group.len());
        // Two digits carry one byte, three carry two, four carry three.
        bytes.extend_from_slice(bits.to_be_bytes().get(1..group.len())?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64() {
        for (text, plain) in
            [("", ""), ("YQ==", "a"), ("YWI=", "ab"), ("YWJj", "abc"), ("YWJj\r\nZA==\n", "abcd")]
        {
            assert_eq!(decode_base64(text).unwrap(), plain.as_bytes());
        }
        assert_eq!(decode_base64("a%b="), None);
    }
}

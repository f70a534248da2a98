//! Error chains on standard error, in the format scripts know (`spec/cli.md` §2).

use std::error::Error;
use std::fmt::Write;

use crate::remote::RemoteError;

/// All of what is printed of `error`, with its sources; a refusal of the server shows the server's own chain.
pub(crate) fn text(error: &(dyn Error + 'static)) -> String {
    let mut lines = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        match error.downcast_ref::<RemoteError>() {
            Some(RemoteError::Refused { status, body }) => lines.extend(refusal(*status, body, lines.len())),
            #[cfg(feature = "dbus_api")]
            Some(error @ RemoteError::Bus(_)) => {
                for line in error.to_string().lines() {
                    lines.push((lines.len().to_string(), line.to_owned()));
                }
            }
            _ => lines.push((lines.len().to_string(), error.to_string())),
        }
        next = error.source();
    }
    let mut text = String::from("Error: ch-remote exited with the following ");
    if let [(_, only)] = lines.as_slice() {
        let _ = write!(text, "error:\n  {}\n", printable(only));
        return text;
    }
    text.push_str("chain of errors:\n");
    for (level, line) in &lines {
        let _ = writeln!(text, "  {level}: {}", printable(line));
    }
    text
}

/// The lines of a refusal, counted from `level`.
fn refusal(status: u16, body: &[u8], level: usize) -> Vec<(String, String)> {
    match serde_json::from_slice::<Vec<String>>(body) {
        Ok(chain) => std::iter::once(format!("Server responded with {}", status_name(status)))
            .chain(chain)
            .enumerate()
            .map(|(i, line)| (level.saturating_add(i).to_string(), line))
            .collect(),
        Err(e) => {
            let body = String::from_utf8_lossy(body);
            let line = format!("Can't get remote's error messages from JSON response: {e}: body='{body}'");
            vec![("X".into(), line)]
        }
    }
}

/// The names scripts look for: newer codes have none.
fn status_name(status: u16) -> &'static str {
    match status {
        400 => "BadRequest",
        404 => "NotFound",
        429 => "TooManyRequests",
        500 => "InternalServerError",
        501 => "NotImplemented",
        _ => "Unknown",
    }
}

/// `text` without characters that would move the cursor of a terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => clean.push(c),
            c if c.is_control() => clean.extend(c.escape_default()),
            c => clean.push(c),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_shows_the_servers_chain() {
        let refused = |status, body: &str| {
            text(&crate::Failure::Remote(RemoteError::Refused { status, body: body.into() }))
        };
        assert_eq!(
            refused(500, r#"["Error from API","No device with id \"x\" to remove"]"#),
            "Error: ch-remote exited with the following chain of errors:\n  0: http client error\n  \
             1: Server responded with InternalServerError\n  2: Error from API\n  3: No device with id \"x\" to remove\n"
        );
        for (status, name) in [
            (400, "BadRequest"),
            (404, "NotFound"),
            (409, "Unknown"),
            (429, "TooManyRequests"),
            (501, "NotImplemented"),
        ] {
            assert!(
                refused(status, "[]").ends_with(&format!("  1: Server responded with {name}\n")),
                "{status}"
            );
        }
        assert_eq!(
            refused(503, "{ }"),
            "Error: ch-remote exited with the following chain of errors:\n  0: http client error\n  \
             X: Can't get remote's error messages from JSON response: invalid type: map, expected a sequence at line 1 \
             column 0: body='{ }'\n"
        );
    }

    #[test]
    fn a_single_error_has_no_number_and_controls_no_terminal() {
        let error = crate::console::ConsoleError::None;
        assert!(text(&error).starts_with("Error: ch-remote exited with the following error:\n  "));
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\n");
    }
}

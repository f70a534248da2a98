//! Error chains on standard error, in the format scripts know (`spec/cli.md` §2).

use std::borrow::Cow;
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

/// The names scripts look for, and names in their manner for codes that the reference never sent.
fn status_name(status: u16) -> Cow<'static, str> {
    Cow::Borrowed(match status {
        400 => "BadRequest",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        408 => "RequestTimeout",
        409 => "Conflict",
        413 => "PayloadTooLarge",
        414 => "UriTooLong",
        429 => "TooManyRequests",
        431 => "RequestHeaderFieldsTooLarge",
        500 => "InternalServerError",
        501 => "NotImplemented",
        503 => "ServiceUnavailable",
        _ => return Cow::Owned(format!("status {status}")),
    })
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
            (405, "MethodNotAllowed"),
            (409, "Conflict"),
            (418, "status 418"),
            (429, "TooManyRequests"),
            (501, "NotImplemented"),
            (503, "ServiceUnavailable"),
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
    fn every_code_of_the_api_has_a_name() {
        for code in api::Code::ALL {
            let (status, _) = code.parts();
            assert!(!status_name(status).contains(' '), "{status}");
        }
    }

    #[test]
    fn a_single_error_has_no_number_and_controls_no_terminal() {
        let error = crate::console::ConsoleError::None;
        assert!(text(&error).starts_with("Error: ch-remote exited with the following error:\n  "));
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\n");
    }
}

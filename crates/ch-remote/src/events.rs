//! `events`: prints what happens to the VM as it happens (`spec/events.md`): `GET /api/v1/events`, server-sent events, or the signals of D-Bus.

use std::io::{self, BufRead, Write};

use serde_json::Value;

use crate::output::{Format, plain};
use crate::remote::{Each, RemoteError};
use crate::report::printable;

/// Why the events end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EventsError {
    /// The VMM does not tell them, or no more.
    #[error("The VMM tells no events")]
    Remote(#[from] RemoteError),
    /// They cannot be printed.
    #[error("Error writing the output")]
    Output(#[source] io::Error),
}

/// Bytes of one line of the stream: far above the largest event.
const LINE_LIMIT: u64 = 1 << 20;

/// Hands the data of a stream of server-sent events to `each` until it ends.
///
/// # Errors
/// [`EventsError`].
pub(crate) fn follow(mut stream: impl BufRead, each: &mut Each<'_>) -> Result<(), EventsError> {
    loop {
        let mut line = Vec::new();
        io::Read::take(&mut stream, LINE_LIMIT).read_until(b'\n', &mut line).map_err(RemoteError::Receive)?;
        if line.pop() != Some(b'\n') {
            return Ok(());
        }
        // What is no data numbers the events, or shows that the connection is alive.
        if let Some(data) = line.strip_prefix(b"data: ") {
            each(data)?;
        }
    }
}

/// Prints an event.
///
/// # Errors
/// [`EventsError::Output`].
pub(crate) fn print(data: &[u8], format: Format, to: &mut impl Write) -> Result<(), EventsError> {
    let text = match format {
        Format::Json => [data, b"\n"].concat(),
        Format::Table => serde_json::from_slice(data).map_or_else(|_| data.to_vec(), |event| row(&event)),
    };
    to.write_all(&text).and_then(|()| to.flush()).map_err(EventsError::Output)
}

/// `    1.234567  vm     booted  key=value`, as one line of a table without end.
fn row(event: &Value) -> Vec<u8> {
    if let Some(lost) = event.get("lost") {
        return format!("({} events were lost: this terminal was too slow)\n", plain(lost)).into_bytes();
    }
    let number = |path| event.pointer(path).and_then(Value::as_u64).unwrap_or_default();
    let (secs, nanos) = (number("/timestamp/secs"), number("/timestamp/nanos"));
    let text = |key| event.get(key).map(plain).unwrap_or_default();
    let properties = event.get("properties").and_then(Value::as_object).into_iter().flatten();
    let properties: String = properties.map(|(key, value)| format!("  {key}={}", plain(value))).collect();
    let row = format!("{secs:>6}.{:06}  {:<13}  {}{properties}", nanos / 1000, text("source"), text("event"));
    (printable(&row) + "\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = concat!(
        ": events\n\n",
        "id: 1\ndata: {\"timestamp\":{\"secs\":1,\"nanos\":2500000},\"source\":\"vm\",\"event\":\"booted\",\"properties\":null}\n\n",
        ": still here\n\n",
        "event: lost\ndata: {\"lost\":3}\n\n",
        "id: 5\ndata: {\"timestamp\":{\"secs\":12,\"nanos\":0},\"source\":\"guest\",\"event\":\"panic\",\"properties\":{\"event\":\"a\\u001bb\"}}\n\n",
        "data: cut o",
    );

    fn printed(format: Format) -> String {
        let mut text = Vec::new();
        follow(STREAM.as_bytes(), &mut |data| print(data, format, &mut text)).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_row_for_people() {
        let lines = printed(Format::Table);
        let lines: Vec<_> = lines.lines().collect();
        assert_eq!(lines[0], "     1.002500  vm             booted");
        assert_eq!(lines[1], "(3 events were lost: this terminal was too slow)");
        assert!(
            lines[2].starts_with("    12.000000  guest          panic  event=a")
                && !lines[2].contains('\u{1b}')
        );
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn a_line_of_json_for_programs() {
        let text = printed(Format::Json);
        let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&events[0]["event"], &events[1]["lost"], events.len()), (&"booted".into(), &3.into(), 3));
    }
}

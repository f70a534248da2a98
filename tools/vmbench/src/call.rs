//! One open connection to a contestant's API: HTTP for this VMM, QMP (docs/interop/qmp-spec.rst of QEMU) for QEMU.

use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use vmbench::results::Contestant;
use vmtest::rest::{read_reply, request_text};

/// Longer than any call takes.
const LIMIT: Duration = Duration::from_secs(600);

/// A connection.
pub(crate) struct Connection {
    stream: BufReader<UnixStream>,
    who: Contestant,
    ping: String,
}

impl Connection {
    /// Connects; a QEMU greets first and wants a word before it takes commands.
    ///
    /// # Errors
    /// Nobody listens.
    pub(crate) fn open(who: Contestant, socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let ping = if who.is_ours() {
            request_text("GET", "vmm.ping", None)
        } else {
            "{\"execute\":\"query-status\"}\n".to_owned()
        };
        let mut connection = Self { stream: BufReader::new(stream), who, ping };
        if !who.is_ours() {
            connection.line("QMP")?;
            connection.send("{\"execute\":\"qmp_capabilities\"}\n")?;
            connection.line("return")?;
        }
        Ok(connection)
    }

    /// The cheapest question there is, and its answer.
    ///
    /// # Errors
    /// The connection breaks or the answer is none.
    pub(crate) fn ping(&mut self) -> io::Result<()> {
        self.stream.get_mut().write_all(self.ping.as_bytes())?;
        if !self.who.is_ours() {
            return self.line("return");
        }
        success(read_reply(&mut self.stream)?)
    }

    /// A GET; this VMM only.
    ///
    /// # Errors
    /// The connection breaks or the request is refused.
    pub(crate) fn get(&mut self, action: &str) -> io::Result<()> {
        self.send(&request_text("GET", action, None))?;
        success(read_reply(&mut self.stream)?)
    }

    /// A PUT with a body; this VMM only.
    ///
    /// # Errors
    /// The connection breaks or the request is refused.
    pub(crate) fn put(&mut self, action: &str, body: &Value) -> io::Result<()> {
        self.send(&request_text("PUT", action, Some(body)))?;
        success(read_reply(&mut self.stream)?)
    }

    /// A PUT without a body; this VMM only.
    ///
    /// # Errors
    /// The connection breaks or the request is refused.
    pub(crate) fn put_nothing(&mut self, action: &str) -> io::Result<()> {
        self.send(&request_text("PUT", action, None))?;
        success(read_reply(&mut self.stream)?)
    }

    /// Makes a change: a PUT of the verb `name`, or the QMP command of that name; returns when it is answered.
    ///
    /// # Errors
    /// The connection breaks or the request is refused.
    pub(crate) fn order(&mut self, name: &str, body: &Value) -> io::Result<()> {
        if self.who.is_ours() {
            return self.put(name, body);
        }
        self.command(name, body).map(drop)
    }

    /// A question without a body, and its answer: a GET, or the QMP command of that name.
    ///
    /// # Errors
    /// The connection breaks or the request is refused.
    pub(crate) fn ask(&mut self, name: &str) -> io::Result<Value> {
        if !self.who.is_ours() {
            return self.command(name, &json!({}));
        }
        self.send(&request_text("GET", name, None))?;
        let reply = read_reply(&mut self.stream)?;
        let answer = serde_json::from_str(&reply.body);
        success(reply)?;
        Ok(answer?)
    }

    /// The reply to what was sent, when it comes; this VMM only.
    ///
    /// # Errors
    /// The connection breaks or the request was refused.
    pub(crate) fn reply(&mut self) -> io::Result<()> {
        success(read_reply(&mut self.stream)?)
    }

    fn command(&mut self, name: &str, body: &Value) -> io::Result<Value> {
        self.send(&format!("{}\n", json!({"execute": name, "arguments": body})))?;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // Events may lie before the answer.
            let mut answer: Value = serde_json::from_str(&line)?;
            if answer.get("error").is_some() {
                return Err(io::Error::other(format!("{name}: {line}")));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    /// Whether something has arrived that was not read yet.
    ///
    /// # Errors
    /// The connection breaks.
    pub(crate) fn has_reply(&mut self) -> io::Result<bool> {
        self.stream.get_ref().set_nonblocking(true)?;
        match self.stream.fill_buf() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a request without waiting for its reply.
    ///
    /// # Errors
    /// The connection breaks.
    pub(crate) fn send(&mut self, text: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(text.as_bytes())
    }

    /// Reads up to the line with this word; events may lie before it.
    fn line(&mut self, word: &str) -> io::Result<()> {
        let mut line = String::new();
        while !line.contains(&format!("\"{word}\"")) {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

fn success(reply: vmtest::rest::Reply) -> io::Result<()> {
    if (200..300).contains(&reply.status) {
        return Ok(());
    }
    Err(io::Error::other(format!("{} {}", reply.status, reply.body)))
}

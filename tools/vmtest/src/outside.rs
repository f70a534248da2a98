//! Programs outside the lab: interpreters and their like, which an emulated CPU would make slow, run on the host and reach the VMM under
//! test over a [`Bridge`](crate::bridge::Bridge).
//!
//! `vmtest outside` runs one program for one test. It reads a request (a line of JSON), then lines for the program's standard input; it
//! writes the program's lines with `out ` or `err ` in front, and at the end `exit N`. The program ends with the connection. In a
//! lab the test reaches it by connecting to `LAB_OUTSIDE`, which QEMU answers by starting it; on the host the test starts it.

use crate::context::Context;
use crate::wait::{self, Limit};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::sync::{Arc, Mutex};
use std::thread;

/// In an argument or a variable of a program outside: the path of a UNIX socket that leads to the bridge.
pub const SOCKET: &str = "{socket}";

/// The host and port that the lab's network answers with `vmtest outside` (`tools/xtask/src/lab.rs`), if this is a lab.
fn address_from_the_lab() -> Option<String> {
    std::env::var("LAB_OUTSIDE").ok()
}

/// The port of this lab that is also one of the host's loopback interface, if this is a lab.
///
/// # Panics
/// The variable is no number.
pub fn port_of_the_lab() -> Option<u16> {
    std::env::var("LAB_PORT").ok().map(|port| port.parse().unwrap())
}

/// A program to be.
#[derive(Debug)]
pub struct Program {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

/// A program that runs outside; it ends when dropped.
pub struct Running {
    input: Box<dyn Write + Send>,
    heard: Receiver<Heard>,
    /// `vmtest outside`, where the test itself started it.
    child: Option<Child>,
}

/// What a program let hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A line of its standard output.
    Line(String),
    /// It ended, with this code if no signal ended it.
    Exit(Option<i32>),
}

impl Program {
    /// The program at `path`, which is the same on both sides.
    pub fn new(path: &Path) -> Self {
        Self { arguments: vec![path.to_string_lossy().into_owned()], environment: Vec::new() }
    }

    /// Adds an argument.
    pub fn arg(&mut self, argument: impl Into<String>) -> &mut Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets a variable.
    pub fn env(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Starts it; `port` is that of the bridge. Its errors are shown if the test fails.
    ///
    /// # Panics
    /// There is no way outside.
    pub fn start(&self, context: &Context, port: u16) -> Running {
        let request =
            json!({"arguments": self.arguments, "environment": self.environment, "port": port}).to_string();
        let (mut input, output, child) = connect();
        writeln!(input, "{request}").unwrap();
        let errors = Arc::new(Mutex::new(String::new()));
        let shown = Arc::clone(&errors);
        context.evidence(format!("errors of {}", self.arguments[0]), move || shown.lock().unwrap().clone());
        let (sender, heard) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let (kind, text) = line.split_once(' ').unwrap_or((&line, ""));
                match kind {
                    "out" => drop(sender.send(Heard::Line(text.to_owned()))),
                    "exit" => drop(sender.send(Heard::Exit(text.parse().ok()))),
                    // Its errors, or those of the way there.
                    _ => errors.lock().unwrap().push_str(&format!("{text}\n")),
                }
            }
        });
        Running { input, heard, child }
    }
}

/// A connection that ends when this end of it is dropped, whoever else still reads from it.
struct HangUp(TcpStream);

impl Write for HangUp {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Drop for HangUp {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

type Ends = (Box<dyn Write + Send>, Box<dyn Read + Send>, Option<Child>);

/// Both ends of a new `vmtest outside`.
fn connect() -> Ends {
    if let Some(address) = address_from_the_lab() {
        let address = address.to_socket_addrs().unwrap().next().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        return (Box::new(HangUp(stream.try_clone().unwrap())), Box::new(stream), None);
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("outside").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    (Box::new(input), Box::new(output), Some(child))
}

impl Running {
    /// Writes a line to its standard input.
    ///
    /// # Panics
    /// It takes none.
    pub fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// What it has let hear, if anything new.
    ///
    /// # Panics
    /// The way outside is broken.
    pub fn try_hear(&mut self) -> Option<Heard> {
        match self.heard.try_recv() {
            Ok(heard) => Some(heard),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => panic!("a program outside ended without a word"),
        }
    }

    /// The next line.
    ///
    /// # Panics
    /// None comes within `limit`, or the program ends.
    pub fn line(&mut self, limit: Limit, what: &str) -> String {
        match wait::until(limit, what, || self.try_hear()) {
            Heard::Line(line) => line,
            Heard::Exit(code) => panic!("instead of {what}, a program ended with {code:?}"),
        }
    }

    /// All its lines until its end, and its exit code. The limit begins anew with each line.
    ///
    /// # Panics
    /// It is not heard of for `limit`.
    pub fn rest(&mut self, limit: Limit, what: &str) -> (String, Option<i32>) {
        let mut text = String::new();
        loop {
            match wait::until(limit, what, || self.try_hear()) {
                Heard::Line(line) => text += &format!("{line}\n"),
                Heard::Exit(code) => return (text, code),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It ends the program and itself when its input does.
        self.input = Box::new(io::sink());
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }
}

/// `vmtest outside`: serves one test. Returns whether there was a program to run.
pub fn serve() -> bool {
    let dir = std::env::temp_dir().join(format!("vmtest-outside-{}", std::process::id()));
    let served = fs::create_dir_all(&dir).and_then(|()| serve_in(&dir));
    let _ = fs::remove_dir_all(&dir);
    if let Err(e) = &served {
        tell("err", &format!("vmtest outside: {e}"));
    }
    served.is_ok()
}

fn serve_in(dir: &Path) -> io::Result<()> {
    let mut request = String::new();
    io::stdin().read_line(&mut request)?;
    let request: Value = serde_json::from_str(&request)?;
    let socket = dir.join("socket");
    let port = request["port"].as_u64().and_then(|port| u16::try_from(port).ok());
    lead(&socket, port.ok_or(io::ErrorKind::InvalidInput)?)?;
    let mut child = command(&request, dir, &socket)?.spawn()?;
    let missing = || io::Error::from(io::ErrorKind::BrokenPipe);
    let output = child.stdout.take().ok_or_else(missing)?;
    let errors = child.stderr.take().ok_or_else(missing)?;
    let input = child.stdin.take().ok_or_else(missing)?;
    feed(input, Pid::from_child(&child));
    thread::scope(|scope| {
        scope.spawn(|| tell_lines("err", errors));
        tell_lines("out", output);
    });
    let status = child.wait()?;
    tell("exit", &status.code().map_or_else(|| "?".to_owned(), |code| code.to_string()));
    Ok(())
}

fn command(request: &Value, dir: &Path, socket: &Path) -> io::Result<Command> {
    let text = |value: &Value| value.as_str().unwrap_or_default().replace(SOCKET, &socket.to_string_lossy());
    let arguments: Vec<String> = request["arguments"].as_array().into_iter().flatten().map(text).collect();
    let (program, arguments) = arguments.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(dir);
    for pair in request["environment"].as_array().into_iter().flatten() {
        command.env(text(&pair[0]), text(&pair[1]));
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// A UNIX socket at `path` whose clients reach the bridge.
fn lead(path: &PathBuf, port: u16) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || -> io::Result<()> {
                let server = TcpStream::connect(("127.0.0.1", port))?;
                server.set_nodelay(true)?;
                thread::scope(|scope| {
                    scope.spawn(|| {
                        let _ = io::copy(&mut &client, &mut &server);
                        server.shutdown(Shutdown::Write)
                    });
                    let _ = io::copy(&mut &server, &mut &client);
                    client.shutdown(Shutdown::Both)
                })
            });
        }
    });
    Ok(())
}

/// Hands lines to the program; the test's end is the program's end.
fn feed(mut input: ChildStdin, program: Pid) {
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            // A program that reads nothing may not mind.
            let _ = writeln!(input, "{line}");
        }
        kill_process(program, Signal::KILL)
    });
}

fn tell_lines(kind: &str, from: impl Read) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while matches!(from.read_until(b'\n', &mut line), Ok(1..)) {
        tell(kind, String::from_utf8_lossy(&line).trim_end_matches('\n'));
        line.clear();
    }
}

/// A line for the test; it may be gone.
fn tell(kind: &str, text: &str) {
    let _ = io::stdout().lock().write_all(format!("{kind} {text}\n").as_bytes());
}

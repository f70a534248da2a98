//! Clients of the REST API that others wrote or generated, driven by the guest tests: `clients NAME SOCKET`.
//!
//! Standard input has a call a line, a verb and perhaps its body: `vm.create {"payload":...}`. Each is answered with a line of JSON:
//! `{"reply": ...}` with what the client made of the reply, `{"status": 404}` if it told of a refusal, `{"broken": "..."}` if it did
//! not understand what it was told. `python/generated.py` speaks the same.

mod generated;
mod published;

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::{Value, json};
use thiserror::Error;

/// Why a call has no reply.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// The server refused, as far as the client can tell.
    #[error("refused with {0}")]
    Status(u16),
    /// The client has no such call.
    #[error("no call for {0}")]
    NoCall(String),
    /// The test's body is not of the client's type.
    #[error("the body does not fit the client's type")]
    Body(#[from] serde_json::Error),
    /// The client did not understand the reply, or got none.
    #[error("{0}")]
    Broken(String),
}

/// One of the clients.
enum Client {
    Published(published::Client),
    Generated(generated::Client),
}

impl Client {
    fn new(name: &str, socket: &Path) -> Result<Self, Box<dyn Error>> {
        match name {
            "published" => Ok(Self::Published(published::connect(socket))),
            "generated" => Ok(Self::Generated(generated::connect(socket)?)),
            _ => Err(format!("no client {name}: published or generated").into()),
        }
    }

    async fn call(&self, verb: &str, body: Value) -> Result<Value, Failure> {
        match self {
            Self::Published(client) => published::call(client, verb, body).await,
            Self::Generated(client) => generated::call(client, verb, body).await,
        }
    }
}

/// What a client made of a reply's body, as JSON again.
pub(crate) fn told<T: Serialize, E: Into<Failure>>(reply: Result<T, E>) -> Result<Value, Failure> {
    let reply = reply.map_err(Into::into)?;
    Ok(serde_json::to_value(reply)?)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, socket] = arguments.as_slice() else {
        return Err("usage: clients published|generated SOCKET".into());
    };
    let client = Client::new(name, Path::new(socket))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (verb, body) = line.split_once(' ').unwrap_or((&line, "null"));
        let answer = match runtime.block_on(client.call(verb, serde_json::from_str(body)?)) {
            Ok(reply) => json!({ "reply": reply }),
            Err(Failure::Status(status)) => json!({ "status": status }),
            Err(error) => {
                json!({ "broken": format!("{error}: {:?}", error.source().map(ToString::to_string)) })
            }
        };
        writeln!(std::io::stdout(), "{answer}")?;
    }
    Ok(())
}

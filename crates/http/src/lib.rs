//! The REST door: HTTP/1 over a UNIX socket, in front of [`api::Client`] (`spec/rest-api.md` §1–3, `spec/README.md`).
//!
//! The door knows no verb: it finds one by its path, calls it, and writes down what came of it. The socket is bound on the main thread
//! ([`bind`]), so that clients can connect before anything else is ready; everything after that happens on one thread, `http-server`
//! ([`serve`]), where every connection is a task. Reads are answered on that thread, commands when the control loop replies.
//!
//! ```text
//!  listen ── server ── connection ── exchange ── api::Verb::call
//!  socket    accept,   one client:   route,          │ oneshot
//!  and lock  limits    hyper over    body, ──────── reply
//!                      stream        reply
//! ```

mod body;
mod connection;
mod events;
mod exchange;
mod listen;
mod metrics;
mod pages;
mod profile;
mod reply;
mod server;
mod stream;

pub use listen::{BindError, Bound, Listen, bind};
pub use pages::{PAGES, Page};
pub use server::{ServeError, Server, StopError, serve};

#[cfg(test)]
mod tests;

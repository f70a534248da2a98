//! The stub for debuggers: `--gdb path=SOCKET` (`spec/cli.md` §1), where gdb attaches with `target remote SOCKET`.
//!
//! ```text
//!  gdb ── remote protocol ──▶ thread gdb: Wire, gdbstub, Session ── Debugger ──▶ vCPU threads, RAM
//!                                              ▲
//!                   control ── DebugDesk ──────┘   which machine there is
//! ```
//! Each vCPU is a thread with its number plus one. One client is served at a time. A machine waits for the first client before it runs;
//! after a client has detached, or is gone, the guest runs on, and so do machines that come later.
//!
//! Whoever can connect owns the guest: the socket is its owner's only, like all files that the VMM makes.

mod breakpoints;
mod registers;
mod server;
mod session;
mod target;
#[cfg(test)]
mod tests;
mod wire;

pub use machine::DebugDesk;
pub use server::{BindError, Bound, ServeError, Server, bind, serve};

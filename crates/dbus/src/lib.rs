//! The D-Bus door: every verb as a method of one object, every event as a signal (`spec/dbus.md`). One thread, `dbus-thread`, with a
//! tokio runtime inside; [`serve`] and [`Server::stop`] are called on the main thread.
//!
//! Methods, their arguments and their introspection come from the command table: a verb needs no line here.
//!
//! ```text
//!  bus --message--> Door (zbus' dispatcher) --request--> Verb::call --> control loop, or a read
//!   ^                                                                        |
//!   +--reply, a task each-- error name = code, text = chain <--- Outcome ----+
//!   +--signal Event------- event log
//! ```

mod door;
mod events;
mod introspection;
mod profile;
mod request;
mod server;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use server::{Bus, ServeError, Server, Settings, StopError, serve};

#[cfg(test)]
mod tests;

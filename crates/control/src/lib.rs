//! The control loop: the one owner of the machine and the only receiver of commands.
//!
//! ```text
//!  doors --Command--> inbox ─┐
//!  guest --Event bits--------┼--> Control::run, one thing at a time --> Machine
//!  signals ------------------┘            |
//!                                         +--> Published (what reads answer from)
//! ```

mod blame;
mod confine;
mod control;
mod jobs;
mod missing;
mod monitor;
mod profile;
mod published;
mod resize;
mod sections;
mod verbs;

#[cfg(test)]
mod tests;

pub use control::{Control, Ended, OpenHypervisor, Options};
pub use monitor::Monitor;
pub use profile::enter_filter;
pub use published::Published;

//! What the host kernel offers, wrapped: event descriptors, timers, signals, terminals, memory files.
//!
//! This crate knows nothing of virtual machines. The event primitives are rust-vmm's; what it lacks stands in the modules here.

// Signals and terminals have no safe binding.
#![allow(unsafe_code)]

pub mod allowance;
mod boot_time;
pub mod calendar;
pub mod heap;
pub mod identity;
pub mod inherit;
pub mod kick;
pub mod lock;
pub mod outlet;
pub mod own_file;
pub mod pty;
pub mod signals;
pub mod terminal;
pub mod unix_socket;

pub use boot_time::boot_time;
pub use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
pub use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
pub use vmm_sys_util::timerfd::TimerFd;

/// A new event descriptor: close-on-exec, never blocking.
///
/// # Errors
/// The kernel's, usually `EMFILE`.
pub fn event_fd() -> std::io::Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
}

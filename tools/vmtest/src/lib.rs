//! The guest-test harness. A test is a short function that builds a VM ([`vm::Builder`]), runs commands in the guest
//! ([`agent::Agent`]) and asserts; a failure shows the guest's consoles, the VMM's log and the request transcript.
//!
//! The VMM is driven from outside only, as a user would: command line, REST socket, consoles, event file. Everything waits for conditions
//! with a deadline ([`wait::until`]); a missed deadline is a panic, and a panic is a failed test.

#![allow(clippy::panic, clippy::unwrap_used, clippy::print_stdout)] // a failed test is a panic, its report is printed

pub mod agent;
pub mod bridge;
pub mod bus;
pub mod config;
pub mod console;
pub mod context;
pub mod events;
pub mod foreign;
pub mod gdb;
pub mod host;
pub mod outside;
pub mod process;
pub mod rest;
pub mod runner;
pub mod vm;
pub mod wait;

//! The configuration of a machine.

//! What the guest's program and those who listen to it must agree on.

pub mod scale;
